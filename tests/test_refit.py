"""A compressed detector gives again what the original gave, as nearly as zeros and other forms allow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import yolov5_files
from networks import Act, Probe
from tiny import PX, build
from torch import Tensor, nn

from yolo_slim import SlimError, checkpoint
from yolo_slim.channels import trace
from yolo_slim.channels.moments import Moments
from yolo_slim.channels.surgery import relative_difference
from yolo_slim.compress import Material, Plan
from yolo_slim.compress.held import masks
from yolo_slim.compress.refit import refit
from yolo_slim.compress.support import fit_on
from yolo_slim.compress.weights import Weights
from yolo_slim.mould import duplicate

MATERIAL = Material(PX)
ALL = 10**6  # points: all of a map


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return build(tmp_path_factory.mktemp("refit")).eval()


@pytest.fixture(scope="module")
def anchors(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """With the head of ultralytics/yolov5."""
    return checkpoint.load(yolov5_files.small(tmp_path_factory.mktemp("anchors")))


def images(n: int = 2, px: int = PX, size: int = 8, seed: int = 0) -> list[Tensor]:
    return [torch.rand(size, 3, px, px, generator=torch.Generator().manual_seed(seed + i)) for i in range(n)]


def numbers(detector: nn.Module) -> dict[str, bytes]:
    return {name: t.numpy(force=True).tobytes() for name, t in detector.state_dict().items()}


def said(detector: nn.Module, names: list[str], batch: Tensor) -> dict[str, Tensor]:
    """What modules give, in an ordinary pass."""
    found: dict[str, Tensor] = {}
    handles = [
        detector.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: found.update({name: out}))
        for name in names
    ]
    with torch.no_grad():
        detector.eval()(batch)
    for handle in handles:
        handle.remove()
    return found


def errors(other: nn.Module, original: nn.Module, names: list[str], batch: Tensor) -> Tensor:
    """Mean squared error of what each module gives, relative to the variance of what it gave."""
    ours, theirs = said(other, names, batch), said(original, names, batch)
    return torch.stack([(ours[name] - theirs[name]).square().mean() / theirs[name].var() for name in names])


# ------------------------------------------------------------------------------------------ on what is left of a row


def samples(n: int = 300, a: int = 12, b: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(n, a).double() @ torch.randn(a, a).double() + 5
    weight = torch.randn(b, a).double()
    return x, x @ weight.T + 0.1 * torch.randn(n, b).double(), weight


def summed(x: Tensor, y: Tensor, ridge: float) -> Moments:
    moments = Moments(ridge)
    moments.add(x, y)
    return moments


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_each_row_is_least_squares_on_its_own_support(share: float) -> None:
    """By numpy's, row by row, whether little of it goes or much; an empty row is left its mean."""
    x, y, weight = samples()
    mask = torch.rand(weight.shape) >= share
    if share == 0.5:
        mask[3], mask[4] = mask[2], False
    weights, intercept = fit_on(summed(x, y, 1e-13), weight, mask)
    assert not weights[~mask].any()
    for o, on in enumerate(mask):
        wanted = torch.linalg.lstsq(torch.cat([x[:, on], torch.ones(len(x), 1)], 1), y[:, o]).solution
        torch.testing.assert_close(weights[o, on], wanted[:-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(intercept[o], wanted[-1], atol=1e-4, rtol=1e-5)


def test_both_ways_of_solving_are_one() -> None:
    """Just below and just above half: with a ridge, from another start."""
    x, y, weight = samples()
    on = torch.arange(12) < 6
    for mask in (on, on | (torch.arange(12) == 6)):
        moments, start = summed(x, y, 0.3), weight + 1
        found = fit_on(moments, start, mask.expand(6, 12))[0]
        part = summed(x[:, mask], y, 0.3 * float(x.var(0).mean() / x[:, mask].var(0).mean()))
        torch.testing.assert_close(found[:, mask], part.fit(start[:, mask])[0])


def test_nothing_masked_is_the_plain_fit() -> None:
    x, y, weight = samples()
    moments = summed(x, y, 1e-3)
    for ours, plain in zip(
        fit_on(moments, weight, torch.ones(6, 12, dtype=torch.bool)), moments.fit(weight), strict=True
    ):
        torch.testing.assert_close(ours, plain)


def test_what_images_do_not_show_stays() -> None:
    """Inputs that never vary: weights stay at the start, zeros at zero."""
    x, y, weight = samples()
    mask = torch.rand(weight.shape) > 0.4
    weights, _ = fit_on(summed(torch.full_like(x, 3.0), y, 1e-3), weight, mask)
    torch.testing.assert_close(weights, weight * mask)


# --------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("which", "settings"),
    [
        pytest.param("tiny", {"sparsity": 0.5}, id="single weights"),
        pytest.param("anchors", {"pattern": "2:4"}, id="2:4"),
        pytest.param("tiny", {"pattern": "kernel", "sparsity": 0.3}, id="kernels"),
        pytest.param("anchors", {"pattern": "shape", "scope": "local"}, id="shapes"),
    ],
)
def test_a_masked_detector_comes_nearer_to_the_original(which: str, settings: dict, request) -> None:
    """Layer by layer on images that were not seen; zeros stay exactly zero; nothing else is written to."""
    detector = request.getfixturevalue(which)
    method = Weights(**settings)
    plan = method.plan(detector, MATERIAL)
    masked = method.apply(detector, plan)
    before = numbers(detector), numbers(masked)
    steps: list[tuple[int, int]] = []
    healed = refit(masked, detector, plan, method, images(), step=lambda *at: steps.append(at))
    assert (numbers(detector), numbers(masked)) == before
    method.check(healed, plan)
    names = [*plan.refit]
    wiring = trace(detector, PX)
    ends = [wiring.convs[name].norm or name for name in names]
    fresh = images(seed=100)[0]
    old, new = (errors(other, detector, ends, fresh) for other in (masked, healed))
    assert new.median() < 0.6 * old.median() and (new < old * 1.05).float().mean() > 0.8
    assert steps[-1][0] == steps[-1][1] > 10
    left = {name for name, value in numbers(healed).items() if value != before[1][name]}
    may = {f"{name}.{what}" for name in (*names, *ends) for what in ("weight", "bias", "running_mean")}
    assert left <= may and not any(name.endswith("bn.weight") or name.endswith("bn.bias") for name in left)


def test_it_is_the_same_again_and_without_memory(tiny: nn.Module) -> None:
    method = Weights(layers=("model.1", "model.4", "model.9"))
    plan = method.plan(tiny, MATERIAL)
    plan = replace(plan, refit={name: name for name in plan.layers})
    masked = method.apply(tiny, plan)
    first, again, slow = (refit(masked, tiny, plan, method, images(1, size=4), memory=m) for m in (2 << 30, 2 << 30, 0))
    assert numbers(first) == numbers(again)
    for one, other in zip(first.state_dict().values(), slow.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_where_nothing_is_masked_nothing_changes(tiny: nn.Module) -> None:
    method = Weights()
    plan = method.plan(tiny, MATERIAL)
    whole = {name: torch.ones_like(mask) for name, mask in masks(plan).items()}
    plan = replace(plan, tensors=whole)
    same = refit(tiny, tiny, plan, method, images(1))
    assert relative_difference(tiny, same, images(seed=5)[0]) < 1e-4


def test_earlier_zeros_stay_zero(tiny: nn.Module) -> None:
    """Those of layers too that are not masked now, but read what is."""
    last = ("model.10.cv2.0.2", "model.10.cv3.1.2")
    early = Weights(layers=last).plan(tiny, MATERIAL)
    sparse = Weights(layers=last).apply(tiny, early)
    method = Weights(pattern="2:4", layers=("model.1", "model.2"))
    plan = method.plan(sparse, replace(MATERIAL, zeros=masks(early)))
    healed = refit(method.apply(sparse, plan), sparse, plan, method, images(1))
    assert {*last} <= plan.refit.keys()
    for name, mask in masks(early).items():
        weight = healed.get_parameter(name)
        assert not weight[~mask].any() and not torch.equal(weight, sparse.get_parameter(name))


# ----------------------------------------------------------------------------------------------------- other methods


@dataclass(frozen=True)
class Halves(Weights):
    """Not masks: a layer becomes two, under other names; the second is to give what the one gave."""

    rank: int = 8

    def plan(self, detector: nn.Module, material: Material) -> Plan:
        return Plan({"operator.1.0": {}}, refit={"operator.1.0.1": "operator.1.0"})

    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        made = duplicate(detector)
        old = made.operator[1][0]
        torch.manual_seed(0)
        first = nn.Conv2d(old.in_channels, self.rank, 1, bias=False)
        second = nn.Conv2d(self.rank, old.out_channels, old.kernel_size, padding=old.padding, bias=False)
        made.operator[1][0] = nn.Sequential(first, second)
        return made

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        assert layer == "operator.1.0.1" and moments.ridge == 1e-9
        return moments.fit(weight)


def test_layers_under_other_names() -> None:
    """At full rank nothing is lost, at half of it something; the intercept goes into the batch norm behind."""
    torch.manual_seed(0)
    net = Probe(nn.Sequential(Act(8, 8), Act(8, 8, 3)), stem=Act(3, 8, 3)).eval()
    fresh, lost = images(px=16, seed=9)[0], []
    for rank in (8, 4):
        method = Halves(rank=rank)
        plan = method.plan(net, MATERIAL)
        made = method.apply(net, plan).eval()
        healed = refit(made, net, plan, method, images(4, px=16), points=ALL, ridge=1e-9)
        with torch.no_grad():
            lost.append([float((other(fresh) - net(fresh)).square().mean()) for other in (made, healed)])
    assert lost[0][1] < 1e-6 * lost[0][0]
    assert lost[0][1] < lost[1][1] < 0.1 * lost[1][0]


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(lambda: nn.Sequential(Act(8, 8), Act(8, 8, 3, groups=8), Act(8, 8)), id="depthwise"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), Act(8, 8, 3, groups=2), Act(8, 8)), id="in groups"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), Act(8, 8, norm=False), Act(8, 8)), id="neither norm nor bias"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), Act(8, 8, bias=True), Act(8, 8)), id="norm and bias"),
        pytest.param(lambda: nn.Sequential(Act(8, 1), Act(1, 1, 3), Act(1, 8)), id="one channel"),
    ],
)
def test_odd_layers(operator: Callable[[], nn.Module]) -> None:
    """What cannot be refitted stays; the rest makes up for it."""
    torch.manual_seed(0)
    net = Probe(operator(), stem=Act(3, 8, 3))
    method = Weights(sparsity=0.5, scope="local")
    plan = method.plan(net, Material(16))
    masked = method.apply(net, plan)
    everything = {name: name for name in trace(net, 16).convs}
    healed = refit(masked, net, replace(plan, refit=everything), method, images(2, px=16), points=ALL)
    method.check(healed, plan)
    for name, conv in trace(net, 16).convs.items():
        stays = torch.equal(healed.get_parameter(f"{name}.weight"), masked.get_parameter(f"{name}.weight"))
        if name != "stem.0":  # what reads as before is as before, but for rounding
            assert stays == (not (conv.bias or conv.norm)), name
    batch = images(2, px=16)[0]
    with torch.no_grad():
        old, new = ((other.eval()(batch) - net.eval()(batch)).square().mean() for other in (masked, healed))
    assert new < old


def test_nothing_to_refit_is_a_copy(tiny: nn.Module) -> None:
    method = Weights(schedule="cubic")
    plan = method.plan(tiny, MATERIAL)
    same = refit(tiny, tiny, plan, method, [])
    assert same is not tiny and numbers(same) == numbers(tiny)


@pytest.mark.parametrize(
    ("batches", "spoil", "said"),
    [
        pytest.param([], None, "expected batches of images", id="no images"),
        pytest.param([torch.full((1, 3, PX, PX), torch.inf)], None, "not a number", id="infinite images"),
        pytest.param(images(1), torch.nan, "not a number", id="a weight that is no number"),
    ],
)
def test_what_it_cannot_work_on_is_said(tiny: nn.Module, batches: Any, spoil: float | None, said: str) -> None:
    method = Weights()
    plan = method.plan(tiny, MATERIAL)
    masked = method.apply(tiny, plan)
    if spoil is not None:
        with torch.no_grad():
            masked.model[0].conv.weight[0] = spoil
    before = copy.deepcopy(numbers(masked))
    with pytest.raises(SlimError, match=said):
        refit(masked, tiny, plan, method, batches)
    assert numbers(masked) == before
