"""The largest sum of scores that a budget buys: an exact multiple-choice knapsack, repeated as costs move.

Every group picks one width and keeps its best channels (the problem of HALP: Shen et al., NeurIPS 2022,
arXiv:2210.06659). What a width costs depends on the widths around it: costs are taken along each group alone from the
present plan, the knapsack is solved to the optimum, mended to what the plan truly costs, and solved again from there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from yolo_slim.channels.groups import Ints
from yolo_slim.channels.meter import Meter
from yolo_slim.channels.multiple_choice import least_loss
from yolo_slim.channels.space import SLACK, Space, excess

ROUNDS = 5


def improve(
    start: Ints, space: Space, meter: Meter, asked: Mapping[str, float]
) -> tuple[Ints, Ints | None, Ints | None]:
    """Widths of at least the value of `start` that meet every target; one step more that misses one; one step less.

    Args:
        start: widths that meet every target.
        space: of the widths to choose from. A score below zero counts as zero: worth nothing.
        meter: of costs.
        asked: name of a cost -> how much of it there may be.
    """
    if not asked:
        return start, None, None
    knapsack = Knapsack(space, meter, asked)
    here = best = knapsack.fill(knapsack.levels(start))
    for _ in range(ROUNDS):
        shed = knapsack.shed(knapsack.solve(here))
        if shed is None:
            break
        here = knapsack.trim(knapsack.fill(shed))
        if knapsack.loss(here) < knapsack.loss(best) * (1 - SLACK):
            best = here
        else:
            break
    return knapsack.widths(best), knapsack.looser(best), knapsack.tighter(best)


class Knapsack:
    """Widths as levels: the index of each group's width among its options, which lie one after another.

    Loss is the sum of the scores that go.
    """

    def __init__(self, space: Space, meter: Meter, asked: Mapping[str, float]) -> None:
        self.meter, self.asked = meter, asked
        options = [space.options(i) for i in range(len(space.groups))]
        self.first = np.cumsum([0, *map(len, options)])[:-1]
        self.top = np.array([len(o) - 1 for o in options])
        self.width = np.concatenate(options)
        self.owner = np.repeat(np.arange(len(options)), self.top + 1)
        self.groups = [slice(a, a + len(o)) for a, o in zip(self.first, options, strict=True)]
        self.losses = _losses(space, options)

    def levels(self, widths: Ints) -> Ints:
        """Of widths that are options."""
        return np.array([int((self.width[self.owner == i] < w).sum()) for i, w in enumerate(widths)])

    def widths(self, levels: Ints) -> Ints:
        """Channels that each group keeps."""
        return self.width[self.first + levels]

    def loss(self, levels: Ints) -> np.ndarray:
        """The sum of the scores that go: (..., groups) -> (...)."""
        return self.losses[self.first + levels].sum(-1)

    def solve(self, here: Ints) -> Ints:
        """The optimum where costs are what they are along each group alone, from `here`."""
        widths = self.widths(here)
        plans = np.repeat(widths[None], len(self.owner), axis=0)
        plans[np.arange(len(self.owner)), self.owner] = self.width
        now, moved = self.meter.of(widths), self.meter.many(plans)
        # Time may fall with width, where a runtime prefers some widths; what is solved for may not.
        grown = {
            name: np.concatenate([np.maximum.accumulate(moved[name][g]) for g in self.groups]) for name in self.asked
        }
        rises = np.array([(grown[name] - now[name]) / share for name, share in self.asked.items()])
        room = np.array([(share + SLACK - now[name]) / share for name, share in self.asked.items()])
        return least_loss(self.losses, rises, room, self.first) - self.first

    def shed(self, levels: Ints) -> Ints | None:
        """Step down where the least score goes for the excess that it saves, until every target is met.

        None: no step saves any, as where time falls with width.
        """
        while (over := self.excess(levels[None])[0]) > 0:
            lower = self.steps(levels, -1)
            saved = over - self.excess(lower) if len(lower) else np.zeros(1)
            if saved.max() <= 0:
                return None
            price = (self.loss(lower) - self.loss(levels)) / np.maximum(saved, 1e-30)
            levels = lower[np.argmin(np.where(saved > 0, price, np.inf))]
        return levels

    def fill(self, levels: Ints) -> Ints:
        """Step up where the most score comes back, as long as every target is met."""
        while len(higher := self.steps(levels, 1)):
            gain = np.where(self.excess(higher) > 0, 0, self.loss(levels) - self.loss(higher))
            if not gain.any():
                break
            levels = higher[np.argmax(gain)]
        return levels

    def trim(self, levels: Ints) -> Ints:
        """Without channels that are worth nothing."""
        while len(lower := self.steps(levels, -1)) and (same := self.loss(lower) == self.loss(levels)).any():
            levels = lower[np.argmax(same)]
        return levels

    def looser(self, levels: Ints) -> Ints | None:
        """The widths one step wider, which miss a target by the least; None: no step misses any."""
        higher = self.steps(levels, 1)
        higher = higher[self.excess(higher) > 0] if len(higher) else higher
        return self.widths(higher[np.argmin(self.excess(higher))]) if len(higher) else None

    def tighter(self, levels: Ints) -> Ints | None:
        """The widths one step narrower that give up the least; None: there is nothing left to give up."""
        lower = self.steps(levels, -1)
        return self.widths(lower[np.argmin(self.loss(lower))]) if len(lower) else None

    def steps(self, levels: Ints, by: int) -> Ints:
        """Every plan in which one group is a level wider or narrower: (M, groups)."""
        can = np.flatnonzero(levels < self.top if by > 0 else levels > 0)
        plans = np.repeat(levels[None], len(can), axis=0)
        plans[np.arange(len(can)), can] += by
        return plans

    def excess(self, levels: Ints) -> np.ndarray:
        """By how much targets are missed, relative and added up: (M, groups) -> (M,); 0: all are met."""
        return excess(self.meter.many(self.width[self.first + levels]), self.asked)


def _losses(space: Space, options: list[Ints]) -> np.ndarray:
    """For every option the sum of the scores that it gives up."""
    going = [worth[:n] for worth, n in zip(space.worth, space.fixed + space.removable, strict=True)]
    sums = [np.concatenate([[0.0], np.cumsum(np.maximum(worth, 0))]) for worth in going]
    return np.concatenate([s[n - o] for s, n, o in zip(sums, space.sizes, options, strict=True)])
