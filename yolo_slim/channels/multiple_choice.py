"""The multiple-choice knapsack, any number of budgets: one option of each group, the least loss that fits.

Exact: prices from the linear relaxation leave a few options of each group open, and all combinations of those that
could still win are carried from group to group (Pisinger, A minimal algorithm for the multiple-choice knapsack problem,
EJOR 1995). On the large instances that wide detectors make without rounding, only the `BEAM` most promising are
carried; the answer is then within the gap to the relaxation, some 1e-5 of the loss.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from yolo_slim.channels.groups import Ints

BEAM = 3000
OPEN = 64  # options a group in the relaxation: prices hardly change with more, and it would take seconds
EPS = 1e-12


def least_loss(losses: np.ndarray, rises: np.ndarray, room: np.ndarray, first: Ints) -> Ints:
    """Which option each group takes: (groups,) indices into the options.

    Args:
        losses: (P,) of all options, group after group; within a group never rising.
        rises: (budgets, P) what each option takes of each budget; within a group never falling.
        room: (budgets,) what there is; the first options of all groups fit.
        first: (groups,) where each group's options begin.
    """
    scale = losses.max() or 1.0
    losses = losses / scale
    prices, taken = _relaxed(losses, rises, room, first)
    taken = _filled(taken, losses, rises, room, np.append(first[1:], len(losses)) - 1)
    dear = losses + prices @ rises  # [P]
    cheapest = np.minimum.reduceat(dear, first)
    # With regret r = dear - cheapest, any choice that fits loses at least bound + the sum of its regrets.
    regrets = dear - np.repeat(cheapest, np.diff(np.append(first, len(losses))))
    gap = losses[taken].sum() - (cheapest.sum() - prices @ room) + EPS
    better = _search(losses, rises, room, first, regrets, gap, prices)
    return taken if better is None or losses[better].sum() >= losses[taken].sum() - EPS else better


def _relaxed(losses: np.ndarray, rises: np.ndarray, room: np.ndarray, first: Ints) -> tuple[np.ndarray, Ints]:
    """The price of each budget where options may be mixed, and for every group the narrowest option of its mix."""
    counts = np.diff(np.append(first, len(losses)))
    some = [np.unique(np.linspace(0, n - 1, min(OPEN, n)).astype(int)) for n in counts]
    shown = np.concatenate([a + s for a, s in zip(first, some, strict=True)])
    owner = np.searchsorted(first, shown, side="right") - 1
    from scipy.optimize import linprog  # only now: most cuts need none of it

    one = csr_array((np.ones(len(shown)), (owner, np.arange(len(shown)))))
    mix = linprog(losses[shown], rises[:, shown], room, one, np.ones(len(first)), method="highs")
    if mix.x is None:  # no numbers to trust: without prices every combination is looked at
        return np.zeros(len(room)), first.copy()
    used = np.flatnonzero(mix.x > 1e-9)
    _, narrowest = np.unique(owner[used], return_index=True)
    return np.maximum(-mix.ineqlin.marginals, 0), shown[used[narrowest]]


def _filled(taken: Ints, losses: np.ndarray, rises: np.ndarray, room: np.ndarray, last: Ints) -> Ints:
    """Wider options, the largest gain first, as long as one fits."""
    if (rises[:, taken].sum(1) > room).any():
        return taken
    while True:
        wider = np.minimum(taken + 1, last)
        left = room - rises[:, taken].sum(1)
        fits = (wider > taken) & (rises[:, wider] - rises[:, taken] <= left[:, None]).all(0)
        if not fits.any():
            return taken
        best = np.argmax(np.where(fits, losses[taken] - losses[wider], -np.inf))
        taken = np.where(np.arange(len(taken)) == best, wider, taken)


def _search(
    losses: np.ndarray,
    rises: np.ndarray,
    room: np.ndarray,
    first: Ints,
    regrets: np.ndarray,
    gap: float,
    prices: np.ndarray,
) -> Ints | None:
    """The best of all combinations whose regrets add up to less than the gap; None where the beam lost them."""
    open_ = [np.flatnonzero(r <= gap) + a for a, r in zip(first, np.split(regrets, first[1:]), strict=True)]
    least = np.array([rises[:, o].min(1) for o in open_]).T  # [budgets, groups]
    room = room - least.sum(1) + EPS * np.abs(room).max()
    regret, rise = np.zeros(1), np.zeros((len(room), 1))  # of each combination so far: [S], [budgets, S]
    steps: list[tuple[int, Ints, Ints]] = []  # group, the combination each one extends, the option it takes
    for i in sorted(range(len(first)), key=lambda i: len(open_[i])):
        options = open_[i]
        regret = (regret[:, None] + regrets[options]).ravel()
        rise = (rise[:, :, None] + (rises[:, options] - least[:, [i]])[:, None]).reshape(len(room), -1)
        alive = np.flatnonzero((regret <= gap) & (rise <= room[:, None]).all(0))
        alive = _undominated(alive, regret, rise, prices)
        if len(alive) > BEAM:
            alive = alive[np.argpartition(regret[alive], BEAM)[:BEAM]]
        regret, rise = regret[alive], rise[:, alive]
        steps.append((i, alive // len(options), options[alive % len(options)]))
    if not len(regret):
        return None
    best, taken = int(np.argmin(regret - prices @ rise)), np.empty(len(first), int)
    for i, extends, option in reversed(steps):
        taken[i], best = option[best], extends[best]
    return taken


def _undominated(alive: Ints, regret: np.ndarray, rise: np.ndarray, prices: np.ndarray) -> Ints:
    """Without those that lose no less than another that takes no more; with one budget, where that is quickly seen."""
    if len(rise) > 1 or len(alive) < 2:
        return alive
    alive = alive[np.argsort(rise[0, alive], kind="stable")]
    loss = regret[alive] - prices @ rise[:, alive]
    return alive[np.concatenate([[True], loss[1:] < np.minimum.accumulate(loss)[:-1]])]
