"""The multiple-choice knapsack: against every combination there is, with any number of budgets."""

from itertools import product

import numpy as np
import pytest

from yolo_slim.channels.multiple_choice import least_loss


def instance(seed, budgets, steps=5):
    """Random options of up to four groups: wider loses less and takes more; and room for some of it."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, steps + 1, rng.integers(1, 5))
    first = np.cumsum([0, *counts])[:-1]
    whole = rng.random() < 0.5  # whole numbers: many ties
    draw = (lambda n: rng.integers(0, 4, n).astype(float)) if whole else rng.random
    losses = np.concatenate([np.cumsum(draw(n))[::-1] for n in counts])
    rises = np.array([np.concatenate([np.cumsum(draw(n)) for n in counts]) for _ in range(budgets)])
    narrow, wide = rises[:, first].sum(1), rises[:, first + counts - 1].sum(1)
    return losses, rises, narrow + rng.random(budgets) * (wide - narrow), first, counts


@pytest.mark.parametrize("budgets", [1, 2, 3])
@pytest.mark.parametrize("begin", [0, 40])
def test_nothing_that_fits_loses_less(begin, budgets):
    wrong = []
    for seed in range(begin, begin + 40):
        losses, rises, room, first, counts = instance(seed, budgets)
        plans = [np.array(p) + first for p in product(*map(range, counts))]
        best = min(losses[p].sum() for p in plans if (rises[:, p].sum(1) <= room + 1e-12).all())
        taken = least_loss(losses, rises, room, first)
        fits = (
            (rises[:, taken].sum(1) <= room + 1e-9).all() and (taken >= first).all() and (taken < first + counts).all()
        )
        if not fits or losses[taken].sum() > best + 1e-9:
            wrong.append(seed)
    assert not wrong


@pytest.mark.parametrize("budgets", [1, 2])
def test_more_room_never_loses_more(budgets):
    """Exact also where there are more combinations than could be tried: 8 groups of up to 12 options."""
    rng = np.random.default_rng(budgets)
    first = np.arange(8) * 12
    losses = np.concatenate([np.cumsum(np.sort(rng.random(12))[::-1])[::-1] for _ in first])
    rises = np.array([np.concatenate([np.cumsum(rng.random(12)) for _ in first]) for _ in range(budgets)])
    narrow, wide = rises[:, first].sum(1), rises[:, first + 11].sum(1)
    each = [losses[least_loss(losses, rises, narrow + s * (wide - narrow), first)].sum() for s in np.linspace(0, 1, 21)]
    assert each == sorted(each, reverse=True) and each[-1] == pytest.approx(losses[first + 11].sum())


def test_groups_without_a_choice_take_the_only_one():
    assert least_loss(np.zeros(3), np.zeros((1, 3)), np.zeros(1), np.arange(3)).tolist() == [0, 1, 2]
