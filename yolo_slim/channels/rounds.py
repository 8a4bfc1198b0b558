"""Cutting in rounds: every round selects on the wiring the first one began with, and what is gone goes first.

So a budget, a ratio, a floor or a share for a layer means the same in one round and in ten: a part of what there was at
the start. Scores alone come from the detector as it is by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from yolo_slim.channels.groups import FIXED, Ints, Trace
from yolo_slim.channels.plan import Plan

SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "exponential": lambda keep, done: keep**done,  # every round takes the same share of what is left
    "linear": lambda keep, done: keep + (1 - keep) * (1 - done),  # every round takes as much
    "cubic": lambda keep, done: keep + (1 - keep) * (1 - done) ** 3,  # most of it early
}
"""(share to keep in the end, share of the rounds done: round / rounds) -> share to keep then.

Cubic: Zhu & Gupta, "To prune, or not to prune" (arXiv:1710.01878), section 3, from nothing removed.
"""


@dataclass(frozen=True)
class Start:
    """The detector before the first round, as a later round needs it."""

    trace: Trace
    left: Plan  # what the rounds so far have left of it

    def origin(self, now: Trace) -> Ints:
        """(channels of `now`,): which channel of the start each of them was; FIXED where no convolution makes it."""
        origin = np.full(now.n_channels, FIXED)
        for name, conv in now.convs.items():
            slots = self.trace.convs[name].outputs
            slots = slots[list(self.left.outputs[name])] if name in self.left.outputs else slots
            known = conv.outputs != FIXED
            origin[conv.outputs[known]] = slots[known]
        return origin

    def emptied(self, now: Trace) -> set[str]:
        """Names of the groups of the start that no channel is left of: their branches went in earlier rounds."""
        left = self.origin(now)
        return {group.name for group in self.trace.free if not np.isin(group.channels, left).any()}

    def scores(self, now: Trace, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Scores of the channels there are now, by groups of the start; those that are gone score below all others."""
        origin = self.origin(now)
        known = np.concatenate([s[np.isfinite(s)] for s in scores.values()] or [np.zeros(0)])
        lowest = known.min(initial=0)
        lifted = np.full(self.trace.n_channels, lowest - max(1.0, abs(lowest)))
        for group in now.groups:
            lifted[origin[group.channels]] = scores[group.name]
        return {group.name: lifted[group.channels] for group in self.trace.groups}

    def kept(self, now: Trace, kept: np.ndarray) -> np.ndarray:
        """Which of the channels there are now stay, given which of the start's do; both bool per channel."""
        origin = self.origin(now)
        return (origin == FIXED) | kept[origin]
