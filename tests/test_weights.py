"""Masks: which weights go, exactly how many, that they stay away, and that nothing else is touched."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yolov5_files
from networks import Act, Probe
from tiny import PX, TINY, build
from torch import Tensor, nn
from ultralytics import YOLO

from yolo_slim import SlimError, checkpoint
from yolo_slim.channels import trace
from yolo_slim.channels.moments import Moments
from yolo_slim.channels.surgery import relative_difference
from yolo_slim.compress import METHODS, Material, Plan
from yolo_slim.compress.gradual import RANKINGS, share_gone
from yolo_slim.compress.held import masks
from yolo_slim.compress.layers import eligible
from yolo_slim.compress.masking import Layer, choose, choose_of_m
from yolo_slim.compress.patterns import Units, units
from yolo_slim.compress.saliency import covariances, lamp, magnitude, surgeon, worth
from yolo_slim.compress.support import fit_on
from yolo_slim.compress.weights import Weights
from yolo_slim.mould import duplicate

MATERIAL = Material(PX)
PATTERNS = ["unstructured", "kernel", "vector", "shape", "stripe", "2:4", "1:4", "block:2x4"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return build(tmp_path_factory.mktemp("weights")).eval()


@pytest.fixture(scope="module")
def anchors(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """With the head of ultralytics/yolov5."""
    return checkpoint.load(yolov5_files.small(tmp_path_factory.mktemp("anchors")))


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.rand(4, 3, PX, PX) for _ in range(2)]


def numbers(detector: nn.Module) -> dict[str, bytes]:
    return {name: t.numpy(force=True).tobytes() for name, t in detector.state_dict().items()}


def layer(weight: Tensor, pattern: str = "unstructured", score=magnitude, alive: Tensor | None = None) -> Layer:
    found = units(pattern, weight.shape)
    assert isinstance(found, Units)
    weight = weight.flatten(1)
    alive = found.sums((torch.ones_like(weight) if alive is None else alive.flatten(1)).long())
    return Layer(found, score(weight, found, alive).float(), alive)


def row(*values: float) -> Tensor:
    """A 1x1 convolution of one output."""
    return torch.tensor(values).reshape(1, -1, 1, 1)


def gone(ways: dict[str, Tensor], name: str = "a") -> list[int]:
    return (~ways[name]).flatten().nonzero().flatten().tolist()


# ------------------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("pattern", "sums"),
    [
        pytest.param("kernel", [[1, 2], [0.1, 0.5]], id="kernels"),
        pytest.param("unstructured", [[1, 2], [0.1, 0.5]], id="weights"),
        pytest.param("shape", [[1.1, 2.5]], id="shapes: one input at one position, of all filters"),
        pytest.param("block:2x1", [[1.1, 2.5]], id="blocks of two outputs: the same"),
        pytest.param("block:1x2", [[3], [0.6]], id="blocks of all inputs: filters"),
    ],
)
def test_norms_of_the_specification(pattern: str, sums: list[list[float]]) -> None:
    weight = torch.tensor([[1, -2], [0.1, 0.5]]).reshape(2, 2, 1, 1)
    torch.testing.assert_close(units(pattern, weight.shape).sums(weight.abs().flatten(1)), torch.tensor(sums).float())


@pytest.mark.parametrize(
    ("pattern", "count", "together"),
    [
        ("unstructured", 4 * 8 * 6, lambda w: w.unsqueeze(-1)),
        ("kernel", 4 * 8, lambda w: w.flatten(2)),
        ("vector", 4 * 8 * 2, lambda w: w),
        ("shape", 8 * 6, lambda w: w.permute(1, 2, 3, 0)),
        ("stripe", 4 * 6, lambda w: w.permute(0, 2, 3, 1)),
        ("block:2x4", 2 * 2 * 6, lambda w: w.reshape(2, 2, 2, 4, 2, 3).permute(0, 2, 4, 5, 1, 3).flatten(4)),
    ],
)
def test_a_unit_is_what_its_name_says(pattern: str, count: int, together) -> None:
    """Weights of a unit get one number, other units another."""
    shape = torch.Size([4, 8, 2, 3])
    found = units(pattern, shape)
    of = torch.arange(count).reshape(4 // found.rows, -1)
    spread = together(found.spread(of).reshape(shape)).flatten(0, -2)
    assert len(spread) == count == len(spread[:, 0].unique())
    assert (spread == spread[:, :1]).all()
    assert torch.equal(found.sums(found.spread(of)), of * (4 * 8 * 6 // count))


@pytest.mark.parametrize(
    ("pattern", "shape", "why"),
    [
        ("2:4", (8, 6, 3, 3), "reads 6 channels, which 4 does not divide"),
        ("2:4", (8, 1, 3, 3), "reads 1 channels"),
        ("block:3x4", (8, 4, 1, 1), "blocks of 3 x 4 do not fill"),
        ("block:1x8", (8, 4, 1, 1), "blocks of 1 x 8 do not fill"),
        ("stripe", (8, 4, 1, 1), "a whole filter"),
    ],
)
def test_a_layer_that_does_not_fit_a_pattern(pattern: str, shape: tuple, why: str) -> None:
    assert why in units(pattern, torch.Size(shape))


# ------------------------------------------------------------------------------------------------------------ choice


def test_the_smallest_weights_of_the_specification_go() -> None:
    assert gone(choose({"a": layer(row(0.1, -0.4, 0.3, 0.2, -0.05))}, 0.4)) == [0, 4]


def test_two_of_four_of_the_specification() -> None:
    weight = row(0.1, -0.4, 0.3, 0.2)
    way = choose_of_m({"a": layer(weight, "2:4")}, {"a": weight.shape}, 2, 4)["a"]
    assert way.int().tolist() == [[0, 1, 1, 0]]
    half = choose_of_m({"a": layer(weight, "2:4")}, {"a": weight.shape}, 2, 4, sparsity=0.25)["a"]
    assert half.int().tolist() == [[0, 1, 1, 1]], "the smaller of the two goes first"


def test_n_of_m_goes_along_the_inputs() -> None:
    """Not along the kernel: of 4 inputs x 3 positions, two of each position stay."""
    torch.manual_seed(0)
    weight = torch.randn(2, 8, 1, 3)
    stays = choose_of_m({"a": layer(weight, "1:4")}, {"a": weight.shape}, 1, 4)["a"].reshape(weight.shape)
    assert (stays.unflatten(1, (2, 4)).sum(2) == 1).all()
    assert torch.equal((weight * stays).unflatten(1, (2, 4)).abs().amax(2), weight.unflatten(1, (2, 4)).abs().amax(2))


def test_lamp_of_the_specification() -> None:
    score = lamp(torch.tensor([[1.0, 2.0, 3.0]]), units("unstructured", torch.Size([1, 3, 1, 1])), None)
    np.testing.assert_allclose(score, [[0.0714286, 0.3076923, 1]], atol=1e-6)
    layers = {"a": layer(row(1, 2, 3), score=lamp), "b": layer(row(0.1, 0.2), score=lamp)}
    np.testing.assert_allclose(layers["b"].scores, [[0.2, 1]], atol=1e-6)
    ways = choose(layers, 0.4)
    assert gone(ways) == [0] and gone(ways, "b") == [0]


def test_lamp_of_zeros_and_of_huge_weights() -> None:
    of = units("unstructured", torch.Size([1, 3, 1, 1]))
    assert lamp(torch.zeros(1, 3), of, None).tolist() == [[0, 0, 0]]
    np.testing.assert_allclose(lamp(torch.tensor([[0, 1e30, 1e30]]), of, None), [[0, 0.5, 1]])


def test_no_layer_is_emptied() -> None:
    """By size alone both of the second layer's would go; its larger one stays, and no other goes for it too early."""
    layers = {"a": layer(row(1, 2, 3)), "b": layer(row(0.1, 0.2))}
    ways = choose(layers, 0.4)
    assert gone(ways) == [0] and gone(ways, "b") == [0]
    ways = choose(layers, 0.99)
    assert gone(ways) == [0, 1] and gone(ways, "b") == [0], "as many as may go"


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 100, 1000])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.29, 0.3, 0.7, 0.9, 0.57])
def test_counts_are_exact(n: int, sparsity: float) -> None:
    """Rounded down, of ties as well: no comparison with a threshold, no 0.29 x 100 = 28.999."""
    wanted = min(round(sparsity * n * 1000) // 1000, n - 1)
    for weight in (torch.rand(n), torch.ones(n), torch.zeros(n)):
        assert len(gone(choose({"a": layer(row(*weight.tolist()))}, sparsity))) == wanted


def test_of_equals_the_first_go() -> None:
    ways = choose({"a": layer(row(1, 1, 1, 1)), "b": layer(row(1, 1, 1, 1))}, 0.5)
    assert gone(ways) == [0, 1, 2] and gone(ways, "b") == [0], "of the first layer all but its last"


def test_layers_are_compared_by_the_mean_of_a_unit() -> None:
    """Nine weights of 1 are a larger kernel than one weight of 2 by norm, not by size."""
    layers = {"a": layer(torch.ones(4, 1, 3, 3), "kernel"), "b": layer(torch.full((4, 1, 1, 1), 2.0), "kernel")}
    ways = choose(layers, 0.5)
    assert len(gone(ways)) == 18 and not gone(ways, "b")


def test_zeros_that_are_there_count_and_stay() -> None:
    weight, there = row(0, 0, 9, 8, 7, 6, 5, 4), row(0, 0, 1, 1, 1, 1, 1, 1).bool()
    ways = choose({"a": layer(weight, alive=there)}, 0.5)["a"]
    assert ways.tolist() == [[False] * 2 + [True] * 4 + [False] * 2]
    fewer = choose({"a": layer(weight, alive=there)}, 0.1)["a"]
    assert fewer.tolist() == [[False] * 2 + [True] * 6]


def test_the_cubic_schedule_of_the_specification() -> None:
    found = [0.8 * share_gone(k / 4, 1.0) for k in range(1, 5)]
    np.testing.assert_allclose(found, [0.4625, 0.7, 0.7875, 0.8], atol=1e-12)
    assert share_gone(0, 0.6) == 0 and share_gone(0.6, 0.6) == share_gone(0.9, 0.6) == share_gone(1, 1) == 1


# --------------------------------------------------------------------------------------------- optimal brain surgeon


@pytest.mark.parametrize("pattern", ["unstructured", "kernel", "vector", "shape", "stripe", "block:2x2"])
def test_obs_is_what_least_squares_loses(pattern: str) -> None:
    """For each unit: the squared error once it is gone and the rest of its rows refitted, outputs worth 1 to 4."""
    torch.manual_seed(0)
    weight = torch.randn(4, 2, 2, 3).double()
    x = torch.randn(200, 12).double() @ torch.randn(12, 12).double() + 3
    moments = Moments()
    y = x @ weight.flatten(1).T
    moments.add(x, y)
    of = units(pattern, weight.shape)
    alive, value = of.sums(torch.ones(4, 12).long()), torch.arange(1.0, 5)
    scores = surgeon(weight.flatten(1), of, alive, moments.covariance(), value)
    number = torch.arange(scores.numel()).reshape(scores.shape)
    moments.ridge = 0.0
    for i in range(0, scores.numel(), 3):
        fitted, intercept = fit_on(moments, weight.flatten(1), of.spread(number) != i)
        lost = ((x @ fitted.T + intercept - y).square().mean(0) * value).sum()
        assert float(scores.flatten()[i]) == pytest.approx(float(lost / alive.flatten()[i]), rel=1e-6)


def test_obs_sees_what_magnitude_does_not(tiny: nn.Module, images: list[Tensor]) -> None:
    """After a refit its zeros cost less of what a layer says than those of the smallest weights; covariances in few
    passes or many are the same."""
    convs = [c for c in trace(tiny, PX).convs.values() if c.name in ("model.3.conv", "model.2.conv")]
    at_once, apart = ({n: c for n, c in covariances(tiny, convs, images, 0, memory=m)} for m in (1 << 30, 0))
    assert all(torch.equal(at_once[name], apart[name]) for name in at_once) and len(apart) == 2
    for name, covariance in at_once.items():
        weight = tiny.get_parameter(f"{name}.weight").detach().flatten(1)
        of = units("unstructured", tiny.get_parameter(f"{name}.weight").shape)
        alive = torch.ones_like(weight).long()
        lost = []
        for scores in (surgeon(weight, of, alive, covariance, torch.ones(len(weight))), magnitude(weight, of, alive)):
            stays = choose({"a": Layer(of, scores.float(), alive)}, 0.5)["a"]
            change = torch.zeros_like(weight).double()
            for o, on in enumerate(stays):  # the best that the rest can do
                inside = torch.linalg.solve(covariance[on][:, on], covariance[on][:, ~on] @ weight[o, ~on].double())
                change[o, on], change[o, ~on] = inside, -weight[o, ~on].double()
            lost.append(float(((change @ covariance) * change).sum()))
        assert lost[0] < lost[1]


def test_an_error_is_worth_what_the_batch_norm_makes_of_it(tiny: nn.Module) -> None:
    """Squared, at all positions of the map: 16 x 16 behind two strides."""
    wiring = trace(tiny, PX)
    net, conv = duplicate(tiny), wiring.convs["model.1.conv"]
    with torch.no_grad():
        net.model[1].bn.weight.fill_(3.0)
        net.model[1].bn.running_var.fill_(4.0 - net.model[1].bn.eps)
    assert worth(net, wiring, conv).tolist() == pytest.approx([16 * 16 * 9 / 4] * 32)
    assert worth(net, wiring, wiring.convs["model.10.cv2.0.2"]).tolist() == [8 * 8] * 64, "no norm behind it"


# -------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "obs", "random"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_plans(tiny: nn.Module, images: list[Tensor], pattern: str, criterion: str, scope: str) -> None:
    """Of every kind: counted, made of units, followed exactly, proven; the detector is left alone."""
    method = Weights(pattern=pattern, criterion=criterion, scope=scope, sparsity=0.6)
    before = numbers(tiny)
    plan = method.plan(tiny, Material(PX, images))
    masked = method.apply(tiny, plan)
    assert numbers(tiny) == before and not tiny.training
    figures = method.prove(tiny, masked, plan)
    total, zeros = (sum(r[key] for r in plan.layers.values()) for key in ("weights", "zeros"))
    assert figures == {"weights": total, "zeros": zeros, "sparsity": zeros / total}
    share = {"2:4": 0.5, "1:4": 0.75}.get(pattern, 0.6)
    slack = len(plan.layers) if scope == "local" else 1  # roundings down
    if pattern not in ("unstructured", "2:4", "1:4"):
        slack *= max(of.rows * of.columns.shape[1] for of in (units(pattern, m.shape) for m in masks(plan).values()))
    assert 0 <= share * total - zeros < slack
    for name, mask in masks(plan).items():
        of = units(pattern, mask.shape)
        kept = of.sums(mask.flatten(1).long())
        assert ((kept == 0) | (kept == of.rows * of.columns.shape[1])).all() and mask.any(), name
        weight = masked.get_parameter(name)
        assert torch.equal(weight, tiny.get_parameter(name) * mask) and weight.requires_grad
    if pattern in ("2:4", "1:4"):
        n = int(pattern[0])
        assert all((m.unflatten(1, (-1, 4)).sum(2) == n).all() for m in masks(plan).values())
    again = method.plan(tiny, Material(PX, images))
    assert again.layers == plan.layers and all(torch.equal(again.tensors[n], t) for n, t in plan.tensors.items())


def test_first_and_predicting_layers_are_dense_unless_asked_for(tiny: nn.Module) -> None:
    plan = Weights().plan(tiny, MATERIAL)
    first, last = "model.0.conv", "model.10.cv2.0.2"
    assert not {first, last} & plan.layers.keys() and {first, last} <= plan.kept.keys()
    assert "model.10.cv2.0.0.conv" in plan.layers, "inside the head, behind a batch norm"
    assert first in Weights(first=True).plan(tiny, MATERIAL).layers
    assert last in Weights(predictions=True).plan(tiny, MATERIAL).layers


@pytest.mark.parametrize("colours", [3, 1])
def test_the_table_of_distances_is_no_layer(colours: int, tmp_path: Path) -> None:
    """The convolution in DFL holds 0, 1, 2, ...: it reads no channel, and no setting changes it."""
    wiring = trace(build(tmp_path, text=f"{TINY}channels: {colours}\n"), PX)
    tables = wiring.convs.keys() - {conv.name for conv in eligible(wiring, first=True, predictions=True)}
    assert [name.rpartition("dfl.")[2] for name in tables] == ["conv"]
    named, _ = Weights(layers=("model.10",)).chosen(wiring)
    assert len(named) > 5 and not tables & {conv.name for conv in named}, "nor where a pattern would take it"


def test_layers_by_pattern(tiny: nn.Module) -> None:
    plan = Weights(layers=("model.4", "model.0.*")).plan(tiny, MATERIAL)
    assert {name.split(".")[1] for name in plan.layers} == {"4", "0"}
    assert plan.kept["model.1.conv"] == "not among the layers asked for"
    assert sum(r["zeros"] for r in plan.layers.values()) == sum(r["weights"] for r in plan.layers.values()) // 2
    with pytest.raises(SlimError, match=r"model.44 matches no layer; did you mean model"):
        Weights(layers=("model.44",)).plan(tiny, MATERIAL)


@pytest.mark.parametrize("sparsity", [0.0, 0.9999])
def test_extremes(tiny: nn.Module, sparsity: float) -> None:
    method = Weights(sparsity=sparsity)
    plan = method.plan(tiny, MATERIAL)
    masked = method.apply(tiny, plan)
    method.prove(tiny, masked, plan)
    if sparsity:
        assert all(mask.any() for mask in masks(plan).values())
        assert any("would say nothing" in why for why in plan.kept.values())
    else:
        assert numbers(masked) == numbers(tiny) and not plan.refit


def test_zeros_of_an_earlier_step_stay(tiny: nn.Module) -> None:
    """Also of a layer that is not concerned now, which a refit has to know of."""
    early = Weights(layers=("model.0", "model.1", "model.4"), sparsity=0.4).plan(tiny, MATERIAL)
    zeros = masks(early)
    for method in (Weights(sparsity=0.7), Weights(pattern="2:4"), Weights(pattern="kernel", sparsity=0.5)):
        plan = method.plan(tiny, replace(MATERIAL, zeros=zeros))
        assert all(not plan.tensors[name][~mask].any() for name, mask in zeros.items())
        masked = method.apply(tiny, plan)
        figures = method.prove(tiny, masked, plan)
        assert figures["zeros"] == sum(int((~m).sum()) for n, m in masks(plan).items() if "model.0." not in n)
        if method.pattern == "unstructured":
            assert figures["zeros"] == int(0.7 * figures["weights"])
    assert torch.equal(plan.tensors["model.0.conv.weight"], zeros["model.0.conv.weight"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pattern": "4:2"}, "pattern: expected one of unstructured, kernel.*got '4:2'"),
        ({"pattern": "0:4"}, "got '0:4'"),
        ({"pattern": "block:0x8"}, "got 'block:0x8'"),
        ({"pattern": "filter"}, "got 'filter'"),
        ({"criterion": "l3"}, "criterion: expected one of"),
        ({"scope": "layer"}, "scope: expected one of"),
        ({"schedule": "linear"}, "schedule: expected one of"),
        ({"sparsity": 1.0}, "sparsity: expected a share from 0 to below 1, got 1.0"),
        ({"sparsity": -0.1}, "got -0.1"),
        ({"sparsity": float("nan")}, "got nan"),
        ({"until": 0.0}, "until: expected a share above 0"),
        ({"until": 1.5}, "got 1.5"),
        ({"strength": 0.0}, "strength: expected a number above 0"),
        ({"threshold": 1.0}, "threshold: expected a number from 0 to below 1, got 1.0"),
        ({"criterion": "skeleton"}, "pattern: criterion skeleton .*expected stripe, got unstructured"),
        ({"criterion": "skeleton", "pattern": "stripe", "scope": "local"}, "scope: .*expected global"),
        ({"criterion": "skeleton", "pattern": "stripe", "schedule": "cubic"}, "schedule: .*expected once"),
    ],
)
def test_settings_that_are_wrong(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Weights(**settings)


def test_every_setting_says_what_it_is() -> None:
    assert METHODS["weights"] is Weights
    assert all(each.metadata["help"] for each in fields(Weights))


def test_what_cannot_be_done_is_said(tiny: nn.Module) -> None:
    with pytest.raises(SlimError, match="obs looks at images, and there are none: give data="):
        Weights(criterion="obs").plan(tiny, MATERIAL)
    with pytest.raises(SlimError, match=r"pattern=1:7: no layer.*reads 16 channels, which 7 does not divide"):
        Weights(pattern="1:7", layers=("model.1",)).plan(tiny, MATERIAL)
    broken = duplicate(tiny)
    with torch.no_grad():
        broken.model[3].conv.weight[0, 0] = torch.nan
    with pytest.raises(SlimError, match=r"model.3.conv.weight holds numbers that are not finite"):
        Weights().plan(broken, MATERIAL)
    with pytest.raises(SlimError, match=r"what model\.1\.conv reads is not finite"):
        Weights(criterion="obs").plan(tiny, Material(PX, [torch.full((1, 3, PX, PX), torch.inf)]))


ODD = {
    "depthwise": lambda: nn.Sequential(Act(8, 8), Act(8, 8, 3, groups=8), Act(8, 8)),
    "in groups": lambda: nn.Sequential(Act(8, 8), Act(8, 8, 3, groups=2), Act(8, 8)),
    "one channel": lambda: nn.Sequential(Act(8, 1), Act(1, 1, 3), Act(1, 8)),
    "neither norm nor bias": lambda: nn.Sequential(Act(8, 8, norm=False), Act(8, 8)),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", ODD)
def test_odd_layers(kind: str, pattern: str) -> None:
    torch.manual_seed(0)
    net = Probe(ODD[kind](), stem=Act(3, 8, 3))
    with torch.no_grad():
        net.reader[0].weight.zero_()
    for criterion in ("magnitude", "lamp", "obs"):
        method = Weights(pattern=pattern, criterion=criterion, first=pattern == "stripe", sparsity=0.7)
        plan = method.plan(net, Material(16, [torch.rand(2, 3, 16, 16)]))
        masked = method.apply(net, plan)
        method.prove(net, masked, plan)
        assert all(mask.any() for mask in masks(plan).values())
        if criterion == "obs" and kind in ("depthwise", "in groups") and pattern != "stripe":
            assert "groups" in plan.kept["operator.1.0"]


# ---------------------------------------------------------------------------------------------------- what is proven


def spoil_weight(net: nn.Module) -> None:
    net.model[3].conv.weight.copy_(net.model[3].conv.weight.where(net.model[3].conv.weight != 0, 0.1))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(spoil_weight, r"model.3.conv.weight: expected zeros.*weights are not zero", id="no zeros"),
        pytest.param(lambda n: n.model[1].bn.bias.add_(1), "model.1.bn.bias has changed", id="a batch norm"),
        pytest.param(lambda n: n.model[0].conv.weight.mul_(2), "model.0.conv.weight has changed", id="another layer"),
        pytest.param(lambda n: n.model[3].conv.weight.mul_(2), "model.3.conv.weight has changed", id="what stays"),
        pytest.param(lambda n: n.model[10].cv2[0][2].bias.mul_(2), "bias has changed", id="a bias"),
        pytest.param(
            lambda n: setattr(n.model[3], "conv", nn.Conv2d(32, 16, 3)), "the plan is another's", id="another shape"
        ),
        pytest.param(lambda n: setattr(n.model[3], "bn", nn.Identity()), "one alone has model.3.bn", id="less"),
    ],
)
@torch.no_grad()
def test_what_is_otherwise_is_refused(tiny: nn.Module, spoil, said: str) -> None:
    method = Weights()
    plan = method.plan(tiny, MATERIAL)
    masked = method.apply(tiny, plan)
    spoil(masked)
    with pytest.raises(SlimError, match=said):
        method.prove(tiny, masked, plan)


def test_a_plan_that_is_wrong_is_refused(tiny: nn.Module) -> None:
    """Masks other than counted; more than N of M."""
    method = Weights(pattern="2:4")
    plan = method.plan(tiny, MATERIAL)
    name = "model.3.conv"
    counted = replace(plan, layers={**plan.layers, name: {"weights": 9216, "zeros": 1}})
    with pytest.raises(SlimError, match="counts 1 zeros"):
        method.prove(tiny, method.apply(tiny, counted), counted)
    mask = plan.tensors[f"{name}.weight"].clone()
    mask[0, :4, 0, 0], mask[0, 4:8, 0, 0] = True, False
    moved = replace(plan, tensors={**plan.tensors, f"{name}.weight": mask})
    with pytest.raises(SlimError, match="expected 2 of 4"):
        method.prove(tiny, method.apply(tiny, moved), moved)


# ----------------------------------------------------------------------------------------------------- what is held


@torch.no_grad()
def disturbed(detector: nn.Module, seed: int = 1) -> nn.Module:
    """As after steps of an optimizer: no weight is zero."""
    torch.manual_seed(seed)
    moved = duplicate(detector)
    for parameter in moved.parameters():
        parameter.add_(torch.randn_like(parameter))
    return moved


def zeros_in(detector: nn.Module, plan: Plan) -> dict[str, Tensor]:
    return {name: detector.get_parameter(name) == 0 for name in masks(plan)}


def count(zeros: dict[str, Tensor]) -> int:
    return sum(int(z.sum()) for z in zeros.values())


def test_zeros_are_held(tiny: nn.Module) -> None:
    method = Weights(pattern="2:4")
    plan = method.plan(tiny, MATERIAL)
    moved = disturbed(method.apply(tiny, plan))
    hold, before = method.hold(plan), numbers(moved)
    with torch.no_grad():
        moved.model[3].conv.weight[~plan.tensors["model.3.conv.weight"]] = torch.nan
    places = [parameter.data_ptr() for parameter in moved.parameters()]
    hold(moved, 0.0)
    assert [parameter.data_ptr() for parameter in moved.parameters()] == places
    assert method.check(moved, plan)["sparsity"] == 0.5
    for name, value in moved.state_dict().items():
        if name not in plan.tensors:
            assert value.numpy().tobytes() == before[name], name
    assert torch.isfinite(moved.model[3].conv.weight).all()


@pytest.mark.parametrize("pattern", ["unstructured", "stripe", "2:4"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_by_and_by(tiny: nn.Module, pattern: str, scope: str) -> None:
    """Nothing at first, the share that is due at each moment, all from `until` on; what has gone stays away."""
    method = Weights(pattern=pattern, scope=scope, schedule="cubic", until=0.5)
    assert method.gradual and not Weights().gradual
    plan = method.plan(tiny, MATERIAL)
    start = method.apply(tiny, plan)
    assert numbers(start) == numbers(tiny) and not plan.refit and plan.undecided
    total = method.prove(tiny, start, plan)["weights"]
    slack = 2000 if pattern == "stripe" else len(plan.layers) + 1
    hold, before = method.hold(plan), None
    for passed in (0.0, 0.1, 0.25, 0.4, 0.5, 1.0):
        moved = disturbed(start, seed=int(100 * passed))
        hold.decide(moved, passed)
        zeros = zeros_in(moved, plan)
        due = share_gone(passed, 0.5) * 0.5 * total
        assert due - slack <= count(zeros) <= due + 1
        assert before is None or all((zeros[name] | ~gone).all() for name, gone in before.items())
        before = zeros
    after = method.settled(moved, plan)
    assert not after.undecided and all(torch.equal(zeros[name], ~mask) for name, mask in masks(after).items())
    assert method.check(moved, after)["zeros"] == count(zeros)
    with pytest.raises(SlimError, match="expected zeros"):
        method.check(start, after)
    moved = disturbed(start)
    method.hold(after)(moved, 0.0)  # of a later training: all of it from the beginning
    assert method.check(moved, after) and all(
        torch.equal(zeros[name], gone) for name, gone in zeros_in(moved, after).items()
    )


@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "obs"])
@pytest.mark.parametrize("pattern", ["unstructured", "kernel", "2:4"])
@torch.no_grad()
def test_a_weight_that_has_grown_stays(tiny: nn.Module, images: list[Tensor], pattern: str, criterion: str) -> None:
    """Those that an order of the beginning would take out first, and smaller ones go instead."""
    method = Weights(pattern=pattern, criterion=criterion, schedule="cubic", until=1.0, layers=("model.3",))
    plan = method.plan(tiny, Material(PX, images))
    name = "model.3.conv.weight"
    first = replace(method, schedule="once", sparsity=0.02).plan(tiny, Material(PX, images)).tensors[name]
    hold, moved = method.hold(plan), duplicate(tiny)
    hold.decide(moved, 0.0)
    weight = moved.get_parameter(name)
    weight[~first] = weight[~first].sign() * 10
    hold.decide(moved, 1.0)
    grown = ~first if pattern != "2:4" else (~first) & (weight.abs() == 10)
    assert (
        not first.all() and (weight[grown] != 0).all() and (weight == 0).float().mean() == pytest.approx(0.5, abs=1e-3)
    )
    # What has gone never returns, whatever becomes of it.
    gone = weight == 0
    weight[gone] = 100.0
    hold.decide(moved, 1.0)
    assert torch.equal(weight == 0, gone)


def test_what_obs_knows_is_kept_for_later_rankings(tiny: nn.Module, images: list[Tensor]) -> None:
    """At the end of a way on which no weight moves, the zeros are those of once."""
    for criterion, pattern in (
        ("obs", "unstructured"),
        ("obs", "vector"),
        ("random", "kernel"),
        ("lamp", "unstructured"),
    ):
        method = Weights(criterion=criterion, pattern=pattern, schedule="cubic")
        plan = method.plan(tiny, Material(PX, images))
        assert {t.dtype for t in plan.tensors.values()} <= {torch.float32, torch.bool}
        moved = duplicate(tiny)
        method.hold(plan).decide(moved, 1.0)
        once = replace(method, schedule="once").plan(tiny, Material(PX, images))
        assert all(torch.equal(zeros, ~once.tensors[name]) for name, zeros in zeros_in(moved, once).items())


def test_weights_are_ranked_so_often(tiny: nn.Module) -> None:
    """A hundred times on the way, however many steps are taken; and never after it."""
    method = Weights(schedule="cubic", until=0.5, layers=("model.1",))
    plan, asked = method.plan(tiny, MATERIAL), []
    hold = method.hold(plan)
    layer = hold._layer
    hold._layer = lambda *given: asked.append(given) or layer(*given)
    moved = duplicate(tiny)
    for step in range(1001):
        hold.decide(moved, step / 1000)
    assert len(asked) == RANKINGS
    assert method.check(moved, method.settled(moved, plan))["sparsity"] == 0.5


def test_a_resumed_training_goes_on_from_what_was_decided(tiny: nn.Module) -> None:
    """A fresh hold with the state of the one before does what that would have done."""
    method = Weights(schedule="cubic")
    plan = method.plan(tiny, MATERIAL)
    one, hold = disturbed(tiny), method.hold(plan)
    for passed in (0.1, 0.2):
        hold.decide(one, passed)
    other, again = disturbed(one), method.hold(copy.deepcopy(plan))
    again.restore(copy.deepcopy(hold.state()))
    one = duplicate(other)
    for each, module in ((hold, one), (again, other)):
        each.decide(module, 0.2)
        each.decide(module, 0.3)
    assert numbers(one) == numbers(other) and numbers(one) != numbers(disturbed(tiny))


def test_earlier_zeros_are_held_from_the_beginning(tiny: nn.Module) -> None:
    zeros = masks(Weights(sparsity=0.3).plan(tiny, MATERIAL))
    method = Weights(sparsity=0.5, schedule="cubic")
    plan = method.plan(tiny, replace(MATERIAL, zeros=zeros))
    moved = disturbed(tiny)
    hold = method.hold(plan)
    hold.decide(moved, 0.0)
    assert all(torch.equal(gone, ~zeros[name]) for name, gone in zeros_in(moved, plan).items())
    hold.decide(moved, 0.3)
    total = sum(mask.numel() for mask in zeros.values())
    assert count(zeros_in(moved, plan)) == int((0.3 + 0.2 * share_gone(0.3, 0.6)) * total)
    hold.decide(moved, 1.0)
    after = method.settled(moved, plan)
    assert method.check(moved, after)["sparsity"] == pytest.approx(0.5, abs=1e-5)


# ------------------------------------------------------------------------------------------------------ whole detectors


@pytest.mark.parametrize("which", ["tiny", "anchors"])
def test_what_is_written_loads_and_predicts_everywhere(which: str, request, tmp_path: Path) -> None:
    """As stock Ultralytics reads it, which fuses batch norms."""
    detector = request.getfixturevalue(which)
    method = Weights(pattern="2:4")
    plan = method.plan(detector, MATERIAL)
    masked = method.apply(detector, plan)
    method.prove(detector, masked, plan)
    path = checkpoint.save(masked, tmp_path / "masked.pt")
    again = checkpoint.load(path).eval()
    method.check(again, plan)
    image = torch.rand(1, 3, PX, PX)
    masked = masked.eval()
    assert relative_difference(masked, again, image) < 2e-2  # files are in fp16
    if which == "tiny":
        picture = (image[0].permute(1, 2, 0) * 255).byte().numpy()
        boxes = YOLO(str(path)).predict(picture, imgsz=PX, conf=0.05, verbose=False)[0].boxes
        wanted = again(torch.from_numpy(picture).flip(2).permute(2, 0, 1)[None].float() / 255)[0]
        assert len(boxes) and float(boxes.conf.max()) == pytest.approx(float(wanted[0, 4:].detach().max()), abs=1e-3)


def test_what_is_told_of_a_plan(tiny: nn.Module) -> None:
    method = Weights(layers=("model.3",), sparsity=0.75)
    told = method.describe(method.plan(tiny, MATERIAL))
    weights, kept = 32 * 32 * 9, 32 * 32 * 9 // 4
    assert told == {
        "weights": weights,
        "zeros": 3 * kept,
        "sparsity": 0.75,
        "dense_mb": 4 * weights / 1e6,
        "csr_mb": (8 * kept + 4 * 33) / 1e6,
        "bitmap_mb": (4 * kept + weights / 8) / 1e6,
        "layers": {"model.3.conv": 0.75},
    }
