"""Group Fisher: each image's gradient at a mask where a channel is read, against hand-made numbers and brute force."""

import copy

import numpy as np
import pytest
import torch
from networks import PX, Act, Network, Probe
from torch import nn
from ultralytics.nn.modules import C3, SPPF

from yolo_slim.channels import trace
from yolo_slim.importance import CRITERIA, Evidence, score


class TwoReaders(nn.Module):
    """One channel of constant one, read by two layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        for conv in (self.stem, self.one, self.two):
            nn.init.ones_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        a = self.stem(x)
        return torch.cat([self.one(a), self.two(a)], 1).flatten(2)


def test_readers_are_summed_before_squaring():
    """Gradients (1, -1) and (2, 0) of two images at two readers: joint 4, where separate squares would be 6."""
    net, images = TwoReaders(), torch.ones(2, 1, 1, 1)
    gradients = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    loss = lambda n, x: (n(x).squeeze(2) * gradients[: len(x)]).sum(1).mean()  # noqa: E731
    given = Evidence(batches=[images], loss=loss)
    assert CRITERIA["group_fisher"](net, trace(net, 1), given)["stem"].item() == 4


def test_images_are_squared_one_by_one_however_they_are_batched():
    """Batch norm keeps its statistics: one batch of four, batches of one, three and one."""
    net = Probe(C3(8, 8))
    found, images = trace(net, 16), torch.rand(4, 3, 16, 16)
    results = [
        CRITERIA["group_fisher"](net, found, Evidence(batches=batches, loss=squares))
        for batches in ([images], images.split(1), images.split(3))
    ]
    for group in found.free:
        for other in results[1:]:
            assert results[0][group.name] == pytest.approx(other[group.name], rel=1e-3, abs=1e-12)


def test_images_that_disagree_do_not_cancel():
    """Gradients 1 and -1: Taylor sees 0, Fisher 2."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(2))
    for conv in net[:2]:
        nn.init.ones_(conv.weight)
    given = Evidence(batches=[torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)], loss=lambda n, x: n(x).mean())
    found = trace(net, 1)
    assert CRITERIA["group_fisher"](net, found, given)["0"].item() == 2
    assert CRITERIA["taylor"](net, found, given)["0"].item() == 0


def squares(net, images):
    """A mean over images."""
    return net(images).square().mean()


CASES = [pytest.param(lambda s=s: (Network(s), PX), id=f"random network {s}") for s in range(4)] + [
    pytest.param(lambda: (Probe(SPPF(8, 8)), 16), id="SPPF: four slots a channel"),
    pytest.param(lambda: (Probe(C3(8, 16, n=2)), 16), id="residual stage: partial sums"),
    pytest.param(lambda: (Probe(nn.Identity(), stem=Act(3, 8, act=nn.ReLU(inplace=True))), 16), id="in place"),
]


@pytest.mark.parametrize("case", CASES)
def test_against_finite_differences(case):
    """Each channel turned up and down wherever it is read, image by image; two of each group."""
    net, px = case()
    found, images = trace(net, px), torch.rand(2, 3, px, px)
    rows = CRITERIA["group_fisher"](net, found, Evidence(batches=[images], loss=squares))
    exact = copy.deepcopy(net).double()
    expected = {g.name: [sum(slopes(exact, found, g, c, images) ** 2) for c in g.channels[:2]] for g in found.free}
    largest = max((max(values) for values in expected.values()), default=0)
    assert expected.keys() == rows.keys()
    for name, values in expected.items():
        assert rows[name][:, :2] == pytest.approx(np.array([values]), rel=1e-2, abs=1e-5 * largest)


@torch.no_grad()
def slopes(net, found, group, channel, images, step=1e-6):
    """Central difference of each image's loss as the weights that read `channel` are scaled."""
    losses = []
    for factor in (1 + step, 1 - step):
        for name in group.consumers:
            net.get_submodule(name).weight[:, torch.as_tensor(found.convs[name].inputs == channel)] *= factor
        losses.append(np.array([squares(net, image[None].double()).item() for image in images]))
        for name in group.consumers:
            net.get_submodule(name).weight[:, torch.as_tensor(found.convs[name].inputs == channel)] /= factor
    return (losses[0] - losses[1]) / (2 * step)


def test_memory_is_the_default_cost():
    """As in the paper; raw on request."""
    net = Probe(C3(8, 8))
    found, given = trace(net, 16), Evidence(batches=[torch.rand(2, 3, 16, 16)], loss=squares)
    auto, memory, raw = (
        score(net, found, "group_fisher", per_cost=c, evidence=given) for c in ("auto", "memory", "none")
    )
    rows = CRITERIA["group_fisher"](net, found, given)
    for group in found.free:
        assert auto[group.name].tolist() == memory[group.name].tolist()
        assert raw[group.name] == pytest.approx(rows[group.name][0])
        positions = sum(found.convs[name].positions for name in group.producers)
        assert memory[group.name] == pytest.approx(raw[group.name] / positions)
