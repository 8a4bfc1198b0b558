"""What each group of channels may come to: floors, rounding and prescribed shares, for every solver the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from yolo_slim.channels.groups import Group, Ints
from yolo_slim.channels.layer_table import ALIGNMENTS
from yolo_slim.channels.meter import Meter

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


def excess(now: Mapping[str, np.ndarray], asked: Mapping[str, float]) -> np.ndarray:
    """By how much targets are missed, relative and added up: costs of M plans -> (M,); 0: all are met."""
    return np.sum([np.maximum(now[name] - share - SLACK, 0) / share for name, share in asked.items()], axis=0)


def lowest(space: Space, meter: Meter, cost: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> Ints:
    """Widths (groups,) from which no other width of any one group costs less.

    A cost may fall with width, as time does in runtimes that prefer some widths: each is tried, group by group. A layer
    is fast only where all that it reads and makes is of such a width, so one begins where all are.

    Args:
        space: of the widths to choose from.
        meter: of costs.
        cost: of M plans, from what the meter says of them -> (M,).
    """
    options = [space.options(i) for i in range(len(space.groups))]
    starts = [np.array([next((w for w in o if w % a == 0), o[0]) for o in options]) for a in ALIGNMENTS]
    ends = np.stack([_descended(start, options, meter, cost) for start in starts])
    return ends[np.argmin(cost(meter.many(ends)))]


def _descended(
    here: Ints, options: list[Ints], meter: Meter, cost: Callable[[Mapping[str, np.ndarray]], np.ndarray]
) -> Ints:
    least, better = np.inf, True
    while better:
        better = False
        for i in (i for i, widths in enumerate(options) if len(widths) > 1):
            plans = np.repeat(here[None], len(options[i]), axis=0)
            plans[:, i] = options[i]
            found = cost(meter.many(plans))
            if found.min() < least - SLACK * abs(found.min()):
                here, least, better = plans[np.argmin(found)], found.min(), True
    return here
