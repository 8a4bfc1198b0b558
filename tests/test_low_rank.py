"""Low rank: factors that lose what they say, exact at full rank, in stock files, and with channels that can be cut."""

from __future__ import annotations

from pathlib import Path

import darknet_nets as nets
import numpy as np
import pytest
import torch
from networks import detector as untrained
from networks import random_plan
from tiny import PX
from torch import Tensor, nn
from yolov5_files import small

from yolo_slim import SlimError, checkpoint, prune
from yolo_slim.channels import Trace, cut, masked, relative_difference, trace
from yolo_slim.channels.groups import same_wiring
from yolo_slim.compress.chains import TOLERANCE, _convolution, obstacle
from yolo_slim.compress.compact import Compact
from yolo_slim.compress.cp import Cp
from yolo_slim.compress.factors import Chain, Factors, SpatialSvd, Svd, Tucker2, balanced, product
from yolo_slim.compress.low_rank import LowRank
from yolo_slim.compress.method import Material, Plan
from yolo_slim.compress.second_moments import KINDS, second_moments
from yolo_slim.formats.families import for_classes
from yolo_slim.measure import cost as measured
from yolo_slim.mould import duplicate

pytest_plugins = ["tiny"]

WAYS: list[type[Factors]] = [Svd, SpatialSvd, Tucker2, Cp]
IMAGE = torch.rand(2, 3, PX, PX, generator=torch.Generator().manual_seed(1))
SOME = LowRank(energy=0.5, multiple=4)
"""Replaces most layers of the tiny detector, whose random weights have hardly a low rank."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run_chain(chain: Chain, old: nn.Conv2d, x: Tensor) -> Tensor:
    for step, weight in chain:
        x = _convolution(old, step, weight, x.shape[1])(x)
    return x


def same_state(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# ---- factors ----


def test_the_oracle_of_a_matrix() -> None:
    """O20: what rank 2 of the seeded 8 x 6 loses is the tail of its squared singular values, 16.82768."""
    torch.manual_seed(0)
    matrix = torch.randn(8, 6, dtype=torch.float64)
    factors, rank = Svd(matrix[:, :, None, None], None), np.array([2])
    lost = (matrix - product(factors.chain(rank), 6)[:, :, 0, 0]).square().sum()
    assert float(lost) == pytest.approx(16.82768, abs=1e-4)
    assert float(lost) == pytest.approx(float(torch.linalg.svdvals(matrix)[2:].square().sum()))
    assert 1 - factors.energies(rank[None])[0] == pytest.approx(float(lost / matrix.square().sum()))


GEOMETRY = [
    pytest.param(4, 5, 3, {"stride": 2, "padding": 1}, id="O20: 3 x 3 at stride 2"),
    pytest.param(3, 6, 6, {"stride": 2, "padding": 2}, id="the stem: 6 x 6"),
    pytest.param(4, 4, (1, 5), {"padding": (0, 2)}, id="a row"),
    pytest.param(5, 4, (3, 1), {"padding": (1, 0), "stride": (2, 1)}, id="a column"),
    pytest.param(4, 6, (3, 5), {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}, id="all at once"),
    pytest.param(4, 5, 3, {"padding": "same", "dilation": 2}, id="padding by name"),
    pytest.param(4, 5, 3, {"padding": 1, "padding_mode": "reflect"}, id="padding by reflection"),
    pytest.param(4, 7, 1, {"stride": 2}, id="1 x 1 at stride 2"),
    pytest.param(1, 3, 3, {"padding": 1}, id="one channel read"),
    pytest.param(3, 1, 3, {"padding": 1}, id="one channel made"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("into", "out", "kernel", "more"), GEOMETRY)
@pytest.mark.parametrize("known", [False, True])
def test_full_rank_is_the_layer(way: type[Factors], into: int, out: int, kernel, more: dict, known: bool) -> None:
    """Any stride, padding and dilation; and the costs are those of the weights."""
    torch.manual_seed(0)
    layer, x = nn.Conv2d(into, out, kernel, bias=False, **more).double(), drawn(2, into, 13, 12)
    weight = layer.weight.detach()
    gram = None
    if known:
        samples = KINDS[way.moments](drawn(50, *weight.shape[1:], seed=1) + 1)[0]
        gram = samples.T @ samples / len(samples)
    factors = way(weight, gram)
    ranks = factors.ranks(1)
    chain = balanced(factors.chain(ranks[-1]))
    torch.testing.assert_close(run_chain(chain, layer, x), layer(x), rtol=1e-5, atol=1e-5)
    assert factors.energies(ranks[-1:])[0] == pytest.approx(1)
    for rank in (ranks[0], ranks[-1]):
        counts = factors.counts(rank[None])[0]
        assert [weight.numel() for _, weight in factors.chain(rank)] == counts[counts > 0].tolist()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("known", [False, True])
def test_energy_is_what_is_kept(way: type[Factors], known: bool) -> None:
    """Of the weights or, with second moments that are white but for channels, of the output."""
    weight = drawn(6, 5, 3, 3)
    root = torch.diag(torch.arange(1.0, 6, dtype=torch.float64)) if known else torch.eye(5, dtype=torch.float64)
    width = {"patch": 9, "columns": 3, "channels": 1}[way.moments]
    gram = torch.kron(root @ root.T, torch.eye(width, dtype=torch.float64)) if known else None
    factors = way(weight, gram)
    seen = torch.einsum("oihw,ij->ojhw", weight, root)
    for rank in factors.ranks(2)[:5]:
        gap = torch.einsum("oihw,ij->ojhw", weight - product(balanced(factors.chain(rank)), 5), root)
        kept = 1 - float(gap.square().sum() / seen.square().sum())
        assert factors.energies(rank[None])[0] == pytest.approx(kept, abs=2e-3 if known else 1e-9)  # the ridge


def test_cp_finds_a_sum_of_terms() -> None:
    """Three of them, drawn: lost is what the sweeps leave, and the error never rises with the rank."""
    terms = [drawn(n, 3, seed=n) for n in (8, 7, 3, 3 + 0)]
    factors = Cp(torch.einsum("or,ir,hr,wr->oihw", *terms), None)
    kept = factors.energies(factors.ranks(1)[:6])
    assert (np.diff(kept) >= 0).all()
    assert kept[2] > 0.98 and kept[5] > 0.99 > kept[0]


def test_cp_by_bisection_is_the_first_that_is_enough() -> None:
    factors = Cp(drawn(8, 8, 3, 3), None)
    ranks = factors.ranks(4)
    at = int(np.argmax(factors.energies(ranks, 0.7) >= 0.7))
    assert Cp(drawn(8, 8, 3, 3), None).energies(ranks[[at - 1]])[0] < 0.7 <= factors.energies(ranks[[at]])[0]


def test_balanced_is_the_same_product() -> None:
    """Factors a thousand apart; also those of each channel alone, and a channel that nothing reads."""
    weights = [drawn(4, 3, 1, 1) * 1e3, drawn(4, 1, 3, 1), drawn(5, 4, 1, 1) * 1e-3]
    weights[2][:, 1] = 0
    chain = list(zip(("", "h", ""), weights, strict=True))
    after = balanced(chain)
    torch.testing.assert_close(product(after, 3), product(chain, 3))
    sizes = [float(weight.abs().max()) for _, weight in (after[0], after[2])]
    assert max(sizes) / min(sizes) < 1e3


# ---- second moments ----


@pytest.fixture(scope="module")
def wiring(loaded: nn.Module) -> Trace:
    return trace(loaded, PX)


def test_second_moments_are_those_of_the_patches(loaded: nn.Module) -> None:
    """Of layer 1, by unfolding what it reads; all positions are drawn at this size."""
    small_image = IMAGE[:, :, :16, :16]
    found = second_moments(loaded, {"model.1.conv": KINDS}, [small_image], seed=0)
    with torch.no_grad():
        read = loaded.model[0](small_image)
    x = nn.functional.unfold(read, 3, padding=1, stride=2).permute(0, 2, 1).flatten(0, 1).double()
    torch.testing.assert_close(found["model.1.conv", "patch"], x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    x = x.unflatten(1, (16, 3, 3))
    one = torch.einsum("nchw,nchw->c", x, x) / (9 * len(x))
    torch.testing.assert_close(found["model.1.conv", "channels"].diagonal(), one, rtol=1e-4, atol=1e-5)
    columns = torch.einsum("nchw,ndgw->chdg", x, x).flatten(0, 1).flatten(1) / (3 * len(x))
    torch.testing.assert_close(found["model.1.conv", "columns"], columns, rtol=1e-4, atol=1e-5)
    windows = torch.einsum("nca,ncb->cab", x.flatten(2), x.flatten(2)) / len(x)
    torch.testing.assert_close(found["model.1.conv", "windows"], windows, rtol=1e-4, atol=1e-5)


def test_memory_is_a_bound_and_the_smallest_come_first(loaded: nn.Module) -> None:
    wanted = {"model.1.conv": ["patch", "channels"], "model.3.conv": ["patch"]}
    room = 8 * (16**2 + (16 * 9) ** 2)
    found = second_moments(loaded, wanted, [IMAGE], seed=0, memory=room)
    assert {*found} == {("model.1.conv", "channels"), ("model.1.conv", "patch")}
    assert second_moments(loaded, wanted, [IMAGE], seed=0, memory=0) == {}
    assert second_moments(loaded, wanted, [], seed=0) == {}


def test_the_images_make_the_output_nearer(loaded: nn.Module) -> None:
    """Images of one shade: most directions are never read."""
    shades = torch.rand(4, 3, 1, 1, generator=torch.Generator().manual_seed(2)).expand(-1, -1, PX, PX).contiguous()
    blind, seeing = (
        method.apply(loaded, method.plan(loaded, Material(PX, [shades])))
        for method in (
            LowRank("spatial_svd", 0.6, multiple=2, layers=("model.3",), data_aware=aware) for aware in (False, True)
        )
    )
    with torch.no_grad():
        x = loaded.model[:3](shades)
        gaps = [float((net.model[3](x) - loaded.model[3](x)).square().mean()) for net in (blind, seeing)]
    sizes = [sum(p.numel() for p in net.parameters()) for net in (blind, seeing)]
    assert sizes[1] < sizes[0] and gaps[1] < gaps[0]  # fewer ranks, and still nearer


# ---- a detector ----


@pytest.mark.parametrize("how", ["auto", "svd", "spatial_svd", "tucker2", "cp"])
def test_planned_applied_and_proved(how: str, loaded: nn.Module, wiring: Trace) -> None:
    """Costs are to the last multiply-accumulate those of the trace; what is given stays as it is; twice the same."""
    some = ("model.1", "model.3", "model.6") if how == "cp" else ()  # slow
    before, method = duplicate(loaded), LowRank(how, 0.5, multiple=4, layers=some)
    plan = method.plan(loaded, Material(PX))
    compressed = method.apply(loaded, plan)
    assert same_state(before, loaded)
    assert method.prove(loaded, compressed, plan)["difference"] < TOLERANCE
    again = method.apply(loaded, method.plan(loaded, Material(PX)))
    assert same_state(again, compressed)
    macs = [sum(conv.macs for conv in found.convs.values()) for found in (wiring, trace(compressed, PX))]
    params = [sum(p.numel() for p in net.parameters()) for net in (loaded, compressed)]
    told = method.describe(plan)
    assert (told["macs_saved"], told["params_saved"]) == (macs[0] - macs[1], params[0] - params[1])
    assert told["layers"] == len(plan.layers) and told["least_energy"] >= 0.5
    for layer in plan.layers.values():
        assert layer["macs"][1] < layer["macs"][0] and layer["params"][1] < layer["params"][0]
        assert layer["energy"] >= 0.5
        assert all(rank % 4 == 0 for rank in layer["ranks"])


def test_auto_takes_what_saves_more(loaded: nn.Module) -> None:
    def macs(how: str) -> dict[str, int]:
        layers = LowRank(how, 0.5, multiple=4).plan(loaded, Material(PX)).layers
        return {name: layer["macs"][1] for name, layer in layers.items()}

    auto, spatial, tucker = map(macs, ("auto", "spatial_svd", "tucker2"))
    assert auto.keys() == spatial.keys() | tucker.keys()
    large = 1 << 40
    assert auto == {name: min(spatial.get(name, large), tucker.get(name, large)) for name in auto}


def test_the_last_factor_stands_where_the_layer_stood(loaded: nn.Module) -> None:
    """In the block, with its norm; the row has what Ultralytics notes on a layer, and training is what it was."""
    plan = SOME.plan(loaded, Material(PX))
    compressed = SOME.apply(loaded, plan)
    assert plan.layers["model.3.conv"]["steps"] and isinstance(compressed.model[3], nn.Sequential)
    for name in ("i", "f", "type"):
        assert getattr(compressed.model[3], name) == getattr(loaded.model[3], name)
    block = compressed.model[3][-1]
    assert type(block) is type(loaded.model[3]) and torch.equal(block.bn.running_mean, loaded.model[3].bn.running_mean)
    for new, old in plan.refit.items():
        assert compressed.get_parameter(f"{new}.weight").shape[0] == loaded.get_parameter(f"{old}.weight").shape[0]
    assert {*plan.refit.values()} == {*plan.layers}
    assert all(not module.training for module in compressed.modules())
    assert all(p.requires_grad for name, p in compressed.named_parameters() if "dfl" not in name)


def test_what_reads_the_image_and_what_predicts_stay_unless_named(loaded: nn.Module) -> None:
    plan = LowRank(energy=0.3, multiple=1).plan(loaded, Material(PX))
    ends = {"model.0.conv", "model.10.cv2.0.2", "model.10.cv3.0.2"}
    assert {plan.kept[name] for name in ends} == {"reads the image, or predicts"} and not ends & plan.layers.keys()
    assert "model.0.conv" in LowRank(energy=0.3, multiple=1, first=True).plan(loaded, Material(PX)).layers
    named = LowRank(energy=0.3, multiple=1, layers=("model.0", "*.cv2.0.2")).plan(loaded, Material(PX))
    assert {*named.layers} == {"model.0.conv", "model.10.cv2.0.2"}


def test_a_bias_goes_with_the_last_factor_and_other_classes_are_put_in_there(loaded: nn.Module, tmp_path: Path) -> None:
    method = LowRank(energy=0.3, multiple=1, layers=("model.10.cv2.0.2", "model.10.cv3.0.2"))
    plan = method.plan(loaded, Material(PX))
    compressed = method.apply(loaded, plan)
    method.prove(loaded, compressed, plan)
    row = compressed.model[10].cv2[0][2]
    assert row[0].bias is None and torch.equal(row[-1].bias, loaded.model[10].cv2[0][2].bias)
    assert plan.refit["model.10.cv2.0.2.1"] == "model.10.cv2.0.2"
    other = for_classes(compressed, {0: "red", 1: "green"})
    assert checkpoint.load(checkpoint.save(other, tmp_path / "other.pt")).model[10].cv3[0][2][-1].out_channels == 2


def test_the_file_is_stock(loaded: nn.Module, tmp_path: Path) -> None:
    """Saved, loaded here and by Ultralytics, whose prediction merges convolutions and norms: the same outputs."""
    from ultralytics import YOLO

    path = checkpoint.save(SOME.apply(loaded, SOME.plan(loaded, Material(PX))), tmp_path / "low.pt")
    ours, theirs = checkpoint.load(path), YOLO(path)
    picture = (IMAGE[0].permute(1, 2, 0) * 255).byte().numpy()
    assert len(theirs.predict(picture, imgsz=PX, conf=0.01, verbose=False)[0].boxes)
    used = theirs.predictor.model  # what has just predicted
    assert not any(isinstance(module, nn.BatchNorm2d) for module in used.modules())
    assert relative_difference(ours, used, IMAGE) < 1e-4


def test_a_detector_with_anchors(tmp_path: Path) -> None:
    """Of the YOLOv5 repository, whose door knows one convolution a level: those stay, named or not."""
    whole = checkpoint.load(small(tmp_path))
    method = LowRank(energy=0.4, multiple=1, layers=("*",))
    plan = method.plan(whole, Material(PX))
    compressed = method.apply(whole, plan)
    method.prove(whole, compressed, plan)
    assert any(name in plan.kept for name in plan.kept if ".m." in name and "list" in plan.kept[name])
    again = checkpoint.load(checkpoint.save(compressed, tmp_path / "low.pt"))
    assert relative_difference(compressed, again, IMAGE) < 1e-2  # fp16
    assert relative_difference(compressed, again, IMAGE) < relative_difference(compressed, whole, IMAGE)


@pytest.mark.parametrize("how", ["spatial_svd", "tucker2", "cp"])
def test_channels_between_factors_are_free_and_can_be_cut(how: str, loaded: nn.Module) -> None:
    """Masked equals cut on what is left; the ranks are groups of their own."""
    method = LowRank(how, 0.5, multiple=4, layers=("model.1", "model.3", "model.5"))
    plan = method.plan(loaded, Material(PX))
    compressed = method.apply(loaded, plan)
    found = trace(compressed, PX)
    made = {name.removesuffix(".weight") for name in plan.tensors} - plan.refit.keys()
    assert made and made <= {name for group in found.free for name in group.producers}
    kept = random_plan(found, np.random.default_rng(0))
    slim = cut(compressed, found, kept)
    assert relative_difference(masked(compressed, found, kept), slim, IMAGE) < 1e-5
    assert same_wiring(found, kept, trace(slim, PX))
    pruned = prune(compressed, imgsz=PX, target={"flops": 0.8}, round_to=1)
    assert pruned.cost.after.macs <= 0.8 * pruned.cost.before.macs


@pytest.mark.parametrize(
    ("method", "said"),
    [
        pytest.param(LowRank(energy=0.3, multiple=2), "layer 1 .* has become 2 convolutions", id="two for one"),
        pytest.param(Compact("group"), "layer 1 .* has become one in 2 groups", id="in groups, where it had none"),
    ],
)
@pytest.mark.parametrize("file", ["net.pt", "net.cfg"])
def test_what_no_cfg_can_say_is_not_written(method: LowRank | Compact, said: str, file: str, tmp_path: Path) -> None:
    """A section of Darknet's is one convolution: nothing would read such a file again."""
    net = nets.detector(nets.net(PX, PX) + nets.conv(16, 3, 2) + nets.conv(32, 3, 2) + nets.head())
    plan = method.plan(net, Material(PX))
    compressed = method.apply(net, plan)
    method.prove(net, compressed, plan)
    with pytest.raises(SlimError, match=said):
        checkpoint.save(compressed, tmp_path / file)
    assert not [*tmp_path.iterdir()]


# ---- budgets ----


@pytest.mark.parametrize("cost", ["flops", "params"])
def test_a_target_is_met_and_little_is_left_of_it(cost: str, loaded: nn.Module, wiring: Trace) -> None:
    method = LowRank(target={cost: 0.85}, multiple=2)
    plan = method.plan(loaded, Material(PX))
    compressed = method.apply(loaded, plan)

    whole, left = (getattr(measured(net, PX), cost) for net in (loaded, compressed))
    share = left / whole  # as thop counts, batch norms and all
    assert 0.84 < share <= 0.85
    assert all("target" in why or "saves" in why or "predicts" in why or "table" in why for why in plan.kept.values())


def test_a_target_out_of_reach_says_what_is_in_reach(loaded: nn.Module) -> None:
    with pytest.raises(SlimError, match=r"cannot reach flops x0\.05: with the lowest ranks there are, x0\.\d+ is left"):
        LowRank(target={"flops": 0.05}).plan(loaded, Material(PX))


def test_a_budget_loses_less_than_one_energy_for_all(loaded: nn.Module, wiring: Trace) -> None:
    """At the same cost, the product of what layers keep is no smaller."""

    def kept(plan: Plan) -> float:
        return float(np.prod([layer["energy"] for layer in plan.layers.values()]))

    even = LowRank(energy=0.6, multiple=2).plan(loaded, Material(PX))
    total = measured(loaded, PX).macs
    saved = sum(layer["macs"][0] - layer["macs"][1] for layer in even.layers.values())
    chosen = LowRank(target={"flops": 1 - saved / total}, multiple=2).plan(loaded, Material(PX))
    assert kept(chosen) > kept(even)


# ---- what goes wrong ----

SETTINGS = [
    pytest.param({"how": "vbmf"}, "how: expected one of", id="no such way"),
    pytest.param({"energy": 0.0}, "energy: expected a share above 0", id="nothing kept"),
    pytest.param({"energy": 1.01}, "energy", id="more than all"),
    pytest.param({"energy": float("nan")}, "energy", id="no number"),
    pytest.param({"multiple": 0}, "multiple: expected 1 to 1024, got 0", id="multiples of nothing"),
    pytest.param({"target": {}}, "target: expected one of flops, params", id="no budget"),
    pytest.param({"target": {"flops": 0.5, "params": 0.5}}, "target", id="two budgets"),
    pytest.param({"target": {"latency": 0.5}}, "target", id="a budget that is not known here"),
    pytest.param({"target": {"flops": 1.0}}, "target", id="all of it"),
]


@pytest.mark.parametrize(("settings", "said"), SETTINGS)
def test_settings_are_checked(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LowRank(**settings)


REFUSED = [
    pytest.param({"energy": 1.0}, "nothing to replace", id="all energy: nothing saves"),
    pytest.param({"multiple": 1024}, "nothing to replace", id="no rank is so large"),
    pytest.param({"layers": ("modle.3",)}, "matches no layer; did you mean model", id="a pattern that is mistyped"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_cannot_be_done_is_said(settings: dict, said: str, loaded: nn.Module) -> None:
    with pytest.raises(SlimError, match=said):
        LowRank(**settings).plan(loaded, Material(PX))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float, detector: nn.Module) -> None:
    with torch.no_grad():
        detector.model[3].conv.weight[0, 0, 0, 0] = value
    with pytest.raises(SlimError, match=r"model\.3\.conv: its weights are not all finite"):
        SOME.plan(detector, Material(PX))
    with torch.no_grad():
        detector.model[3].conv.weight.zero_()
        detector.model[0].bn.bias[0] = value
    with pytest.raises(SlimError, match="reads is not finite"):
        SOME.plan(detector, Material(PX, [IMAGE]))


@pytest.mark.parametrize("how", ["auto", "cp"])
def test_weights_of_zero_have_the_lowest_rank(how: str, detector: nn.Module) -> None:
    with torch.no_grad():
        detector.model[3].conv.weight.zero_()
    method = LowRank(how, multiple=4, layers=("model.3",))
    plan = method.plan(detector, Material(PX, [IMAGE]))
    compressed = method.apply(detector, plan)
    assert method.prove(detector, compressed, plan)["difference"] < TOLERANCE
    assert {*plan.layers["model.3.conv"]["ranks"]} == {4} and plan.layers["model.3.conv"]["energy"] == 1


def test_factors_that_are_not_those_of_the_plan_are_seen(loaded: nn.Module) -> None:
    plan = SOME.plan(loaded, Material(PX))
    compressed = SOME.apply(loaded, plan)
    with torch.no_grad():
        compressed.model[3][0].weight[0] *= 1.01
    with pytest.raises(SlimError, match="do not give what was planned"):
        SOME.prove(loaded, compressed, plan)


def test_a_layer_that_others_merge_or_read_by_name_stays() -> None:
    """YOLOv9's RepConv looks for `conv1.conv`; a grouped layer has no factors of this kind."""
    net = untrained("yolov9t")
    merged = [name for name, m in net.named_modules() if name.endswith("conv1.conv") and isinstance(m, nn.Conv2d)]
    assert merged and all("merges" in (obstacle(net, name) or "") for name in merged)
    method = LowRank("spatial_svd", 0.5, layers=("model.2",))
    plan = method.plan(net, Material(PX))
    assert all(plan.kept[name] for name in merged if name.startswith("model.2."))
    compressed = method.apply(net, plan)
    method.prove(net, compressed, plan)
    whole = duplicate(compressed)
    assert relative_difference(whole, compressed.fuse(verbose=False), IMAGE) < 1e-4


class Plain(nn.Module):
    """Two calls of one layer without a norm, a layer in groups, and one that is read by two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.twice = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.alias, self.grouped, self.head = self.twice, nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            self.grouped(torch.relu(self.alias(torch.relu(self.twice(torch.relu(self.stem(x)))))))
        ).flatten(2)


def test_a_shared_layer_is_replaced_wherever_it_stands() -> None:
    net, method = Plain(), LowRank("spatial_svd", 0.3, multiple=2, layers=("twice", "grouped", "head"))
    plan = method.plan(net, Material(PX))
    compressed = method.apply(net, plan)
    assert compressed.alias is compressed.twice and isinstance(compressed.twice, nn.Sequential)
    assert method.prove(net, compressed, plan)["difference"] < TOLERANCE
    assert plan.kept["grouped"] == "grouped"
    macs = [sum(conv.macs for conv in trace(each, PX).convs.values()) for each in (net, compressed)]
    assert method.describe(plan)["macs_saved"] == macs[0] - macs[1]
