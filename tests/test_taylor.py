"""Taylor: the gradient at a gate behind the batch norm, against hand-made numbers, autograd and finite differences."""

import copy

import numpy as np
import pytest
import torch
from networks import PX, Act, Network, Probe
from test_importance import line
from torch import nn
from ultralytics.nn.modules import C3

from yolo_slim.channels import trace
from yolo_slim.importance import CRITERIA, Evidence
from yolo_slim.importance.places import made


def squares(net, images):
    return net(images).square().mean()


def test_by_hand():
    """a = (2, -1, .5), y = sum a, L = (y - 1)^2 / 2: gradients (1, -.5, .25), importance (1, .25, .0625)."""
    net = line([[2], [-1], [0.5]])
    net[1].weight.data.fill_(1)
    net[1].bias.data.fill_(0)
    given = Evidence(batches=[torch.ones(1, 1, 1, 1)], loss=lambda n, x: (n(x) - 1).square().sum() / 2)
    assert CRITERIA["taylor"](net, trace(net, 1), given)["0"].tolist() == [[1, 0.25, 0.0625]]


def test_the_shift_counts():
    """gamma 2 with gradient .5, beta -1 with gradient 1: 0. Without the shift it would be 1."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1), nn.Flatten(2))
    conv, bn, head = net[:3]
    for parameter, value in ((conv.weight, 1), (bn.weight, 2), (bn.bias, -1), (head.weight, 1), (head.bias, 0)):
        parameter.data.fill_(value)
    bn.running_var.fill_(1 - bn.eps)
    given = Evidence(batches=[torch.full((1, 1, 1, 1), 0.5)], loss=lambda n, x: n(x).sum())
    given.loss(net.eval(), given.batches[0]).backward()
    assert (bn.weight.grad.item(), bn.bias.grad.item()) == pytest.approx((0.5, 1))
    assert CRITERIA["taylor"](net, trace(net, 1), given)["0"] == pytest.approx(0, abs=1e-12)


class Difference(nn.Module):
    """The same map made twice and subtracted: together the producers do nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = Act(3, 4, 3), Act(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.b.load_state_dict(self.a.state_dict())

    def forward(self, x):
        return self.head(self.a(x) - self.b(x)).flatten(2)


def test_producers_are_summed_before_squaring():
    net = Difference().eval()
    found = trace(net, 8)
    given = Evidence(batches=[torch.rand(2, 3, 8, 8)], loss=lambda n, x: n(x).sum())
    assert CRITERIA["taylor"](net, found, given)["a.0"] == pytest.approx(0, abs=1e-6)


def test_squared_per_batch_then_averaged():
    """Gradients 1 and -3 in two batches: (1 + 9) / 2; in one batch their mean is squared: 1."""
    net = line([[1]])
    net[1].weight.data.fill_(1)
    net[1].bias.data.fill_(0)
    images = torch.tensor([1.0, -3.0]).reshape(2, 1, 1, 1)
    found = trace(net, 1)
    for batches, expected in (([images[:1], images[1:]], 5), ([images], 1)):
        given = Evidence(batches=batches, loss=lambda n, x: n(x).mean())
        assert CRITERIA["taylor"](net, found, given)["0"].item() == expected


def test_the_gate_is_the_gradient_of_scale_and_shift():
    """gamma * dL/dgamma + beta * dL/dbeta summed over the producers of a residual group, to rounding in fp64."""
    net = Probe(C3(8, 16, n=2)).double()
    found, images = trace(net, 16), torch.rand(3, 3, 16, 16, dtype=torch.float64)
    rows = CRITERIA["taylor"](net, found, Evidence(batches=[images], loss=squares))
    squares(net, images).backward()
    for group in found.free:
        total = np.zeros(group.size)
        for name in group.norms:
            bn = net.get_submodule(name)
            gates = bn.weight * bn.weight.grad + bn.bias * bn.bias.grad
            of_slot = dict(zip(found.norms[name].channels.tolist(), gates.tolist(), strict=True))
            total += [of_slot[c] for c in group.channels.tolist()]
        assert rows[group.name][0] == pytest.approx(total**2, rel=1e-10, abs=1e-24)


@pytest.mark.parametrize("seed", range(4))
def test_against_finite_differences(seed):
    """Random networks: channels turned up and down wherever they are made, two of each group."""
    net = Network(seed)
    found, images = trace(net, PX), torch.rand(2, 3, PX, PX)
    rows = CRITERIA["taylor"](net, found, Evidence(batches=[images], loss=squares))
    exact = copy.deepcopy(net).double()
    expected = {
        g.name: [slope(exact, made(found, g), c, images.double()) ** 2 for c in g.channels[:2]] for g in found.free
    }
    largest = max((max(values) for values in expected.values()), default=0)
    assert expected.keys() == rows.keys()
    for name, values in expected.items():
        assert rows[name][:, :2] == pytest.approx(np.array([values]), rel=1e-2, abs=1e-5 * largest)


@torch.no_grad()
def slope(net, places, channel, images, step=1e-6):
    """Central difference of the loss as the outputs of `channel` are scaled."""
    losses = []
    for factor in (1 + step, 1 - step):
        hooks = []
        for name, slots in places.items():
            scale = torch.as_tensor(np.where(slots == channel, factor, 1.0))[:, None, None]
            hooks.append(net.get_submodule(name).register_forward_hook(lambda m, a, y, s=scale: y * s))
        losses.append(squares(net, images).item())
        for hook in hooks:
            hook.remove()
    return (losses[0] - losses[1]) / (2 * step)
