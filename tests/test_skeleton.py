"""The filter skeleton: what has gone stays gone, and stripes run as shifted 1x1 convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from yolo_slim.compress import Plan
from yolo_slim.compress.skeleton import Skeleton, Striping, striped


def test_shifted_sums_are_the_masked_convolution() -> None:
    """3 x 4 x 3 x 3 with a random skeleton, 16 stripes of 27."""
    torch.manual_seed(1)
    image, weight = torch.randn(1, 4, 7, 7).double(), torch.randn(3, 4, 3, 3).double()
    stripes = (torch.rand(3, 3, 3) > 0.5).double()
    conv = nn.Conv2d(4, 3, 3, padding=1, bias=False).double()
    conv.weight.data = weight * stripes[:, None]
    assert int(conv.weight.any(1).sum()) == int(stripes.sum())
    assert (striped(image, conv) - F.conv2d(image, weight * stripes[:, None], padding=1)).abs().max() < 5e-15


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"kernel_size": 3, "stride": 2, "padding": 1}, id="stride: only what is asked for"),
        pytest.param({"kernel_size": 6, "stride": 2, "padding": 2}, id="the stem of YOLOv5"),
        pytest.param({"kernel_size": (1, 3), "stride": (2, 1), "padding": (0, 2)}, id="other sides"),
        pytest.param({"kernel_size": 3, "dilation": 2, "padding": "same"}, id="dilated, padded in words"),
        pytest.param({"kernel_size": 3, "bias": False}, id="without bias"),
    ],
)
def test_stripes_are_the_convolution(options: dict) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, **options).double()
    with torch.no_grad():
        conv.weight[::2, :, :, 0] = 0
        conv.weight[1] = 0
    image = torch.randn(2, 3, 9, 11).double()
    torch.testing.assert_close(striped(image, conv), conv(image), atol=1e-13, rtol=0)


LAYER, WEIGHT = "0", "0.weight"


class Trained:
    """A convolution that is to give what only its middle stripes give, trained with a skeleton beside it."""

    def __init__(self, seed: int = 0, momentum: float = 0.9, **settings: float) -> None:
        torch.manual_seed(seed)
        self.net, wanted = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)), nn.Conv2d(2, 3, 3, padding=1)
        with torch.no_grad():
            wanted.weight[:, :, [0, 2]] = 0
        self.wanted, self.left = wanted, []
        mask = torch.ones(3, 2, 3, 3, dtype=torch.bool)
        settings = {"strength": 1.0, "threshold": 0.05, "sparsity": 0.9, "until": 1.0, **settings}
        self.striping = Striping(Plan({LAYER: {}}, {WEIGHT: mask}), **settings)
        groups = [{"params": self.net.parameters(), "weight_decay": 0.01}, {"params": self.striping.learned}]
        self.optimizer = torch.optim.SGD(groups, lr=0.05, momentum=momentum)

    def steps(self, start: int, end: int, of: int = 200) -> None:
        """As HoldingTrainer takes them."""
        for step in range(start, end):
            image = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(step))
            self.optimizer.zero_grad()
            F.mse_loss(self.net(image), self.wanted(image).detach()).backward()
            self.striping.before_step(self.net)
            self.optimizer.step()
            self.striping.after_step(self.net)
            self.striping.decide(self.net, (step + 1) / of)
            self.left.append(int(self.net[0].weight.any(1).sum()))


def test_it_begins_as_nothing() -> None:
    conv = nn.Conv2d(2, 3, 3)
    assert torch.equal(Skeleton(conv.weight)(conv.weight), conv.weight)


def test_it_is_the_parameter_of_the_paper() -> None:
    """Without a pull: what autograd makes of W * I, for both, with momentum and weight decay on W alone."""
    beside, inside = Trained(strength=1e-12), Trained()
    skeleton = Skeleton(inside.net[0].weight)
    parametrize.register_parametrization(inside.net[0], "weight", skeleton)
    weight = inside.net[0].parametrizations.weight.original
    groups = [{"params": [weight, inside.net[0].bias], "weight_decay": 0.01}, {"params": [skeleton.stripes]}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    for step in range(30):
        image = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.mse_loss(inside.net(image), inside.wanted(image)).backward()
        optimizer.step()
    beside.steps(0, 30)
    torch.testing.assert_close(beside.net[0].weight, inside.net[0].weight)
    torch.testing.assert_close(beside.striping.skeletons[WEIGHT].stripes, skeleton.stripes)
    assert (skeleton.stripes - 1).abs().max() > 0.01, "it has learned"


def test_a_stripe_never_returns() -> None:
    """Though momentum goes on carrying it: counts fall only, and the stripes that are needed are left."""
    trained = Trained()
    trained.steps(0, 200)
    skeleton, weight = trained.striping.skeletons[WEIGHT], trained.net[0].weight
    assert trained.left == sorted(trained.left, reverse=True) and trained.left[0] == 27 > trained.left[-1] > 0
    assert not skeleton.stripes[~skeleton.alive].any()
    assert torch.equal(weight.any(1), skeleton.alive)
    gone = ~skeleton.alive
    assert gone[:, [0, 2]].float().mean() > 2 * gone[:, 1].float().mean()


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.999])
def test_no_more_go_than_are_asked_for_and_never_the_last_of_a_layer(sparsity: float) -> None:
    trained = Trained(strength=50.0, sparsity=sparsity)
    trained.steps(0, 60, of=60)
    assert trained.left[-1] == max(27 - int(0.999 * sparsity * 27 + 1e-9), 1)


def test_it_pulls_by_the_travel_that_is_due() -> None:
    """So far as its share of the way, to zero and not past it; none after `until`, and twice is as once."""
    trained = Trained(strength=0.8, threshold=0.0, until=0.5)
    skeleton = trained.striping.skeletons[WEIGHT]
    trained.striping.weights[WEIGHT] = trained.net[0].weight.detach().clone()
    with torch.no_grad():
        skeleton.stripes[0, 0] = torch.tensor([0.5, -2.0, 0.1])
    for passed in (0.125, 0.125):
        trained.striping.decide(trained.net, passed)
    torch.testing.assert_close(skeleton.stripes[0, 0].detach(), torch.tensor([0.3, -1.8, 0.0]))
    assert not skeleton.alive[0, 0, 2], "at the threshold it goes"
    for passed in (0.5, 1.0):
        trained.striping.decide(trained.net, passed)
    torch.testing.assert_close(skeleton.stripes[0, 0].detach(), torch.tensor([0.0, -1.2, 0.0]))
    assert torch.equal(trained.net[0].weight, skeleton(trained.striping.weights[WEIGHT]))


def test_a_step_that_is_none_leaves_the_product_where_it_was() -> None:
    """Mixed precision: a fused optimizer finds infinities and does nothing."""
    trained = Trained()
    trained.steps(0, 20)
    before = trained.net[0].weight.detach().clone()
    trained.net(torch.randn(1, 2, 8, 8)).sum().backward()
    trained.striping.before_step(trained.net)
    assert not torch.equal(trained.net[0].weight, before)
    trained.striping.after_step(trained.net)
    assert torch.equal(trained.net[0].weight, before)


def test_a_layer_that_is_frozen_stays() -> None:
    trained = Trained(strength=10.0)
    trained.net[0].weight.requires_grad_(False)
    before = trained.net[0].weight.clone()
    trained.steps(0, 20, of=20)
    assert torch.equal(trained.net[0].weight, before) and trained.striping.skeletons[WEIGHT].stripes.eq(1).all()


def test_zeros_of_before_stay_and_count() -> None:
    mask = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.3
    trained = Trained()
    trained.striping = Striping(
        Plan({LAYER: {}}, {WEIGHT: mask}), strength=50.0, threshold=0.05, sparsity=0.6, until=1.0
    )
    trained.optimizer.add_param_group({"params": trained.striping.learned})
    trained.striping.decide(trained.net, 0.0)
    assert torch.equal(trained.net[0].weight != 0, mask)
    trained.steps(0, 60, of=60)
    zero = trained.net[0].weight == 0
    assert zero[~mask].all() and int(0.6 * 54) - 2 < int(zero.sum()) <= int(0.6 * 54)


def test_its_state_goes_on() -> None:
    """Weights, skeleton and travel: the same numbers as without a break."""
    whole, first = Trained(), Trained()
    whole.steps(0, 120)
    first.steps(0, 80)
    state, optimizer = copy.deepcopy(first.striping.state()), copy.deepcopy(first.optimizer.state_dict())
    again = Trained(seed=1)
    again.wanted = first.wanted
    again.net.load_state_dict(first.net.state_dict())
    again.striping.restore(state)
    again.optimizer.load_state_dict(optimizer)
    again.steps(80, 120)
    assert torch.equal(again.net[0].weight, whole.net[0].weight) and again.left == whole.left[80:]
