"""The filter skeleton: what has gone stays gone, and stripes run as shifted 1x1 convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from yolo_slim.compress.skeleton import Skeleton, striped


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


def trained(steps: int, alpha: float, momentum: float = 0.9) -> tuple[nn.Conv2d, Skeleton, list[int]]:
    """A convolution that is to give what only its middle stripes give."""
    torch.manual_seed(0)
    conv, wanted = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Conv2d(2, 3, 3, padding=1, bias=False)
    with torch.no_grad():
        wanted.weight[:, :, [0, 2]] = 0
    skeleton = Skeleton(conv.weight)
    parametrize.register_parametrization(conv, "weight", skeleton)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.05, momentum=momentum)
    left = []
    for _ in range(steps):
        image = torch.randn(4, 2, 8, 8)
        optimizer.zero_grad()
        F.mse_loss(conv(image), wanted(image)).backward()
        skeleton.pull(alpha)
        optimizer.step()
        left.append(skeleton.settle(0.05))
    return conv, skeleton, left


def test_it_begins_as_nothing() -> None:
    conv = nn.Conv2d(2, 3, 3)
    assert torch.equal(Skeleton(conv.weight)(conv.weight), conv.weight)


def test_a_stripe_never_returns() -> None:
    """Though momentum goes on carrying it: counts fall only, and some go."""
    conv, skeleton, left = trained(200, alpha=0.05)
    assert left == sorted(left, reverse=True) and 0 < left[-1] < 27
    assert not skeleton.stripes[~skeleton.alive].any()
    assert torch.equal(conv.weight.any(1), skeleton.alive)


def test_it_pulls_by_alpha() -> None:
    skeleton = Skeleton(torch.ones(1, 2, 1, 3))
    skeleton.stripes.data = torch.tensor([[[0.5, -2.0, 0.01]]])
    assert skeleton.settle(0.01) == 2, "at the threshold it goes"
    skeleton.pull(0.1)
    torch.testing.assert_close(skeleton.stripes.grad, torch.tensor([[[0.1, -0.1, 0.0]]]))
    skeleton.pull(0.1)
    torch.testing.assert_close(skeleton.stripes.grad, torch.tensor([[[0.2, -0.2, 0.0]]]))


def test_folded_it_is_a_plain_convolution() -> None:
    conv, *_ = trained(50, alpha=0.05)
    image = torch.randn(1, 2, 6, 6)
    before = conv(image)
    parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)
    assert {*conv.state_dict()} == {"weight"} and type(conv) is nn.Conv2d
    torch.testing.assert_close(conv(image), before)
    torch.testing.assert_close(striped(image, conv), before)


def test_its_state_goes_on() -> None:
    """In a state dict: what has gone is known to whoever goes on with it."""
    _, skeleton, left = trained(100, alpha=0.05)
    fresh = Skeleton(torch.ones(3, 2, 3, 3))
    fresh.load_state_dict(copy.deepcopy(skeleton.state_dict()))
    assert fresh.settle(0.0) == left[-1] < 27
