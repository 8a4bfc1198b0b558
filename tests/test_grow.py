"""Growth changes nothing: not what any detector gives, not who is wired to whom; and training can use it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import PX as SMALL
from networks import Network, detector
from tiny import PX, TINY, build
from torch import nn
from ultralytics import YOLO
from ultralytics.utils import callbacks
from yolov5_files import of

import yolo_slim
from yolo_slim import checkpoint
from yolo_slim.channels import relative_difference, trace
from yolo_slim.compress import METHODS, Material, Plan
from yolo_slim.compress.grow import Grow
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate
from yolo_slim.training.pairs import same_channels
from yolo_slim.training.trainer import SlimTrainer

pytest_plugins = ["tiny"]

NARROW = 0.25


def grown(net: nn.Module, px: int = PX, **settings):
    """The plan, and what has grown by it."""
    method = Grow(**settings)
    plan = method.plan(net, Material(px))
    return plan, method.apply(net, plan)


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("spread", [0.0, 0.25, 0.99])
@pytest.mark.parametrize("act", [nn.SiLU(), nn.LeakyReLU(0.1), nn.ReLU()])
def test_the_oracle_of_net2wider(act, spread):
    """Each of two channels twice, the second thrice; each reader's weights shared out: equal to 2e-16, with BN too."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), act, nn.Conv2d(2, 4, 1)).double().eval()
    net[1].running_mean.normal_()
    plan, wide = grown(net, wider={"0": 5}, spread=spread)
    assert sorted(plan.layers["0"]["outputs"]) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert wide[0].weight.shape == (5, 3, 3, 3) and wide[1].num_features == 5 and wide[3].weight.shape == (4, 5, 1, 1)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    assert (net(x) - wide(x)).abs().max() < 1e-15
    took = torch.tensor(plan.layers["0"]["outputs"])
    sums = torch.zeros(4, 2, dtype=torch.float64).index_add_(1, took, wide[3].weight[:, :, 0, 0].detach())
    assert torch.allclose(sums, net[3].weight[:, :, 0, 0], rtol=1e-15)
    alike = wide[3].weight[:, 0, 0, 0] * np.sum(plan.layers["0"]["outputs"].count(0)) - net[3].weight[:, 0, 0, 0]
    assert bool((alike.abs() < 1e-15).all()) == (spread == 0), "at spread 0 each gets 1/times"
    net.train(), wide.train()
    assert (net(x) - wide(x)).abs().max() < 1e-14, "also with the batch's statistics"


def test_the_channel_that_is_used_most_is_there_again():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.SiLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1.0, 3, 2], [0, -3, 2]])[:, :, None, None])
    assert [grown(net, wider={"0": n})[0].layers["0"]["outputs"] for n in (4, 5, 7)] == [
        [0, 1, 1, 2],
        [0, 1, 1, 2, 2],
        [0, 0, 1, 1, 1, 2, 2],
    ]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("yolov5n", id="C3, shortcuts"),
        pytest.param("yolov3-tiny", id="pools, padding"),
        pytest.param("yolov8n", id="C2f: parts of a chunk grow alike"),
        pytest.param("yolov10n", id="depthwise convolutions, attention"),
        pytest.param("yolo11n", id="C3k2, attention"),
    ],
)
def test_every_detector_gives_what_it_gave(name):
    net = detector(name, width=NARROW)
    before = state(net)
    plan, wide = grown(net, wider=1.5, deeper=tuple(trace(net, PX).blocks)[:2])
    assert Grow().prove(net, wide, plan)["difference"] < 1e-6
    end2end = getattr(net.model[-1], "end2end", False)  # boxes sorted by score: in fp32 a rounding error can swap two
    a, b = (duplicate(each).double() if end2end else each for each in (net, wide))
    assert relative_difference(a, b, torch.rand(1, 3, PX, PX, dtype=next(a.parameters()).dtype)) < 1e-5
    assert same(state(net), before), "the one given is left alone"
    told = Grow().describe(plan)
    assert told["channels"][1] >= 1.4 * told["channels"][0] > 0
    assert told["wider"] > 0.5 * sum(isinstance(m, nn.Conv2d) for m in net.modules())


@pytest.mark.parametrize("first", range(0, 36, 12))
def test_random_networks_give_what_they_gave(first):
    """Of YOLO's operators, friendly and hostile; `prove` compares wires as well."""
    rng, more = np.random.default_rng(first), []
    for seed in range(first, first + 12):
        net = Network(seed)
        wider = {g.name: int(rng.integers(g.size, 3 * g.size)) for g in trace(net, SMALL).free}
        if not any(w > g.size for g in trace(net, SMALL).free for w in [wider[g.name]]):
            continue
        plan, wide = grown(net, SMALL, wider=wider)
        assert Grow().prove(net, wide, plan)["difference"] < 1e-6, seed
        more.append(seed)
    assert len(more) > 8


def test_widths_grow_on_to_a_multiple():
    net = detector("yolov5n", width=NARROW)
    plan, wide = grown(net, wider=1.1, round_to=8)
    free = {name for g in trace(net, PX).free for name in g.producers}
    assert {m.out_channels % 8 for n, m in wide.named_modules() if n in free} == {0}
    assert all(after >= 1.1 * before - 0.5 for before, after in (e["width"] for e in plan.layers.values()))


# ---- deeper ----


def test_the_trap_of_net2deeper():
    """An identity convolution in front of SiLU is none: act(act(x)) is not act(x)."""
    x = torch.linspace(-4, 4, 801)
    silu = nn.functional.silu
    assert (silu(silu(x)) - silu(x)).abs().max() > 0.2
    assert torch.equal(torch.relu(torch.relu(x)), torch.relu(x))


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolov3"])
def test_every_branch_may_be_followed_by_another(name):
    """In a Sequential, in a list that is concatenated, as a layer of the detector itself."""
    net = detector(name, width=0.05 if name == "yolov3" else NARROW)
    blocks = trace(net, PX).blocks
    outermost = [b for b in blocks if not any(b.startswith(f"{o}.") for o in blocks)]
    plan, deep = grown(net, wider=1, deeper=tuple(outermost))
    image = torch.rand(1, 3, PX, PX)
    assert relative_difference(net, deep, image) < 1e-6
    assert len(trace(deep, PX).blocks) == len(blocks) + len(outermost)
    assert Grow().prove(net, deep, plan)["difference"] < 1e-6
    # What was put in learns: its last scale has a gradient.
    sum(t.float().square().sum() for t in flat(deep.train()(image))).backward()
    twin = deep.get_submodule(f"{outermost[0]}.1")
    last = [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    assert (last.weight == 0).all() and last.weight.grad.abs().max() > 0


def flat(tree):
    """Every tensor in there."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [t for v in (tree.values() if isinstance(tree, dict) else tree) for t in flat(v)]


class Twisted(nn.Module):
    """x + f(x) where f adds a constant behind its last convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x + nn.functional.hardswish(self.conv(x) * 2 + self.conv(x)).cos()


# ---- copies learn apart ----


@pytest.mark.parametrize("spread", [0.0, 0.25])
def test_copies_that_are_read_alike_stay_copies(spread):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 8, 1))
    plan, wide = grown(net, wider={"0": 8}, spread=spread)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        wide(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    assert plan.layers["0"]["outputs"] == [0, 0, 1, 1, 2, 2, 3, 3]
    apart = (wide[0].weight[0::2] - wide[0].weight[1::2]).abs().max()
    assert (apart > 1e-4) if spread else (apart < 1e-6)


# ---- in files, in stock Ultralytics, and in training ----


@pytest.fixture
def marked(loaded):
    """Grown in both ways, and noted."""
    plan, net = grown(loaded, wider=1.5, deeper=("model.4.m.0",))
    checkpoint.mark_grown(net, plan.grown)
    return net


def test_it_is_saved_loaded_and_run_by_stock_ultralytics(marked, tmp_path):
    file = checkpoint.save(marked, tmp_path / "grown.pt")
    image = torch.rand(1, 3, PX, PX)
    assert relative_difference(checkpoint.load(file), duplicate(marked).half().float(), image) == 0
    stock = YOLO(file)
    (boxes,) = stock.predict(np.full((PX, PX, 3), 99, np.uint8), imgsz=PX, conf=1e-3, verbose=False)
    assert len(boxes.boxes) and not any(isinstance(m, nn.BatchNorm2d) for m in stock.predictor.model.modules())


def test_the_stock_trainer_stops_and_ours_goes_on(marked, original, data, tmp_path, monkeypatch):
    file = checkpoint.save(marked, tmp_path / "grown.pt")
    how = {"data": str(data), "epochs": 1, "imgsz": PX, "batch": 4, "device": "cpu", "plots": False, "verbose": False,
           "project": str(tmp_path), "val": False}  # fmt: skip
    monkeypatch.setattr(callbacks, "add_integration_callbacks", lambda trainer: None)
    with pytest.raises(Exception, match="grown beyond its YAML"):
        YOLO(file).train(**how)
    YOLO(file).train(trainer=SlimTrainer, **how, name="ours")
    trained = checkpoint.load(tmp_path / "ours" / "weights" / "last.pt")
    assert trained.model[1].conv.out_channels == 48 and isinstance(trained.model[4].m[0], nn.Sequential)


def test_a_detector_with_anchors_is_written_and_read(tmp_path):
    net = yolo_slim.load(of("v6.0"))
    plan, wide = grown(net, wider=1.25, deeper=tuple(trace(net, PX).blocks)[:1])
    checkpoint.mark_grown(wide, plan.grown)
    again = yolo_slim.load(yolo_slim.save(wide, tmp_path / "grown.pt"))
    assert relative_difference(net, again, torch.rand(1, 3, PX, PX)) < 1e-2  # in fp16
    assert same({k: v.half() for k, v in state(wide).items()}, {k: v.half() for k, v in state(again).items()})


def test_who_is_who_is_known_through_cuts_and_growth(loaded, tmp_path):
    """Cut, grown, cut, grown: each channel of the student is told which of the teacher's it comes from."""
    image, net, teacher = torch.rand(1, 3, PX, PX), loaded, loaded
    for seed, times in enumerate((1.4, 1.7)):
        pruned = yolo_slim.prune(net, imgsz=PX, ratio=0.3, round_to=1, min_channels=1, absorb="none", recalibrate=0)
        plan, net = grown(pruned.model, wider=times)
        checkpoint.mark_grown(net, plan.grown)
        if seed == 0:
            middle = net
    net = yolo_slim.prune(net, imgsz=PX, ratio=0.1, round_to=1, min_channels=1, absorb="none", recalibrate=0).model
    net = checkpoint.load(checkpoint.save(net, tmp_path / "a.pt"))
    for whole in (teacher, middle):
        who = same_channels(net, whole, PX)
        assert {"model.0", "model.4", "model.9"} <= who.keys()
        # The first layer reads the image alone: its channels can be compared number by number.
        one, other = (checkpoint.save(each, tmp_path / "b.pt") and each.model[0](image) for each in (net, whole))
        assert torch.allclose(one, other[:, who["model.0"]], rtol=1e-2, atol=2e-3)
        assert all(len(who[f"model.{i}"]) == net.model[i].cv3.conv.out_channels for i in (4, 9))
    with pytest.raises(SlimError, match="their first cuts differ"):
        same_channels(middle, net, PX)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda slim: slim.update(grown={}), id="no list"),
        pytest.param(lambda slim: slim.update(grown=[1]), id="no step"),
        pytest.param(lambda slim: slim["grown"][0].pop("cuts"), id="no cuts"),
        pytest.param(lambda slim: slim["grown"][0].update(cuts=[{"a": [2, 1]}]), id="a cut that is none"),
        pytest.param(lambda slim: slim["grown"][0].update(outputs={"a": [-1]}), id="a number below zero"),
        pytest.param(lambda slim: slim["grown"][0].update(outputs={"a": "text"}), id="a text"),
    ],
)
def test_notes_that_are_none_are_refused(marked, tmp_path, spoil):
    spoil(marked.yaml["slim"])
    with pytest.raises(SlimError, match=r"is no sound detector: `yaml\.slim\.grown"):
        checkpoint.load(checkpoint.save(marked, tmp_path / "a.pt"))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"wider": 0.5}, "wider: expected 1 to 16", id="narrower"),
        pytest.param({"wider": float("nan")}, "wider: expected 1 to 16", id="no number"),
        pytest.param({"wider": {"a": 1.5}}, "wider: expected layers with whole numbers", id="half a channel"),
        pytest.param({"round_to": 0}, "round_to: expected 1 to 1024", id="multiples of nothing"),
        pytest.param({"spread": 1.0}, "spread: expected 0 to below 1", id="a copy that is not read"),
        pytest.param({"deeper": ("a", "a.b")}, "deeper: a.b and a lie in one another", id="one in the other"),
        pytest.param({"deeper": ("a", "a")}, "are the same", id="twice"),
    ],
)
def test_settings_out_of_bounds(settings, words):
    with pytest.raises(ValueError, match=words):
        Grow(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"wider": 1}, "grow has nothing to do", id="nothing"),
        pytest.param({"wider": {"model.1.conv": 32}}, "nothing to do", id="the width it has"),
        pytest.param({"wider": {"model.1.conv": 31}}, "has 32 channels, and can grow up to 16 times", id="narrower"),
        pytest.param({"wider": {"model.1.conv": 999}}, "not to 999", id="too wide"),
        pytest.param({"wider": {"model.99": 64}}, "model.99 is no convolution of this", id="not there"),
        pytest.param({"wider": {"model.10.cv2.0.2": 99}}, "keeps its width: ", id="it predicts"),
        pytest.param({"deeper": ("model.9",)}, "model.9 is no residual branch.*expected some of: model.4.m.0", id="C3"),
        pytest.param({"deeper": ("model.1",)}, "no layer under SiLU is the identity", id="a convolution"),
    ],
)
def test_what_cannot_grow_is_refused(loaded, settings, words):
    with pytest.raises(SlimError, match=words):
        Grow(**settings).plan(loaded, Material(PX))


def test_tied_layers_have_one_width(loaded):
    """A shortcut ties them: named by either, one group grows; two widths for it are refused."""
    group = next(g for g in trace(loaded, PX).free if len(g.producers) > 1)
    one, other, *_ = group.producers
    plans = [Grow(wider={name: group.size + 3}).plan(loaded, Material(PX)) for name in (one, other)]
    assert plans[0].layers == plans[1].layers and {one, other} <= plans[0].layers.keys()
    with pytest.raises(SlimError, match="two widths for layers that have one"):
        Grow(wider={one: group.size + 3, other: group.size + 4}).plan(loaded, Material(PX))


def test_a_branch_that_cannot_be_silenced_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Twisted(), nn.Conv2d(4, 2, 1))
    with pytest.raises(SlimError, match=r"grow.deeper: 1 cannot be silenced"):
        Grow(wider=1, deeper=("1",)).plan(net, Material(SMALL))


@pytest.mark.parametrize("layers", [{"x": {"outputs": [0, 0]}}, {"model.1.conv": {"outputs": [0, 0, 1]}}, {}])
def test_a_plan_of_another_detector_is_refused(loaded, layers, tmp_path):
    plan = Grow().plan(loaded, Material(PX))
    other = Plan({**plan.layers, **layers}) if layers else plan
    net = loaded if layers else build(tmp_path, text=TINY.replace("Conv, [32, 3, 2]", "Conv, [40, 3, 2]"))
    with pytest.raises(SlimError, match="the plan to grow is of another detector"):
        Grow().apply(net, other)


def test_a_wrong_growth_is_noticed(loaded):
    plan, wide = grown(loaded)
    with torch.no_grad():
        wide.model[1].conv.weight[0] += 1
    with pytest.raises(SlimError, match="growing changed the detector"):
        Grow().prove(loaded, wide, plan)


def test_it_is_a_method_and_the_same_every_time(loaded):
    assert METHODS["grow"] is Grow and Grow().hold(Plan({})) is None and Grow.changes_layers
    (one, a), (two, b) = grown(loaded), grown(loaded)
    assert one == two and same(state(a), state(b))
    assert one.kept and all(isinstance(reason, str) for reason in one.kept.values())
