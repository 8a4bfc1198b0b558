"""From what each layer says of a channel to one score a channel, comparable over groups."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Group, Trace
from yolo_slim.errors import SlimError
from yolo_slim.importance.evidence import Evidence
from yolo_slim.importance.per_cost import savings
from yolo_slim.mould import duplicate

Rows: TypeAlias = dict[str, np.ndarray]
"""Group name -> (m, n): raw scores of its n channels, a row for each slot in a layer that has something to say."""

Criterion = Callable[[nn.Module, Trace, Evidence], Rows]
"""A criterion: high = keep. No rows for a group: it cannot say."""

CRITERIA: dict[str, Criterion] = {}
"""Name -> criterion, those of your own among them: `CRITERIA["mine"] = function`."""


def scored(
    *, normalize: str = "none", per_cost: str = "none", additive: bool = False
) -> Callable[[Criterion], Criterion]:
    """Say how a criterion's scores are made comparable over layers where the settings leave it open (`auto`).

    Without it they are taken as they are: in a unit of their own, such as loss, or a share of something.

    Args:
        normalize: mean, l2 or lamp, for scores whose size depends on the layer's shape, or on weights that the next
            batch norm rescales.
        per_cost: memory, flops or params, for scores that are to be divided by what removing the channel saves.
        additive: whether the scores of all that goes add up to what is lost, in one unit for all layers: a budget then
            buys the largest sum (`prune.solver=auto` is knapsack).
    """

    def mark(judge: Criterion) -> Criterion:
        judge.normalize, judge.per_cost, judge.additive = normalize, per_cost, additive  # type: ignore[attr-defined]
        return judge

    return mark


def _lamp(scores: np.ndarray) -> np.ndarray:
    """Each squared score over the sum of all that are not smaller (LAMP, Lee et al. 2021, arXiv:2010.07611, 2)."""
    order = np.argsort(scores, kind="stable")
    squares = scores[order] ** 2
    left = np.cumsum(squares[::-1])[::-1]
    lamp = np.empty(len(scores))
    lamp[order] = squares / np.where(left > 0, left, 1.0)
    return lamp


REDUCE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "max": lambda x: x.max(0),  # the union of the producers' own selections
    "mean": lambda x: x.mean(0),
    "sum": lambda x: x.sum(0),
    "l2": lambda x: np.sqrt((x**2).mean(0)),
    "first": lambda x: x[0],
}

NORMALIZE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda s: s,
    "mean": lambda s: s / (s.mean() or 1.0),
    "l2": lambda s: s / (np.sqrt((s**2).mean()) or 1.0),
    "lamp": _lamp,
}


def score(
    detector: nn.Module,
    trace: Trace,
    criterion: str = "bn_scale",
    *,
    group_reduce: str = "l2",
    normalize: str = "auto",
    per_cost: str = "auto",
    evidence: Evidence | None = None,
) -> dict[str, np.ndarray]:
    """One score a channel, high = keep: group name -> (n,) float64.

    Args:
        detector: with the weights to judge; scored in fp32.
        trace: of the detector.
        criterion: a name in `CRITERIA`, or `module:function`.
        group_reduce: joins the producers of a group: max, mean, sum, l2 (root mean square) or first.
        normalize: none; mean or l2 divide by the group's own; lamp: share of the squares that are not smaller, so that
            the best channel of each group scores 1; auto: as the criterion says (see `scored`), else none.
        per_cost: none; memory, flops or params divide by what removing one channel of the group saves; auto: as
            the criterion says, else none.
        evidence: images and labelled batches for the criteria that look at them, and how to look.

    A group about which the criterion can say nothing (no batch norm for bn_scale) scores infinite: it stays whole.

    Raises:
        SlimError: an unknown criterion, one that cannot be imported, or one that fails or returns something else than
            scores.
    """
    judge = criterion_of(criterion)
    if normalize == "auto":
        normalize = getattr(judge, "normalize", "none")
    if per_cost == "auto":
        per_cost = getattr(judge, "per_cost", "none")
    found = _judged(judge, criterion, detector, trace, evidence or Evidence())
    saved = savings(trace, per_cost)
    scores = {}
    for group in trace.groups:
        nothing = np.empty((0, group.size))
        rows = found.get(group.name, nothing) if group.reason is None else nothing
        scores[group.name] = (
            NORMALIZE[normalize](REDUCE[group_reduce](rows)) / saved[group.name]
            if len(rows)
            else np.full(group.size, np.inf)
        )
    return scores


def _judged(judge: Criterion, name: str, detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """What a criterion says; one of the user's own is held to what it owes, and may do to its detector what it likes.

    Raises:
        SlimError: it raises, or returns something else than rows of scores.
    """
    if str(getattr(judge, "__module__", "")).startswith(f"{__package__}."):
        return judge(detector, trace, evidence)
    try:
        found = judge(duplicate(detector), trace, evidence)
    except SlimError:
        raise
    except (Exception, SystemExit) as e:  # it is the user's, and may raise anything
        raise SlimError(f"prune.criterion={name} raised {type(e).__name__}: {e} ({_place(e)})") from e
    expected = f"prune.criterion={name}: expected a dict, name of each group in trace.free -> scores (rows, channels)"
    if not isinstance(found, Mapping):
        raise SlimError(f"{expected}, got a {type(found).__name__}")
    names = [group.name for group in trace.groups]
    if strange := [key for key in found if key not in names]:
        near = get_close_matches(str(strange[0]), names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SlimError(f"{expected}, got scores for {strange[0]!r}, which is no group of this detector{hint}")
    free = {group.name: group for group in trace.free}
    rows = {key: _rows(name, free[key], value) for key, value in found.items() if key in free}
    if free and not any(map(len, rows.values())):
        raise SlimError(f"{expected}, such as {next(iter(free))}, got none for any of them: nothing could be removed")
    return rows


def _place(error: BaseException) -> str:
    """Where the criterion was when it failed: the first frame that is not this file's."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    return f"{frames[0].filename}, line {frames[0].lineno}" if frames else "its arguments do not fit"


def _rows(criterion: str, group: Group, given: Any) -> np.ndarray:
    """A group's scores, checked: (m, n) float64.

    Raises:
        SlimError: they are something else.
    """
    expected = f"prune.criterion={criterion}: expected an array (rows, {group.size}) of scores for {group.name}"
    try:
        values = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
        real = values.dtype.kind in "fiub"
        rows = values.astype(np.float64) if real else None
    except Exception as e:  # ragged lists, objects that refuse
        raise SlimError(f"{expected}, got a {type(given).__name__} ({type(e).__name__}: {e})") from e
    if rows is None:
        raise SlimError(f"{expected}, got {values.dtype} in a {type(given).__name__}")
    if rows.ndim != 2 or rows.shape[1] != group.size:
        hint = "; one row is scores[None]" if rows.shape == (group.size,) else ""
        raise SlimError(f"{expected}, got the shape {rows.shape}{hint}")
    if (wrong := np.isnan(rows) | np.isneginf(rows)).any():
        row, channel = np.argwhere(wrong)[0]
        raise SlimError(
            f"{expected}, got {int(wrong.sum())} of {rows.size} that are no score, the first {rows[row, channel]} for "
            f"channel {channel}"
        )
    return rows


def criterion_of(name: str, setting: str = "prune.criterion") -> Criterion:
    """The criterion of this name, or the function of a module: `module:function`.

    The module may lie in the working directory, as for `python` itself: for the command line too, and in the processes
    of a sweep.

    Raises:
        SlimError: no such name, or what it names cannot be imported or called.
    """
    module, colon, function = name.partition(":")
    if not colon:
        if name not in CRITERIA:
            raise SlimError(f"expected {setting} to be one of {', '.join(CRITERIA)}, or module:function, got {name}")
        return CRITERIA[name]
    if "" not in sys.path:
        sys.path.append("")
    try:
        found = getattr(import_module(module), function)
    except (Exception, SystemExit) as e:  # the module is run, and may raise anything
        raise SlimError(
            f"{setting}={name} cannot be imported ({type(e).__name__}: {e}): expected module:function, the module "
            "installed or in the working directory"
        ) from e
    if not callable(found):
        raise SlimError(f"expected {setting}={name} to be a function of (detector, trace, evidence), got {found!r}")
    return found


def source_of(name: str) -> str | None:
    """The file of a criterion that is given as `module:function`; None: it is one of `CRITERIA`."""
    if ":" not in name:
        return None
    criterion_of(name)
    return getattr(sys.modules[name.partition(":")[0]], "__file__", None)


def rows_of(group: Group, slots: np.ndarray, values: Tensor) -> np.ndarray:
    """A layer's value per slot, arranged by channel: (times a channel occurs in the layer, n)."""
    numbers = values.detach().double().cpu().numpy()
    position = {int(c): i for i, c in enumerate(group.channels)}
    columns: list[list[float]] = [[] for _ in group.channels]
    for channel, number in zip(slots.tolist(), numbers.tolist(), strict=True):
        if channel in position:
            columns[position[channel]].append(number)
    return np.array(columns).T
