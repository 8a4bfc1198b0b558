"""Decide which channels stay: scores and a budget in, a plan out. Costs are computed from shapes, no model is built."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import ceil, floor

import numpy as np

from yolo_slim.channels.groups import FIXED, Group, Ints, Trace
from yolo_slim.errors import SlimError

NORM_OPS = 4  # thop's count per element of a batch norm in inference; half of it without scale and shift
SLACK = 1e-9  # so that 0.3 * 10 is 3 channels, not 2


@dataclass(frozen=True)
class Budget:
    """What a detector costs: `params` in numbers, `macs` in multiply-accumulates per image as thop counts them."""

    params: int
    macs: int

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.macs


class Costs:
    """The cost of every plan of a trace, as a function of how many channels each group keeps.

    Convolution: positions * kernel * in/groups * out MACs; batch norm: 4 per element, as thop counts it. So the sum
    equals `thop.profile` on the detector that the plan would give (algorithms: cost accounting).
    """

    def __init__(self, trace: Trace) -> None:
        self.groups = trace.groups
        owner = np.full(trace.n_channels + 1, len(trace.groups))  # FIXED = -1 finds the last entry
        for i, group in enumerate(trace.groups):
            owner[group.channels] = i
        width = len(trace.groups) + 1

        def occupancy(slots: list[Ints]) -> np.ndarray:
            return np.array([np.bincount(owner[s], minlength=width) for s in slots]).reshape(len(slots), width)

        convs, norms = list(trace.convs.values()), list(trace.norms.values())
        # (layers, groups + 1): how many slots each channel of a group fills; the last column: slots that are fixed
        sizes = np.array([g.size for g in trace.groups] + [1])
        self.inputs = occupancy([c.inputs for c in convs]) / sizes
        self.outputs = occupancy([c.outputs for c in convs]) / sizes
        self.scales = occupancy([n.channels for n in norms]) / sizes
        self.dense = np.array([not c.depthwise for c in convs])
        self.kernel = np.array([c.kernel for c in convs], float)
        self.positions = np.array([c.positions for c in convs], float)
        self.split = np.array([1 if c.depthwise else c.groups for c in convs], float)
        self.bias = np.array([c.bias for c in convs], float)
        self.norm_positions = np.array([n.positions for n in norms], float)
        self.affine = np.array([n.affine for n in norms], float)
        self.full = np.array([g.size for g in trace.groups])
        self.other_params = 0
        self.other_params = trace.params - self.of(self.full).params

    def of(self, keeps: np.ndarray) -> Budget:
        """The cost when group i keeps `keeps[i]` channels."""
        k = np.append(keeps, 1)
        into = np.where(self.dense, self.inputs @ k, 1) / self.split
        out, scales = self.outputs @ k, self.scales @ k
        weights = self.kernel * into * out
        params = weights.sum() + self.bias @ out + 2 * (self.affine @ scales) + self.other_params
        macs = self.positions @ weights + NORM_OPS / 2 * ((self.norm_positions * (1 + self.affine)) @ scales)
        return Budget(round(params), round(macs))


@dataclass(frozen=True)
class Plan:
    """Which channels stay: `kept` is a bool per channel of the trace it was made for."""

    kept: np.ndarray

    def outputs(self, trace: Trace) -> dict[str, list[int]]:
        """Convolution's module name -> indices of the output channels that stay, for those that lose any."""
        stay = {c.name: np.flatnonzero((c.outputs == FIXED) | self.kept[c.outputs]) for c in trace.convs.values()}
        return {name: i.tolist() for name, i in stay.items() if len(i) < len(trace.convs[name].outputs)}

    def keeps(self, trace: Trace) -> np.ndarray:
        """How many channels each group of the trace keeps."""
        return np.array([int(self.kept[g.channels].sum()) for g in trace.groups])


@dataclass(frozen=True)
class Selection:
    """A plan, with what was asked and what it achieves."""

    plan: Plan
    before: Budget
    after: Budget
    asked: dict[str, float]
    achieved: dict[str, float]
    looser: dict[str, float] = field(default_factory=dict)  # the same, one channel earlier: misses the target
    scores: dict[str, np.ndarray] = field(default_factory=dict)  # what it was chosen by: group name -> (n,)


def plan_from_kept(trace: Trace, outputs: Mapping[str, Sequence[int]]) -> Plan:
    """Replay a saved cut: convolution -> output indices that stay. Convolutions not named keep everything.

    Raises:
        SlimError: a name or index that the detector does not have, or tied layers that disagree.
    """
    votes = np.full(trace.n_channels, -1)
    for name, indices in outputs.items():
        if name not in trace.convs:
            raise SlimError(f"the cut names a convolution that this detector does not have: {name}")
        slots = trace.convs[name].outputs
        if any(not 0 <= i < len(slots) for i in indices):
            raise SlimError(f"the cut keeps outputs of {name} that it does not have: it has {len(slots)}")
        stay = np.zeros(len(slots), bool)
        stay[list(indices)] = True
        for channel, keep in zip(slots, stay, strict=True):
            if channel == FIXED and not keep:
                raise SlimError(f"the cut removes a channel of {name} that must stay")
            if channel == FIXED:
                continue
            if votes[channel] not in (-1, keep):
                raise SlimError(f"the cut contradicts itself at {name}: a layer tied to it keeps other channels")
            votes[channel] = keep
    kept = votes != 0
    for group in trace.groups:
        if group.reason and not kept[group.channels].all():
            raise SlimError(f"the cut removes channels of {group.name}, which must stay: {group.reason}")
        if not kept[group.channels].any():
            raise SlimError(f"the cut leaves nothing of {group.name}: at least one channel must stay")
    return Plan(kept)


def select(
    trace: Trace,
    scores: Mapping[str, np.ndarray],
    *,
    scope: str = "global",
    ratio: float | None = None,
    target: Mapping[str, float] | None = None,
    layers: Mapping[str, float] | None = None,
    min_keep: float = 0.05,
    min_channels: int = 8,
    round_to: int = 8,
    exclude: Sequence[str] = (),
    whole: Trace | None = None,
    may_empty: Collection[str] = (),
) -> Selection:
    """Remove the channels with the smallest scores until the ratio or the target is met.

    Args:
        trace: of the detector.
        scores: group name -> (n,) score of each of its channels, high = keep, infinite = never remove.
        scope: `global` compares scores over the whole detector; `layer` removes the same share of every group.
        ratio: share of all prunable channels to remove; exactly floor(ratio * n) go when nothing is rounded.
        target: `flops` and/or `params` -> the share of it that may stay. Met from below, within one rounding step.
        layers: pattern of module names -> share of the channels to remove there; the rest follows ratio or target.
        min_keep: share of each group that stays at least.
        min_channels: channels of each group that stay at least.
        round_to: kept widths are rounded up to a multiple of this, never above the group's own width.
        exclude: patterns of module names that stay whole.
        whole: trace of the detector before residual branches were dropped, of which ratio and target are shares and
            whose layers the patterns name; None: nothing was dropped.
        may_empty: names of groups that may lose all of their channels, as far as the floors allow.

    Ties go by order: the earlier group, then the lower index, is removed first. A group's channel counts once,
    however many layers produce it.

    Raises:
        SlimError: nothing to do, a pattern that matches nothing, or a target below what the floors allow.
    """
    if ratio is None and not target and not layers and whole is None:
        raise SlimError(
            "nothing says how much to prune: give prune.ratio, prune.target.flops, prune.target.params or prune.layers"
        )
    full = Costs(whole or trace)
    once_open, once_fixed = _patterns(whole or trace, exclude, layers or {})
    costs = full if whole is None else Costs(trace)
    groups = list(trace.groups)
    open_, fixed_ratio = _patterns(trace, exclude, layers or {}, may_miss=whole is not None)

    sizes = np.array([g.size for g in groups])
    least = [0 if g.name in may_empty else 1 for g in groups]
    floors = np.array(
        [min(n, max(one, min_channels, ceil(min_keep * n - SLACK))) for n, one in zip(sizes, least, strict=True)]
    )
    floors = _round_up(floors, round_to, sizes)
    ranked = [_ascending(scores, g) if free else np.empty(0, np.int64) for g, free in zip(groups, open_, strict=True)]
    finite = np.array(
        [int(np.isfinite(scores[g.name]).sum()) if free else 0 for g, free in zip(groups, open_, strict=True)]
    )
    removable = np.where(open_, np.minimum(sizes - floors, finite), 0)

    forced = ~np.isnan(fixed_ratio) & open_
    fixed = np.where(forced, np.floor(np.nan_to_num(fixed_ratio) * sizes + SLACK), 0).astype(int)
    fixed = np.minimum(fixed, removable)
    order = _order(groups, scores, ranked, np.where(forced, 0, removable), scope)  # group of the 1st, 2nd, ... to go

    def keeps(step: int) -> np.ndarray:
        removed = fixed + np.bincount(order[:step], minlength=len(groups))
        return _round_up(sizes - removed, round_to, sizes)

    def shares(step: int) -> dict[str, float]:
        k = keeps(step)
        c = costs.of(k)
        return {
            "flops": c.macs / before.macs,
            "params": c.params / before.params,
            "channels": float(k[open_ & ~forced].sum() / n_free) if n_free else 1.0,
        }

    before = full.of(full.full)
    n_free = int(full.full[once_open & np.isnan(once_fixed)].sum())
    if scope == "layer" and ratio is not None:
        fixed = np.where(open_ & ~forced, np.minimum(np.floor(ratio * sizes + SLACK).astype(int), removable), fixed)
        removable = np.where(forced, 0, removable - fixed)
        ranked_left = [r[f:] for r, f in zip(ranked, fixed, strict=True)]
        order = _order(groups, scores, ranked_left, removable, scope)
        asked = {"channels": 1 - ratio} | dict(target or {})
        step = _first_step(shares, dict(target or {}), len(order))
    else:
        asked = dict(target or {})
        if ratio is not None and n_free:
            asked["channels"] = 1 - floor(ratio * n_free + SLACK) / n_free
        step = _first_step(shares, asked, len(order))
    chosen = keeps(step)
    kept = np.ones(trace.n_channels, bool)
    for group, rank, k in zip(groups, ranked, chosen, strict=True):
        kept[group.channels[rank[: group.size - k]]] = False
    achieved = shares(step)
    looser = shares(step - 1) if step else {}
    return Selection(Plan(kept), before, costs.of(chosen), asked, achieved, looser)


def _first_step(shares: object, asked: dict[str, float], last: int) -> int:
    """The fewest removals that meet every target: cost never rises with another removal, so bisect."""

    def met(step: int) -> bool:
        now = shares(step)  # type: ignore[operator]
        return all(now[key] <= share + SLACK for key, share in asked.items())

    if not met(last):
        now = shares(last)  # type: ignore[operator]
        wanted = ", ".join(
            f"{key} x{share:.3f} (lowest possible: x{now[key]:.3f})" for key, share in asked.items() if now[key] > share
        )
        raise SlimError(
            f"the target cannot be met: {wanted}. Ask for less, or lower prune.min_keep, prune.min_channels "
            "or prune.round_to, or shorten prune.exclude"
        )
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if met(middle) else (middle + 1, high)
    return low


def _order(
    groups: list[Group], scores: Mapping[str, np.ndarray], ranked: list[Ints], removable: np.ndarray, scope: str
) -> Ints:
    """The group that loses a channel at the first, second, ... removal; floors are respected by construction."""
    keys, owners, ranks = [], [], []
    for i, (group, rank, n) in enumerate(zip(groups, ranked, removable, strict=True)):
        ranks.append(np.arange(n))
        owners.append(np.full(n, i))
        # layer scope: every group at the same share, so the share itself is the score
        keys.append(scores[group.name][rank[:n]] if scope == "global" and n else (np.arange(n) + 1) / group.size)
    key, owner, rank = np.concatenate(keys), np.concatenate(owners), np.concatenate(ranks)
    return owner[np.lexsort((rank, owner, key))]


def _ascending(scores: Mapping[str, np.ndarray], group: Group) -> Ints:
    score = scores[group.name]
    if len(score) != group.size or np.isnan(score).any():
        raise SlimError(
            f"expected {group.size} finite scores for {group.name}, got {len(score)} of which "
            f"{int(np.isnan(score).sum())} are NaN. Is the checkpoint sound?"
        )
    return np.argsort(score, kind="stable")


def _round_up(keeps: np.ndarray, round_to: int, sizes: np.ndarray) -> np.ndarray:
    return np.minimum(-(-keeps // round_to) * round_to, sizes)


def _patterns(
    trace: Trace, exclude: Sequence[str], layers: Mapping[str, float], may_miss: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """For every group: may it be cut, and the share to remove there (not a number: the general rule)."""
    open_ = np.array([g.reason is None for g in trace.groups])
    fixed_ratio = np.full(len(trace.groups), np.nan)
    for pattern in exclude:
        open_[_matching(trace, pattern, "prune.exclude", may_miss)] = False
    for pattern, share in layers.items():
        fixed_ratio[_matching(trace, pattern, "prune.layers", may_miss)] = share
    return open_, fixed_ratio


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern means this module; `model.2` stands for everything below it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _matching(trace: Trace, pattern: str, setting: str, may_miss: bool) -> list[int]:
    """Groups with a producer whose module name matches."""
    found = [i for i, g in enumerate(trace.groups) if any(matches(p, pattern) for p in g.producers)]
    if not found and not may_miss:  # else it named layers of a branch that is gone
        names = [p.removesuffix(".conv") for g in trace.groups for p in g.producers]
        near = get_close_matches(pattern.removesuffix(".conv"), names, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SlimError(f"{setting}: {pattern} matches no layer{hint} (`yolo-slim inspect` lists them)")
    return found
