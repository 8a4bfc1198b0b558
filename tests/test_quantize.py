"""Weights on a grid: the specification's numbers, what fp16 makes of them, what training and least squares move."""

import numpy as np
import pytest
import torch
from tiny import PX
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels.moments import Moments
from yolo_slim.compress import METHODS, Material, Plan
from yolo_slim.compress.coding import encode
from yolo_slim.compress.quantize import Quantize, grid, on_grid
from yolo_slim.errors import SlimError

pytest_plugins = ["tiny"]
MATERIAL = Material(PX)


def numbers(detector: nn.Module) -> dict[str, bytes]:
    return {name: t.numpy(force=True).tobytes() for name, t in detector.state_dict().items()}


@pytest.mark.parametrize(
    ("weights", "bits", "steps", "scale"),
    [
        pytest.param([-1, 0.3, 0.5], 8, [-127, 38, 64], 0.007874, id="the specification's"),
        pytest.param([-1, 0.3, 0.4], 4, [-7, 2, 3], 1 / 7, id="four bits"),
        pytest.param([0, 0, 0], 8, [0, 0, 0], 0, id="a channel of zeros"),
        pytest.param([2, -2, 1e-9], 8, [127, -127, 0], 2 / 127, id="both ends, and next to nothing"),
        pytest.param([0.7], 8, [127], 0.7 / 127, id="one weight is its own scale"),
    ],
)
def test_the_grid(weights: list[float], bits: int, steps: list[int], scale: float) -> None:
    found = grid(torch.tensor([weights]), bits)
    assert found[0].tolist() == [steps]
    assert found[1].item() == pytest.approx(scale, rel=1e-4)
    torch.testing.assert_close(on_grid(*found), torch.tensor([steps]) * float(scale), rtol=1e-3, atol=1e-6)


def test_the_specifications_weights_come_back_within_fp16() -> None:
    steps, scale = grid(torch.tensor([[-1, 0.3, 0.5]]), 8)
    torch.testing.assert_close(steps * scale[:, None], torch.tensor([[-1, 0.299213, 0.503937]]), rtol=0, atol=1e-6)
    assert on_grid(steps, scale).tolist() == np.float16([[-1, 0.299213, 0.503937]]).tolist()


@pytest.mark.parametrize("bits", [3, 9])
def test_settings_are_bounded(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits: expected 4 to 8, got {bits}"):
        Quantize(bits=bits)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_weights_lie_on_the_grid_and_are_packed_as_such(loaded: nn.Module, bits: int) -> None:
    before, method = numbers(loaded), Quantize(bits=bits)
    plan = method.plan(loaded, MATERIAL)
    stepped = method.apply(loaded, plan)
    assert METHODS["quantize"] is Quantize and numbers(loaded) == before
    assert {name for name, raw in numbers(stepped).items() if raw != before[name]} == {*plan.tensors}
    assert method.describe(plan) == {"layers": len(plan.layers), "bits": bits}
    assert 0 < method.prove(loaded, stepped, plan)["error"] < 0.5**bits * 4
    for name, steps in plan.tensors.items():
        assert steps.dtype == torch.int8 and steps.abs().max() == (1 << bits - 1) - 1
        weight = stepped.get_parameter(name).detach()
        coded = encode(weight.half().numpy())
        assert len(coded) < weight.numel() * bits / 8 + 4 * len(weight) + 200, name


def test_a_checkpoint_holds_it_as_it_is(loaded: nn.Module, tmp_path) -> None:
    method = Quantize()
    plan = method.plan(loaded, MATERIAL)
    stepped = method.apply(loaded, plan)
    again = checkpoint.load(checkpoint.save(stepped, tmp_path / "stepped.pt"))
    assert all(torch.equal(again.get_parameter(name), stepped.get_parameter(name)) for name in plan.tensors)
    assert method.prove(loaded, again, plan) == method.prove(loaded, stepped, plan)


def test_zeros_stay_zero(detector: nn.Module) -> None:
    name = "model.1.conv.weight"
    mask = torch.rand(detector.get_parameter(name).shape, generator=torch.Generator().manual_seed(0)) < 0.3
    mask[0] = False  # a whole channel
    method = Quantize(bits=4)
    plan = method.plan(detector, Material(PX, zeros={name: mask}))
    weight = method.apply(detector, plan).get_parameter(name)
    assert (weight[~mask] == 0).all() and (weight[mask] != 0).any()
    assert not torch.signbit(weight[weight == 0]).any(), "-0 is another number in a file"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e6])
def test_what_fp16_cannot_hold_is_refused(detector: nn.Module, value: float) -> None:
    with torch.no_grad():
        detector.get_parameter("model.1.conv.weight").flatten()[3] = value
    with pytest.raises(SlimError, match=r"model\.1\.conv has NaN, infinity"):
        Quantize().plan(detector, MATERIAL)


@pytest.mark.parametrize("size", [1e-3, 1e-7, 1e-12])
def test_weights_that_fp16_hardly_holds(detector: nn.Module, size: float, tmp_path) -> None:
    with torch.no_grad():
        detector.get_parameter("model.1.conv.weight").mul_(size)
    method = Quantize()
    plan = method.plan(detector, MATERIAL)
    stepped = method.apply(detector, plan)
    method.prove(detector, stepped, plan)
    method.prove(detector, checkpoint.load(checkpoint.save(stepped, tmp_path / "small.pt")), plan)


@pytest.mark.parametrize("spoil", [0.004, float("nan")], ids=["half a step", "no number"])
def test_a_proof_can_fail(loaded: nn.Module, spoil: float) -> None:
    method = Quantize()
    plan = method.plan(loaded, MATERIAL)
    stepped = method.apply(loaded, plan)
    weight = stepped.get_parameter("model.1.conv.weight")
    with torch.no_grad():
        weight.flatten()[5] += spoil * weight[0].abs().max()
    with pytest.raises(SlimError, match=r"model\.1\.conv\.weight"):
        method.prove(loaded, stepped, plan)


def test_hold_trains_the_scales(detector: nn.Module, tmp_path) -> None:
    method, name = Quantize(), "model.1.conv.weight"
    plan = method.plan(detector, MATERIAL)
    stepped = method.apply(detector, plan)
    weight, steps = stepped.get_parameter(name), plan.tensors[name].double()
    before = weight.detach().double()
    (weight.flatten(1).sum(1) * torch.arange(len(weight))).sum().backward()
    torch.optim.SGD([weight], lr=1e-3).step()
    method.hold(plan)(stepped, 0.5)
    scale = grid(before, 8)[1]
    summed = (weight.grad.double() * steps).flatten(1).sum(1) / steps.square().flatten(1).sum(1)
    expected = steps * (scale - 1e-3 * summed).view(-1, 1, 1, 1)
    torch.testing.assert_close(weight.double().detach(), expected, rtol=2e-3, atol=1e-7)
    assert not torch.equal(weight.double(), before)
    again = checkpoint.load(checkpoint.save(stepped, tmp_path / "trained.pt"))
    method.prove(detector, again, plan)
    coded = encode(again.get_parameter(name).detach().half().numpy())
    assert len(coded) < weight.numel() + 4 * len(weight) + 200, "any scale is found again"


def test_fit_is_least_squares_of_the_scales() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 5, dtype=torch.float64) + 1
    steps = torch.tensor([[7, -3, 0, 2, 1], [0, 7, 5, -7, 2], [0, 0, 0, 0, 0]], dtype=torch.int8)
    scale = torch.tensor([0.125, 0.03125, 0.0], dtype=torch.float64)
    y = x @ (steps * scale[:, None]).T + torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    moments = Moments()
    moments.add(x, y)
    weight, intercept = Quantize(bits=4).fit("a", 0.1 * steps.double(), moments, Plan({}, {"a.weight": steps}))
    torch.testing.assert_close(weight, steps * scale[:, None], rtol=5e-3, atol=1e-6)
    torch.testing.assert_close(intercept, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), rtol=0, atol=2e-2)
