"""Decide which channels stay: scores and a budget in, a selection out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor
from operator import itemgetter

import numpy as np

from yolo_slim.channels import knapsack, sensitivity
from yolo_slim.channels.constraints import Constraints
from yolo_slim.channels.costs import Budget
from yolo_slim.channels.groups import Group, Ints, Trace
from yolo_slim.channels.meter import Meter
from yolo_slim.channels.patterns import by_pattern, counted
from yolo_slim.channels.space import SLACK, Space, excess, lowest, met, round_up
from yolo_slim.errors import SlimError


@dataclass(frozen=True)
class Selection:
    """Which channels stay; what was asked and is achieved: shares of the original by name, `size_mb` in megabytes."""

    kept: np.ndarray  # bool per channel
    before: Budget
    after: Budget
    asked: dict[str, float]
    achieved: dict[str, float]
    looser: dict[str, float] = field(default_factory=dict)  # the same, one removal fewer: misses the target
    tighter: dict[str, float] = field(default_factory=dict)  # the same, the next narrower plan
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)  # that decided, by group
    measured: dict[str, float] = field(default_factory=dict)  # of what `achieved` foretells, by whoever can measure

    def __repr__(self) -> str:
        return f"<Selection: {self.summary}>"

    @property
    def summary(self) -> str:
        """In a line: parameters, what was achieved, and what was asked for."""
        asked, got = (
            ", ".join(f"{name} {amount(name, value)}" for name, value in found.items())
            for found in (self.asked, self.achieved)
        )
        return (
            f"{self.before.params / 1e6:.3f} M -> {self.after.params / 1e6:.3f} M parameters, {got} "
            f"(asked for {asked or 'ratios by layer'})"
        )


def select(trace: Trace, scores: Mapping[str, np.ndarray], by: Constraints) -> Selection:
    """Choose how many channels each group keeps, so that the ratio and every target are met; the best of them stay.

    Ties go by order: the earlier group, then the lower index, is removed first. A group's channel counts once,
    however many layers produce it.

    Args:
        trace: of the detector.
        scores: group name -> (n,) score of each of its channels, high = keep, infinite = never remove.
        by: how much goes, and from where.

    Raises:
        SlimError: a pattern that matches nothing, or a target below what the floors allow.
    """
    free, share = by_pattern(trace, by.exclude, by.layers, may_miss=by.whole is not None)
    if by.exclude and not free.any() and not by.target:  # a target says itself that it cannot be met
        raise SlimError("prune.exclude keeps every layer whole: nothing is left to prune")
    space = _space(trace, scores, free, share, by)
    meter = _meter(trace, space, by)
    asked = _asked(meter, by.target)
    if by.ratio is not None and by.scope == "layer":
        space = space.without(np.floor(by.ratio * space.sizes + SLACK))
        wanted, asked = asked, {"channels": 1 - by.ratio} | asked
    else:
        n = meter.total
        asked |= {"channels": 1 - floor(by.ratio * n + SLACK) / n} if by.ratio is not None and n else {}
        wanted = asked

    scanned = by.method == "sensitivity"
    keys = sensitivity.removal_keys(space, by.curves or {}) if scanned else _keys(space, by.scope)
    keeps, looser, tighter, reached = _threshold(space, keys, meter, wanted, by.tolerance)
    if by.method == "knapsack" or not reached:
        keeps, looser, tighter = knapsack.improve(keeps, space, meter, wanted)

    kept = np.ones(trace.n_channels, bool)
    for group, rank, k in zip(space.groups, space.ranked, keeps, strict=True):
        kept[group.channels[rank[: group.size - k]]] = False
    fewer, more = ({} if other is None else meter.of(other) for other in (looser, tighter))
    return Selection(kept, meter.before, meter.costs.of(keeps), asked, meter.of(keeps), fewer, more)


def _meter(trace: Trace, space: Space, by: Constraints) -> Meter:
    total = None
    if by.whole is not None:
        among = counted(by.whole, by.exclude, by.layers)
        total = sum(g.size for g, is_free in zip(by.whole.groups, among, strict=True) if is_free)
    return Meter(trace, space.counted, by.tables, by.overhead, whole=by.whole, total=total, layers=by.latency)


def amount(name: str, value: float) -> str:
    """A cost as people read it: `x0.500` of the original, `2.50 MB` or `12.30 ms`."""
    unit = {"size_mb": "MB", "latency_ms": "ms"}.get(name)
    return f"{value:.2f} {unit}" if unit else f"x{value:.3f}"


def _asked(meter: Meter, target: Mapping[str, float]) -> dict[str, float]:
    known = meter.of(meter.full).keys() - {"channels"}
    for name in target.keys() - known:
        needs = {
            "size_mb": "the overhead of a checkpoint",
            "latency": "a table of layers, which `yolo-slim prune` measures",
        }
        needs["latency_ms"] = needs["latency"]
        why = f"needs {needs[name]}" if name in needs else f"is none of {', '.join(sorted(known))}"
        raise SlimError(f"prune.target.{name} {why}")
    return dict(target)


def _space(
    trace: Trace, scores: Mapping[str, np.ndarray], free: np.ndarray, share: np.ndarray, by: Constraints
) -> Space:
    groups = trace.groups
    sizes = np.array([g.size for g in groups])
    least = [0 if g.name in by.may_empty else 1 for g in groups]
    floors = np.array(
        [min(n, max(one, by.min_channels, ceil(by.min_keep * n - SLACK))) for n, one in zip(sizes, least, strict=True)]
    )
    floors = round_up(floors, by.round_to, sizes)
    ranked = [_ascending(scores, g) if f else np.empty(0, np.int64) for g, f in zip(groups, free, strict=True)]
    worth = [scores[g.name][rank] if len(rank) else np.empty(0) for g, rank in zip(groups, ranked, strict=True)]
    finite = np.array([int(np.isfinite(w).sum()) for w in worth])
    removable = np.where(free, np.minimum(sizes - floors, finite), 0)
    forced = ~np.isnan(share) & free
    fixed = np.minimum(np.where(forced, np.floor(np.nan_to_num(share) * sizes + SLACK), 0).astype(int), removable)
    return Space(groups, sizes, ranked, worth, fixed, np.where(forced, 0, removable), free & ~forced, by.round_to)


def _keys(space: Space, scope: str) -> list[np.ndarray]:
    """For each group, the score of the 1st, 2nd, ... channel to go; in layer scope the share gone is the score."""
    if scope == "layer":
        return [(np.arange(n) + 1) / size for size, n in zip(space.sizes, space.removable, strict=True)]
    return [worth[:n] for worth, n in zip(space.worth, space.removable, strict=True)]


def _threshold(
    space: Space, keys: list[np.ndarray], meter: Meter, asked: Mapping[str, float], tolerance: float | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, bool]:
    """Remove by rising key, as little as meets every target: cost hardly ever rises with another removal, so bisect.

    Returns:
        widths that meet the targets, those of one removal fewer, those of the removals that it takes to change any
        (None: there is none), and whether removals by key alone come to that. If not, the widths are those of the
        least cost, and other removals may do as well.
    """
    key = np.concatenate(keys)
    owner = np.repeat(np.arange(len(keys)), space.removable)  # group that loses a channel
    rank = np.concatenate([np.arange(n) for n in space.removable])
    order = np.lexsort((rank, owner, key))

    def keeps(step: int) -> np.ndarray:
        return space.keeps(np.bincount(owner[order[:step]], minlength=len(space.groups)))

    last = len(order)
    if not met(meter.of(keeps(last)), asked):
        return _least(space, meter, asked), None, None, False
    low, high = 0, last
    if tolerance is not None:
        low = high = int((key <= tolerance).sum())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if met(meter.of(keeps(middle)), asked) else (middle + 1, high)
    here = keeps(low)
    further = map(keeps, range(low + 1, last + 1))  # rounding may bring back what goes
    return here, keeps(low - 1) if low else None, next((k for k in further if (k < here).any()), None), True


def _least(space: Space, meter: Meter, asked: Mapping[str, float]) -> Ints:
    """The widths by which targets are missed the least: not the narrowest where time falls with width.

    Raises:
        SlimError: they are missed even so.
    """
    found = lowest(space, meter, lambda now: excess(now, asked))
    if not met(meter.of(found), asked):
        least = {name: lowest(space, meter, itemgetter(name)) for name in asked}
        raise _unreachable({name: meter.of(widths)[name] for name, widths in least.items()}, asked)
    return found


def _unreachable(lowest: Mapping[str, float], asked: Mapping[str, float]) -> SlimError:
    wanted = ", ".join(
        f"{name} {amount(name, share)} (lowest possible: {amount(name, lowest[name])})"
        for name, share in asked.items()
        if lowest[name] > share
    )
    return SlimError(
        f"the target cannot be met: {wanted}. Ask for less, or lower prune.min_keep, prune.min_channels "
        "or prune.round_to, or shorten prune.exclude"
    )


def _ascending(scores: Mapping[str, np.ndarray], group: Group) -> Ints:
    score = scores[group.name]
    if len(score) != group.size or np.isnan(score).any():
        raise SlimError(
            f"expected {group.size} finite scores for {group.name}, got {len(score)} of which "
            f"{int(np.isnan(score).sum())} are NaN. Is the checkpoint sound?"
        )
    return np.argsort(score, kind="stable")
