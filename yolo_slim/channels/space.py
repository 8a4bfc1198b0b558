"""What each group of channels may come to: floors, rounding and prescribed shares, for every solver the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from yolo_slim.channels.groups import Group, Ints

SLACK = 1e-9  # so that 0.3 * 10 is 3 channels, not 2


@dataclass(frozen=True)
class Space:
    """The widths that a selection may choose from; arrays hold one entry a group."""

    groups: tuple[Group, ...]
    sizes: Ints
    ranked: list[Ints]  # a group's channels by index, the lowest score first; empty: it stays whole
    worth: list[np.ndarray]  # their scores, in that order
    fixed: Ints  # channels that go in any case
    removable: Ints  # further ones that may go: not the floor's, none with an infinite score
    counted: np.ndarray  # bool: may lose channels and has no share of its own
    round_to: int

    def keeps(self, removed: Ints) -> Ints:
        """The widths when so many go beside the fixed ones, rounded up: the best of those removed come back."""
        return round_up(self.sizes - self.fixed - removed, self.round_to, self.sizes)

    def options(self, group: int) -> Ints:
        """All widths that one group may have, ascending."""
        n = self.sizes[group]
        return np.unique(round_up(n - self.fixed[group] - np.arange(self.removable[group] + 1), self.round_to, n))

    def without(self, removed: np.ndarray) -> Space:
        """The same after each counted group has lost so many channels, or as many as it may."""
        gone = np.where(self.counted, np.minimum(removed.astype(int), self.removable), 0)
        return replace(self, fixed=self.fixed + gone, removable=self.removable - gone)


def round_up(keeps: Ints, round_to: int, sizes: Ints) -> Ints:
    """To a multiple, never above the group's own width."""
    return np.minimum(-(-keeps // round_to) * round_to, sizes)


def met(now: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    """Whether every target is met."""
    return all(now[name] <= share + SLACK for name, share in asked.items())
