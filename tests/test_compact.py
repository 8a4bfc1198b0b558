"""Compact modules: they cost what the formulas say, begin where that is exact or nearest, and lie in stock files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import random_plan
from tiny import PX
from torch import Tensor, nn
from yolov5_files import small

from yolo_slim import SlimError, checkpoint
from yolo_slim.channels import Trace, cut, masked, relative_difference, trace
from yolo_slim.channels.moments import Moments
from yolo_slim.compress.apply import applied
from yolo_slim.compress.chains import TOLERANCE
from yolo_slim.compress.compact import MODULES, Compact, dwsep, ghost, group
from yolo_slim.compress.factors import dense, product
from yolo_slim.compress.method import Material, Plan
from yolo_slim.mould import duplicate

pytest_plugins = ["tiny"]

IMAGE = torch.rand(2, 3, PX, PX, generator=torch.Generator().manual_seed(1))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second(width: int, seed: int = 1) -> Tensor:
    """Second moments of `width` inputs that go together."""
    samples = drawn(4 * width, width, seed=seed) @ drawn(width, width, seed=seed + 1)
    return samples.T @ samples / len(samples)


@pytest.fixture(scope="module")
def wiring(loaded: nn.Module) -> Trace:
    return trace(loaded, PX)


# ---- where a module begins ----


def test_a_kernel_of_rank_one_a_channel_is_begun_exactly() -> None:
    """W[o, c] = a[o, c] k[c], however the windows are weighed."""
    weight = drawn(6, 4)[:, :, None, None] * drawn(4, 3, 3, seed=1)
    for gram in (None, torch.stack([second(9, seed) for seed in range(4)])):
        torch.testing.assert_close(product(dwsep(weight, gram, 2), 4), weight)


def test_the_best_of_rank_one_leaves_the_other_singular_values() -> None:
    weight = drawn(6, 4, 3, 3)
    tail = torch.linalg.svdvals(weight.permute(1, 0, 2, 3).flatten(2))[:, 1:].square().sum()
    torch.testing.assert_close((weight - product(dwsep(weight, None, 2), 4)).square().sum(), tail)


def test_blocks_alone_are_begun_exactly() -> None:
    weight = dense(drawn(6, 2, 3, 3), 4)
    for gram in (None, second(36)):
        torch.testing.assert_close(product(group(weight, gram, 2), 4), weight)


def test_pairs_of_one_kernel_are_begun_exactly() -> None:
    """Ghost maps: outputs 2i and 2i + 1 are shares of one map."""
    weight = (drawn(3, 1, 4, 3, 3) * drawn(3, 2, seed=1)[:, :, None, None, None]).flatten(0, 1)
    for gram in (None, second(36)):
        torch.testing.assert_close(product(ghost(weight, gram, 2), 4)[:, :, 1:-1, 1:-1], weight)


@pytest.mark.parametrize("module", MODULES)
def test_what_is_known_of_the_input_makes_the_output_nearer(module: str) -> None:
    make, kind = MODULES[module]
    weight = drawn(6, 4, 3, 3)
    whole = second(36)
    if kind == "windows":  # each channel's window apart, as the module takes them
        blocks = torch.stack([whole[9 * i : 9 * i + 9, 9 * i : 9 * i + 9] for i in range(4)])
        whole, given = torch.block_diag(*blocks), blocks
    else:
        given = whole
    lost = []
    for gram in (None, given):
        made = product(make(weight, gram, 2), 4)
        gap = (weight - made[:, :, (made.shape[2] - 3) // 2 :, (made.shape[3] - 3) // 2 :][:, :, :3, :3]).flatten(1)
        lost.append(float((gap @ whole @ gap.T).trace()))
    assert lost[1] < 0.999 * lost[0]


# ---- a detector ----

FORMULAS = [  # multiply-accumulates of a module, as a share of k^2 Ci Co at each position
    pytest.param("dwsep", lambda k, ci, co: 1 / co + 1 / k**2, id="1 / Co + 1 / k^2"),
    pytest.param("group", lambda k, ci, co: 1 / 4, id="1 / groups"),
    pytest.param("ghost", lambda k, ci, co: 1 / 2 + 9 / (k**2 * ci), id="1 / 2 and a kernel of 3 x 3 for each map"),
]


@pytest.mark.parametrize("init", ["svd", "random"])
@pytest.mark.parametrize(("module", "share"), FORMULAS)
def test_planned_applied_and_proved(module: str, share, init: str, loaded: nn.Module, wiring: Trace) -> None:
    before, method = duplicate(loaded), Compact(module, groups=4, init=init)
    plan = method.plan(loaded, Material(PX, [IMAGE]))
    compressed = method.apply(loaded, plan)
    for ours, theirs in zip(loaded.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert method.prove(loaded, compressed, plan)["difference"] < TOLERANCE
    again = method.apply(loaded, method.plan(loaded, Material(PX, [IMAGE])))
    assert relative_difference(again, compressed, IMAGE) == 0
    assert {"model.1.conv", "model.5.conv", "model.4.m.0.cv2.conv"} <= plan.layers.keys()
    assert "model.0.conv" not in plan.layers and plan.kept["model.2.conv"] == "1 x 1"
    for name, layer in plan.layers.items():
        conv = wiring.convs[name]
        k = round(conv.kernel**0.5)
        expected = share(k, len(conv.inputs), len(conv.outputs))
        assert layer["macs"][1] / layer["macs"][0] == pytest.approx(expected)
    macs = [sum(conv.macs for conv in found.convs.values()) for found in (wiring, trace(compressed, PX))]
    params = [sum(p.numel() for p in net.parameters()) for net in (loaded, compressed)]
    told = method.describe(plan)
    assert (told["macs_saved"], told["params_saved"]) == (macs[0] - macs[1], params[0] - params[1])
    assert {*plan.refit.values()} == {*plan.layers}
    assert len(plan.refit) == len(plan.layers) * (2 if module == "ghost" else 1)


def test_the_random_begin_follows_its_seed_and_not_the_weights(loaded: nn.Module, detector: nn.Module) -> None:
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(2)
    method = Compact(init="random")
    plans = [method.plan(net, Material(PX, seed=seed)) for net, seed in ((loaded, 0), (detector, 0), (loaded, 1))]
    first, same, other = (plan.tensors["model.3.0.weight"] for plan in plans)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert 0.25 < float(first.abs().max()) < 1 / 3  # U(-1 / sqrt(9), 1 / sqrt(9))


@pytest.mark.parametrize("module", MODULES)
def test_the_file_is_stock(module: str, loaded: nn.Module, tmp_path: Path) -> None:
    """Saved, loaded here and by Ultralytics, whose prediction merges convolutions and norms: the same outputs."""
    from ultralytics import YOLO

    method = Compact(module)
    path = checkpoint.save(method.apply(loaded, method.plan(loaded, Material(PX))), tmp_path / "compact.pt")
    ours, theirs = checkpoint.load(path), YOLO(path)
    theirs.predict((IMAGE[0].permute(1, 2, 0) * 255).byte().numpy(), imgsz=PX, verbose=False)
    used = theirs.predictor.model  # what has just predicted
    assert not any(isinstance(module, nn.BatchNorm2d) for module in used.modules())
    assert relative_difference(ours, used, IMAGE) < 1e-4


@pytest.mark.parametrize("module", MODULES)
def test_a_detector_with_anchors(module: str, tmp_path: Path) -> None:
    whole, method = checkpoint.load(small(tmp_path)), Compact(module)
    plan = method.plan(whole, Material(PX))
    compressed = method.apply(whole, plan)
    method.prove(whole, compressed, plan)
    again = checkpoint.load(checkpoint.save(compressed, tmp_path / "compact.pt"))
    assert relative_difference(compressed, again, IMAGE) < 1e-2  # fp16


@pytest.mark.parametrize(
    ("module", "maker", "free"),
    [
        pytest.param("dwsep", "model.2.conv", True, id="a channel stays what it was through a depthwise layer"),
        pytest.param("group", "model.2.conv", False, id="in groups: what it reads and makes is kept whole"),
        pytest.param("ghost", "model.2.conv", True, id="what the first of a ghost module reads may go"),
        pytest.param("ghost", "model.3.0", False, id="what the second reads is kept whole"),
    ],
)
def test_channels_can_be_cut_where_they_are_free(module: str, maker: str, free: bool, loaded: nn.Module) -> None:
    method = Compact(module, layers=("model.3",))
    compressed = method.apply(loaded, method.plan(loaded, Material(PX)))
    found = trace(compressed, PX)
    assert (maker in {name for each in found.free for name in each.producers}) == free
    kept = random_plan(found, np.random.default_rng(0))
    slim = cut(compressed, found, kept)
    assert relative_difference(masked(compressed, found, kept), slim, IMAGE) < 1e-5
    trace(slim, PX)


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"module": "shuffle"}, "module: expected one of dwsep, group, ghost", id="no such module"),
        pytest.param({"groups": 1}, "groups: expected 2 to 4096, got 1", id="one group is the layer as it is"),
        pytest.param({"init": "zero"}, "init: expected svd or random", id="no such begin"),
    ],
)
def test_settings_are_checked(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Compact(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"layers": ("model.2",)}, "model.2.conv: 1 x 1", id="nothing but 1 x 1"),
        pytest.param({"module": "group", "groups": 7}, "are not divided by 7", id="groups that leave a rest"),
        pytest.param({"layers": ("modle.3",)}, "matches no layer; did you mean model", id="a pattern mistyped"),
    ],
)
def test_what_cannot_be_done_is_said(settings: dict, said: str, loaded: nn.Module) -> None:
    with pytest.raises(SlimError, match=said):
        Compact(**settings).plan(loaded, Material(PX))


class Narrow(nn.Module):
    """Widths of one and of an odd number, and a layer in groups already."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.odd = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 3, padding=1), nn.Conv2d(1, 9, 3)
        self.wide, self.head = nn.Conv2d(9, 9, 3, groups=3), nn.Conv2d(9, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(self.odd(self.one(self.stem(x)))))


def test_layers_too_narrow_stay_and_say_why() -> None:
    net, every = Narrow(), ("*",)
    plan = Compact(layers=every).plan(net, Material(PX))
    assert "one" not in plan.layers and plan.kept["one"] == "it would save nothing"
    assert {*plan.layers} == {"stem", "odd", "head"} and plan.kept["wide"] == "grouped"
    ghosts = Compact("ghost", layers=every).plan(net, Material(PX))
    assert ghosts.kept["odd"] == "an odd number of outputs, 9" and "head" in ghosts.layers
    compressed = Compact().apply(net, plan)
    assert torch.equal(compressed.head[-1].bias, net.head.bias)
    Compact().prove(net, compressed, plan)


@pytest.mark.parametrize("module", MODULES)
def test_weights_of_zero_and_numbers_that_are_none(module: str, detector: nn.Module) -> None:
    method = Compact(module, layers=("model.3",))
    with torch.no_grad():
        detector.model[3].conv.weight.zero_()
    plan = method.plan(detector, Material(PX, [IMAGE]))
    assert method.prove(detector, method.apply(detector, plan), plan)["difference"] < TOLERANCE
    with torch.no_grad():
        detector.model[3].conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(SlimError, match=r"model\.3\.conv: its weights are not all finite"):
        method.plan(detector, Material(PX))


# ---- what least squares gives back ----


def samples(a: int, b: int) -> tuple[Tensor, Tensor, Moments]:
    """X (500, a) that goes together, Y (500, b) that follows it in part and is not about zero; their moments."""
    x = drawn(500, a) @ drawn(a, a, seed=2) + 3
    y = x @ drawn(a, b, seed=3) + 0.1 * drawn(500, b, seed=4) - 1
    moments = Moments(ridge=0.0)
    moments.add(x, y)
    return x, y, moments


def least(x: Tensor, y: Tensor) -> np.ndarray:
    """Weights by numpy, beside an intercept: (b, a)."""
    one = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    return np.linalg.lstsq(one.numpy(), y.numpy(), rcond=None)[0][:-1].T


def test_groups_are_fitted_each_to_what_it_reads() -> None:
    """36 inputs in 2 groups, 6 outputs."""
    x, y, moments = samples(36, 6)
    fitted, intercept = Compact("group").fit("a", drawn(6, 18, seed=5), moments, Plan({}, refit={"a": "a"}))
    for part in (slice(0, 3), slice(3, 6)):
        own = slice(0, 18) if part.start == 0 else slice(18, 36)
        np.testing.assert_allclose(fitted[part], least(x[:, own], y[:, part]), atol=1e-8)
        torch.testing.assert_close(intercept[part], (y[:, part] - x[:, own] @ fitted[part].T).mean(0))


def test_the_first_of_a_ghost_module_is_fitted_for_the_second() -> None:
    """3 maps of 12 inputs, each said twice: the least that |y - v u'x| can be; and none is worse for it."""
    x, y, moments = samples(12, 6)
    second = torch.zeros(6, 1, 3, 3, dtype=torch.float64)
    second[:, 0, 1, 1] = torch.tensor([1.0, 0.5, -2.0, 0.1, 0.0, 3.0])
    plan = Plan({}, {"a.1.weight": second}, refit={"a.0": "a", "a.1": "a"})
    before = drawn(3, 12, seed=5)
    fitted, _ = Compact("ghost").fit("a.0", before, moments, plan)
    centred = y - y.mean(0)
    for i, v in enumerate(second[:, 0, 1, 1].view(3, 2)):
        wanted = least(x, (y[:, 2 * i : 2 * i + 2] @ v / v.square().sum())[:, None])
        np.testing.assert_allclose(fitted[i], wanted[0], atol=1e-8)
        away = [
            (centred[:, 2 * i : 2 * i + 2] - (x - x.mean(0)) @ u[i][:, None] * v).square().sum()
            for u in (fitted, before)
        ]
        assert away[0] < away[1]


@pytest.mark.parametrize("init", ["svd", "random"])
@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("module", MODULES)
def test_refitted_it_is_nearer_to_the_original(module: str, aware: bool, init: str, loaded: nn.Module) -> None:
    """Whole, on the images that it was fitted on and on others; the rows are what they were otherwise."""
    images = [torch.rand(4, 3, PX, PX, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    method = Compact(module, data_aware=aware, init=init)
    made = [applied(loaded, method, Material(PX, images[:3]), refits=refits) for refits in (False, True)]
    for batch in images[:1] + images[3:]:
        plain, fitted = (relative_difference(loaded, one.model, batch) for one in made)
        assert fitted < plain
    assert made[0].model.state_dict().keys() == made[1].model.state_dict().keys()
    changed = {
        name
        for name, value in made[0].model.named_parameters()
        if not torch.equal(value, made[1].model.get_parameter(name))
    }
    assert {name.removesuffix(".weight") for name in changed if name.endswith("weight")} == {*made[1].plan.refit}


@pytest.mark.parametrize("module", MODULES)
def test_a_layer_fitted_gives_what_the_old_one_gave_no_worse(module: str, loaded: nn.Module) -> None:
    """One layer replaced: squared differences of its outputs, before its batch norm, on all positions of the images."""
    images = [torch.rand(4, 3, PX, PX, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    method = Compact(module, layers=("model.3",))
    errors = []
    for refits in (False, True):
        made = applied(loaded, method, Material(PX, images), refits=refits).model
        away = []
        for batch in images:
            old, new = (behind(net, batch) for net in (loaded, made))
            away.append((old - new).square().mean())
        errors.append(float(torch.stack(away).mean()))
    assert errors[1] <= errors[0]


@torch.no_grad()
def behind(net: nn.Module, batch: Tensor) -> Tensor:
    """What the batch norm of layer 3 gives, which takes up an intercept too."""
    caught = []
    block = net.model[3] if hasattr(net.model[3], "bn") else net.model[3][-1]
    handle = block.bn.register_forward_hook(lambda layer, args, out: caught.append(out))
    net(batch)
    handle.remove()
    return caught[0]
