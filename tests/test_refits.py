"""Refits of any cut in closed form: what least squares gives on the samples, and nothing where nothing goes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny import PX, build
from torch import Tensor, nn

from yolo_slim.channels import Trace, cut, trace
from yolo_slim.channels.refits import Refits
from yolo_slim.errors import SlimError


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return build(tmp_path_factory.mktemp("refits")).eval()


@pytest.fixture(scope="module")
def wiring(detector: nn.Module) -> Trace:
    return trace(detector, PX)


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.rand(4, 3, PX, PX) for _ in range(4)]


def without(wiring: Trace, name: str, count: int) -> np.ndarray:
    """All channels but the first `count` of the group that a layer makes."""
    kept = np.ones(wiring.n_channels, bool)
    (group,) = (g for g in wiring.free if name in g.producers)
    kept[group.channels[:count]] = False
    return kept


def test_where_nothing_goes_nothing_changes(detector: nn.Module, wiring: Trace, images: list[Tensor]) -> None:
    slim = Refits(detector, wiring, images)(np.ones(wiring.n_channels, bool))
    for ours, theirs in zip(slim.state_dict().values(), detector.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_is_least_squares_on_what_the_layer_reads(detector: nn.Module, wiring: Trace, images: list[Tensor]) -> None:
    """Of layer 1, which reads layer 0's 16 channels with kernels of 3 x 3: by numpy, on all positions."""
    kept = without(wiring, "model.0.conv", 5)
    slim = Refits(detector, wiring, images, points=10**6, ridge=1e-9)(kept)
    layer = detector.model[1].conv
    read = torch.cat([detector.model[0](batch) for batch in images])
    x = torch.nn.functional.unfold(read, 3, padding=1, stride=2).permute(0, 2, 1).reshape(-1, 16 * 9).double()
    y = x @ layer.weight.detach().double().flatten(1).T
    staying = torch.cat([x[:, 5 * 9 :], torch.ones(len(x), 1)], 1)
    wanted = np.linalg.lstsq(staying.detach().numpy(), y.detach().numpy(), rcond=None)[0]
    fitted = slim.model[1].conv.weight.detach().flatten(1).T.numpy()
    np.testing.assert_allclose(fitted, wanted[:-1], atol=2e-4)
    norm, before = slim.model[1].bn, detector.model[1].bn
    np.testing.assert_allclose((before.running_mean - norm.running_mean).numpy(), wanted[-1], atol=2e-4)


def test_without_memory_the_means_of_what_goes_stay(detector: nn.Module, wiring: Trace, images: list[Tensor]) -> None:
    kept = without(wiring, "model.0.conv", 5)
    slim = Refits(detector, wiring, images, points=10**6, memory=0)(kept)
    plain = cut(detector, wiring, kept)
    assert torch.equal(slim.model[1].conv.weight, plain.model[1].conv.weight)
    read = torch.cat([detector.model[0](batch) for batch in images])
    x = torch.nn.functional.unfold(read, 3, padding=1, stride=2).mean((0, 2))
    lost = detector.model[1].conv.weight.flatten(1)[:, : 5 * 9] @ x[: 5 * 9]
    moved = plain.model[1].bn.running_mean - slim.model[1].bn.running_mean
    torch.testing.assert_close(moved, lost.detach(), atol=1e-4, rtol=1e-3)


def test_a_second_cut_is_refitted_as_if_it_were_the_first(
    detector: nn.Module, wiring: Trace, images: list[Tensor]
) -> None:
    both = Refits(detector, wiring, images)
    both(without(wiring, "model.0.conv", 5))
    for kept in (without(wiring, "model.1.conv", 9), without(wiring, "model.0.conv", 3)):
        again, fresh = both(kept), Refits(detector, wiring, images)(kept)
        for ours, theirs in zip(again.state_dict().values(), fresh.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)


def test_the_detector_is_left_alone(detector: nn.Module, wiring: Trace, images: list[Tensor]) -> None:
    before = copy.deepcopy(detector.state_dict())
    detector.train()
    Refits(detector, wiring, images)(without(wiring, "model.0.conv", 5))
    assert detector.training and not any(m._forward_hooks for m in detector.modules())
    detector.eval()
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_images_are_needed_and_numbers(detector: nn.Module, wiring: Trace, images: list[Tensor]) -> None:
    with pytest.raises(SlimError, match="images"):
        Refits(detector, wiring, [])
    with pytest.raises(SlimError, match="not finite"):
        Refits(detector, wiring, [images[0] * torch.inf])
