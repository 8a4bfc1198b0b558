"""Activation statistics: by hand, against one pass over all positions, and what absorption makes of them."""

import numpy as np
import pytest
import torch
from networks import Act, Probe, Twice
from test_importance import line
from torch import nn
from ultralytics.nn.modules import C3, SPPF

from yolo_slim.channels import absorb, cut, input_means, relative_difference, trace
from yolo_slim.importance import CRITERIA, Evidence, score

STEADY = torch.tensor([[[5.0, 5.0], [5.0, 5.0]], [[0.1, -0.1], [-0.1, 0.1]]])[None]  # channel A, channel B


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        pytest.param("act_mean", [5, 0.1], id="the mean keeps A"),
        pytest.param("act_std", [0, 0.1], id="the deviation keeps B"),
    ],
)
def test_a_constant_and_a_small_signal(criterion, expected):
    """A is 5 everywhere, B is +-.1."""
    net = line([[1, 0], [0, 1]])
    net[1].weight.data.fill_(1)
    rows = CRITERIA[criterion](net, trace(net, 2), Evidence(images=[STEADY]))["0"]
    assert rows == pytest.approx(np.array([expected]), abs=1e-6)


def test_the_constant_is_absorbed_without_loss():
    """Which is why its deviation is its worth."""
    net = line([[1, 0], [0, 1]])
    found = trace(net, 2)
    kept = np.ones(found.n_channels, bool)
    (group,) = found.free
    kept[group.channels[0]] = False
    slim = absorb(cut(net, found, kept), net, found, kept, input_means(net, found, [STEADY]))
    assert relative_difference(net, slim, STEADY) < 1e-6


def test_a_large_constant_does_not_drown_a_small_deviation():
    """1000 +- .001 in fp32."""
    net = line([[1]])
    net[1].weight.data.fill_(1)
    image = torch.tensor([1000.0009765625, 999.9990234375]).repeat(2, 2)[None, None]
    rows = CRITERIA["act_std"](net, trace(net, 4), Evidence(images=[image]))["0"]
    assert rows.item() == pytest.approx(0.0009765625, rel=1e-3)


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(SPPF(8, 8), id="SPPF: four slots, each with its own maps and weights"),
        pytest.param(C3(8, 16, n=2), id="residual: partial sums at each consumer"),
    ],
)
@pytest.mark.parametrize(("criterion", "fold"), [("act_std", False), ("act_std", True), ("act_mean", False)])
def test_against_all_positions_at_once(criterion, fold, operator):
    """Batches of unequal size: the same as one mean over all positions of all images."""
    net = Probe(operator)
    found, images = trace(net, 16), torch.rand(5, 3, 16, 16)
    rows = CRITERIA[criterion](net, found, Evidence(images=images.split([2, 2, 1]), bn_fold=fold))
    inputs = {}
    hooks = [
        net.get_submodule(n).register_forward_pre_hook(lambda m, a, n=n: inputs.update({n: a[0].double()}))
        for n in found.convs
    ]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    for group in found.free:
        expected = dict.fromkeys(group.channels.tolist(), 0.0)
        for name in group.consumers:
            conv, bn = net.get_submodule(name), found.convs[name].norm
            weight = conv.weight.detach().double()
            if fold and bn:
                norm = net.get_submodule(bn)
                weight = weight * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
            for slot, channel in enumerate(found.convs[name].inputs.tolist()):
                if channel in expected:
                    a = inputs[name][:, slot]
                    size = a.std(correction=0) if criterion == "act_std" else a.abs().mean()
                    expected[channel] += (size * weight[:, slot].norm()).item()
        assert rows[group.name] == pytest.approx(np.array([list(expected.values())]), rel=1e-4)


def test_apoz_before_the_activation():
    """z = -3, -2, .1, 4: SiLU makes no zero of them, half are at or below zero."""
    net = nn.Sequential(*Act(1, 1), nn.Conv2d(1, 1, 1), nn.Flatten(2)).eval()
    net[0].weight.data.fill_(1)
    net[1].running_var.fill_(1 - net[1].eps)
    z = torch.tensor([[-3.0, -2.0], [0.1, 4.0]])[None, None]
    assert (net[:3](z) == 0).sum() == 0
    assert CRITERIA["apoz"](net, trace(net, 2), Evidence(images=[z]))["0"].item() == 0.5


def test_apoz_removes_the_channel_that_is_mostly_off():
    """Share above zero, a row for each producer, images alike however they are batched."""
    net = Probe(C3(8, 16, n=2))
    found, images = trace(net, 16), torch.rand(5, 3, 16, 16)
    one, two = (CRITERIA["apoz"](net, found, Evidence(images=b)) for b in ([images], images.split([2, 2, 1])))
    (group,) = [g for g in found.free if len(g.producers) == 3]
    assert one[group.name].shape == (3, group.size)
    seen = {}
    net.operator.cv1.bn.register_forward_hook(lambda m, a, z: seen.update(z=z.clone()))
    net(images)
    assert one[group.name][0] == pytest.approx((seen["z"] > 0).double().mean((0, 2, 3)).numpy())
    assert all(one[g.name] == pytest.approx(two[g.name]) for g in found.free)


@pytest.mark.parametrize("criterion", ["act_std", "act_mean", "apoz", "lasso"])
def test_a_layer_used_twice_is_seen_twice(criterion):
    """The same weights read two maps."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.both, self.head = Act(3, 4), Act(3, 4), Twice(4, 4), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.head(self.both(self.one(x), self.two(x))).flatten(2)

    net = Shared().eval()
    scores = score(net, found := trace(net, 8), criterion, evidence=Evidence(images=[torch.rand(2, 3, 8, 8)]))
    assert all(np.isfinite(scores[g.name]).all() for g in found.free)
