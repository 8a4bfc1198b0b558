"""Layers by pattern: which groups may be cut, and which have a share of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np

from yolo_slim.channels.groups import Group, Trace
from yolo_slim.errors import SlimError


def by_pattern(
    trace: Trace, exclude: Sequence[str], layers: Mapping[str, float], may_miss: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """For every group: may it be cut, and the share to remove there (not a number: the general rule)."""
    free = np.array([g.reason is None for g in trace.groups])
    share = np.full(len(trace.groups), np.nan)
    for pattern in exclude:
        free[_matching(trace.groups, pattern, "prune.exclude", may_miss)] = False
    for pattern, ratio in layers.items():
        share[_matching(trace.groups, pattern, "prune.layers", may_miss)] = ratio
    return free, share


def counted(trace: Trace, exclude: Sequence[str], layers: Mapping[str, float], may_miss: bool = False) -> np.ndarray:
    """Bool per group: those whose channels a ratio is a share of, neither kept whole nor told a share of their own."""
    free, share = by_pattern(trace, exclude, layers, may_miss)
    return free & np.isnan(share)


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern means this module; `model.2` stands for everything below it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def inside(name: str, module: str) -> bool:
    """Whether a module is another, or lies inside it."""
    return f"{name}.".startswith(f"{module}.")


def _matching(groups: Sequence[Group], pattern: str, setting: str, may_miss: bool) -> list[int]:
    """Groups with a producer whose module name matches."""
    found = [i for i, g in enumerate(groups) if any(matches(p, pattern) for p in g.producers)]
    if not found and not may_miss:  # else it named layers of a branch that is gone
        names = [p.removesuffix(".conv") for g in groups for p in g.producers]
        near = get_close_matches(pattern.removesuffix(".conv"), names, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SlimError(f"{setting}: {pattern} matches no layer{hint} (`yolo-slim inspect` lists them)")
    return found
