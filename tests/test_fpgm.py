"""FPGM: the filter nearest to all others goes, whatever its norm."""

from functools import reduce

import numpy as np
import pytest
import torch
from networks import Act, Probe
from test_importance import EXACT, line
from torch import nn

from yolo_slim.channels import Constraints, Plan, select, trace
from yolo_slim.importance import CRITERIA, Evidence, score


@pytest.mark.parametrize(
    ("filters", "expected", "first"),
    [
        pytest.param([[0], [1], [4]], [5, 4, 7], 1, id="the median goes: not the smallest norm, not the farthest"),
        pytest.param([[-3], [3], [1]], [10, 8, 6], 2, id="signs count: squared weights would give 8 8 16"),
        pytest.param([[0, 0], [3, 4], [6, 8]], [15, 10, 15], 1, id="Euclidean in two dimensions"),
        pytest.param([[2], [2]], [0, 0], 0, id="the same filter twice"),
    ],
)
def test_distances_to_all_other_filters(filters, expected, first):
    net = line(filters)
    found = trace(net, 1)
    scores = score(net, found, "fpgm", normalize="none")
    assert scores["0"] == pytest.approx(expected, abs=1e-6)
    plan = select(found, scores, Constraints(ratio=1 / len(filters), **EXACT))
    assert Plan.of(found, plan.kept).outputs["0"] == [i for i in range(len(filters)) if i != first]


def test_distances_against_a_double_loop():
    """3x3 filters of several inputs, as they are stored."""
    net = Probe(nn.Identity(), stem=Act(3, 40, 3))
    weight = net.stem[0].weight.detach().double()
    expected = [sum((a - b).square().sum().sqrt().item() for b in weight) for a in weight]
    assert score(net, trace(net, 8), "fpgm", normalize="none")["stem.0"] == pytest.approx(expected, rel=1e-6)


def test_folded_distances_are_between_filters_as_batch_norm_scales_them():
    net = Probe(nn.Identity())
    conv, bn = net.stem[0], net.stem[1]
    folded = (conv.weight * (bn.weight / (bn.running_var + bn.eps).sqrt())[:, None, None, None]).flatten(1).detach()
    expected = torch.cdist(folded.double(), folded.double()).sum(1)
    scores = score(net, trace(net, 8), "fpgm", normalize="none", evidence=Evidence(bn_fold=True))
    assert scores["stem.0"] == pytest.approx(expected.numpy(), rel=1e-5)


class Sum(nn.Module):
    """Producers of one group, their filters on a line."""

    def __init__(self, *filters):
        super().__init__()
        self.made = nn.ModuleList(nn.Conv2d(3, 3, 1, bias=False) for _ in filters)
        self.head = nn.Conv2d(3, 2, 1)
        for conv, places in zip(self.made, filters, strict=True):
            conv.weight.data = torch.tensor([[place, 0, 0] for place in places]).float()[:, :, None, None]

    def forward(self, x):
        return self.head(reduce(torch.add, [conv(x) for conv in self.made])).flatten(2)


@pytest.mark.parametrize(
    ("filters", "expected", "means"),
    [
        pytest.param([(0, 1, 4)], [5, 4, 7], [1], id="alone: the distances themselves"),
        pytest.param([(0, 1, 4), (100, 0, 400)], [9, 9, 14], [1, 100], id="as heavy: (5 4 7) + (4 5 7)"),
        pytest.param([(0, 1, 4), (100, 0, 400), (8, 8, 8)], [9, 9, 14], [1, 100, 0], id="one that says nothing"),
        pytest.param([(8, 8, 8), (8, 8, 8)], [0, 0, 0], [0, 0], id="none says anything"),
    ],
)
def test_producers_of_a_group_are_summed_each_over_its_mean(filters, expected, means):
    """In units of the mean distance over producers, 16 / 3 times `means`."""
    net = Sum(*filters)
    rows = CRITERIA["fpgm"](net, trace(net, 4), Evidence())["made.0"]
    assert rows == pytest.approx(np.array([expected]) * np.mean(means))


@pytest.mark.parametrize(
    ("share", "order"),
    [
        pytest.param(0.0, [2, 3, 4, 1, 0], id="by distance alone"),
        pytest.param(1.0, [0, 1, 2, 3, 4], id="by norm alone"),
        pytest.param(0.5, [2, 0, 3, 1, 4], id="in turn"),
        pytest.param(0.25, [2, 3, 4, 0, 1], id="one in four by norm"),
    ],
)
def test_a_share_of_those_that_go_goes_by_norm(share, order):
    """Filters 0, .1, 5, 6, 7: distances 18.1, 17.8, 12.9, 13.9, 16.9; the values stay those of the distances."""
    net = line([[0], [0.1], [5], [6], [7]])
    found = trace(net, 1)
    plain, mixed = (
        score(net, found, "fpgm", normalize="none", evidence=Evidence(mix_norm=s))["0"] for s in (0.0, share)
    )
    assert np.argsort(mixed, kind="stable").tolist() == order
    assert np.sort(mixed) == pytest.approx(np.sort(plain))


def test_the_papers_mixture():
    """At a ratio of 40 %, s = .25 takes 30 % by distance and 10 % by norm."""
    net = Probe(nn.Identity(), stem=Act(3, 20, 3))
    found = trace(net, 8)

    def gone(criterion, count, **given):
        rank = score(net, found, criterion, evidence=Evidence(**given))["stem.0"].argsort()
        return set(rank[:count].tolist())

    mixed = gone("fpgm", 8, mix_norm=0.25)
    assert gone("fpgm", 6) <= mixed and gone("l2", 2) <= mixed and len(mixed) == 8
