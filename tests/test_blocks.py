"""Residual branches: found by the law, taken out without a trace, weighed by hand-made numbers, under one budget."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from networks import PX as SIDE
from networks import Act, Fn, Network, Probe, detector, random_plan, randomise_norms
from tiny import PX, TINY, build, run, run_alone
from torch import nn
from torch.nn.functional import max_pool2d
from ultralytics import YOLO
from ultralytics.nn.modules import C3, Bottleneck
from ultralytics.nn.modules.block import GhostBottleneck
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from yolo_slim import SlimError, checkpoint, prune, record
from yolo_slim.channels import (
    Constraints,
    Costs,
    Plan,
    absorb_missing,
    cut,
    drop,
    emptiable,
    flattened,
    input_means,
    masked,
    missing_means,
    relative_difference,
    replay,
    select,
    survivors,
    trace,
)
from yolo_slim.config import Prune
from yolo_slim.importance import Evidence, score_blocks
from yolo_slim.measure import cost
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.pruning.depth import chosen_blocks, lowest

pytest_plugins = ["tiny"]

SMALL = {"round_to": 4, "min_channels": 4}
TWO = TINY.replace("Conv, [32, 1]]", "C3, [32]]")
"""With a second residual branch."""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A checkpoint of the tiny detector with two residual branches. Read it only."""
    folder = tmp_path_factory.mktemp("two")
    return checkpoint.save(build(folder, text=TWO), folder / "tiny.pt")


@pytest.fixture(scope="module")
def loaded(original):
    """The detector in it. Leave it as it is."""
    return checkpoint.load(original)


def image(px, batch=1, dtype=torch.float32):
    return torch.rand(batch, 3, px, px, generator=torch.Generator().manual_seed(1), dtype=dtype)


def narrow(name):
    """A shipped detector at an eighth of its width: depth and wiring are its own."""
    described = yaml_model_load(f"{name}.yaml")
    if "scales" in described:
        described["scales"][described["scale"]][1] = 0.125
    else:
        described["width_multiple"] = 0.125
    torch.manual_seed(0)
    return randomise_norms(DetectionModel(described, verbose=False))


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- finding ----


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        pytest.param("yolov3", {2: 1, 4: 2, 6: 8, 8: 8, 10: 4}, id="yolov3: Darknet-53's 23; the head's have none"),
        pytest.param("yolov3-spp", {2: 1, 4: 2, 6: 8, 8: 8, 10: 4}, id="yolov3-spp: the same backbone"),
        pytest.param("yolov3-tiny", {}, id="yolov3-tiny: no shortcut at all"),
        pytest.param("yolov5n", {2: 1, 4: 2, 6: 3, 8: 1}, id="n: 3, 6, 9, 3 at depth 0.33"),
        pytest.param("yolov5s", {2: 1, 4: 2, 6: 3, 8: 1}, id="s: as n, wider"),
        pytest.param("yolov5m", {2: 2, 4: 4, 6: 6, 8: 2}, id="m: depth 0.67"),
        pytest.param("yolov5l", {2: 3, 4: 6, 6: 9, 8: 3}, id="l: depth 1"),
        pytest.param("yolov5x", {2: 4, 4: 8, 6: 12, 8: 4}, id="x: depth 1.33"),
        pytest.param("yolov5n-p6", {2: 1, 4: 2, 6: 3, 8: 1, 10: 1}, id="n-p6: a fifth stage"),
        pytest.param("yolov5s-p6", {2: 1, 4: 2, 6: 3, 8: 1, 10: 1}, id="s-p6"),
        pytest.param("yolov5m-p6", {2: 2, 4: 4, 6: 6, 8: 2, 10: 2}, id="m-p6"),
        pytest.param("yolov5l-p6", {2: 3, 4: 6, 6: 9, 8: 3, 10: 3}, id="l-p6"),
        pytest.param("yolov5x-p6", {2: 4, 4: 8, 6: 12, 8: 4, 10: 4}, id="x-p6"),
        pytest.param("yolov8n", {2: 1, 4: 2, 6: 2, 8: 1}, id="yolov8n: inside C2f"),
    ],
)
def test_blocks_of_shipped_detectors(name, stages):
    """Every bottleneck with a shortcut, and no other module: the head's C3 change features."""
    found = trace(narrow(name), 64).blocks
    numbers = [int(block.split(".")[1]) for block in found]
    assert {n: numbers.count(n) for n in dict.fromkeys(numbers)} == stages
    for block in found.values():
        assert block.convs == (f"{block.name}.cv1.conv", f"{block.name}.cv2.conv")
        assert block.ends == (f"{block.name}.cv2.conv",)


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_blocks_of_random_networks(first):
    """Exactly the bottlenecks that add, whatever stands around them; without them the rest is wired as it was."""
    seen = 0
    for seed in range(first, first + 20):
        net = Network(seed)
        found = trace(net, SIDE)
        adds = {n for n, m in net.named_modules() if isinstance(m, Bottleneck) and m.add}
        assert set(found.blocks) == adds, seed
        seen += len(adds)
        shallow = drop(net, adds)
        left = trace(shallow, SIDE)
        assert left.blocks == {}
        assert set(left.convs) == set(found.convs) - {c for b in found.blocks.values() for c in b.convs}
        assert relative_difference(silent(net, found, adds), shallow, image(SIDE)) < 1e-6, seed
    assert seen > 10


class Residual(nn.Module):
    """x and what a function makes of x and of f(x)."""

    def __init__(self, join, f=None, train_only=False):
        super().__init__()
        self.f, self.join, self.train_only = f or Act(8, 8, 3), join, train_only

    def forward(self, x):
        return self.f(x) if self.train_only and not self.training else self.join(x, self.f(x))


class TwoInputs(nn.Module):
    """Adds a second input."""

    def __init__(self):
        super().__init__()
        self.f = Act(8, 8)

    def forward(self, x, y):
        return x + self.f(y)


class Twice(nn.Module):
    """One residual branch, used two times."""

    def __init__(self, last=lambda x: x):
        super().__init__()
        self.block, self.last = Residual(torch.add), last

    def forward(self, x):
        return self.block(self.last(self.block(x)))


class Named(nn.Module):
    """Its input comes by name."""

    def __init__(self):
        super().__init__()
        self.block = Residual(torch.add)

    def forward(self, x):
        return self.block(x=torch.relu(x))


def added_in_place(x, y):
    y += x
    return y


def changed_after(x, y):
    total = x + y
    total[:, :, 0] = 0
    return total


@pytest.mark.parametrize(
    ("operator", "blocks"),
    [
        pytest.param(Residual(lambda x, y: x + y), {"operator"}, id="x + f(x)"),
        pytest.param(Residual(lambda x, y: y + x), {"operator"}, id="f(x) + x"),
        pytest.param(Residual(added_in_place), {"operator"}, id="added onto f(x)"),
        pytest.param(Residual(Fn(torch.add)), {"operator"}, id="a module of its own adds"),
        pytest.param(Residual(torch.add, nn.Conv2d(8, 8, 1)), {"operator"}, id="one convolution, nothing else"),
        pytest.param(nn.Sequential(Residual(torch.add)), {"operator.0"}, id="a Sequential hands it on"),
        pytest.param(Twice(), {"operator.block"}, id="used twice"),
        pytest.param(GhostBottleneck(8, 8), {"operator"}, id="GhostBottleneck"),
        pytest.param(
            Residual(lambda x, y: x + torch.sigmoid(y)), {"operator"}, id="a branch whose channels are not understood"
        ),
        pytest.param(
            nn.Sequential(Fn(torch.sigmoid), Residual(torch.add)), {"operator.1"}, id="an input that is not understood"
        ),
        pytest.param(
            Residual(torch.add, nn.Sequential(Act(8, 8), Residual(torch.add), Act(8, 8))),
            {"operator", "operator.f.1"},
            id="one inside another",
        ),
        pytest.param(Residual(lambda x, y: x - y), set(), id="a difference"),
        pytest.param(Residual(lambda x, y: x * y), set(), id="a product"),
        pytest.param(Residual(lambda x, y: torch.add(x, y, alpha=2)), set(), id="a weighted sum"),
        pytest.param(Residual(lambda x, y: torch.relu(x + y)), set(), id="an activation behind the sum"),
        pytest.param(Residual(changed_after), set(), id="the sum is written into"),
        pytest.param(Residual(lambda x, y: x.add_(y)), set(), id="the input is written into: others may read it"),
        pytest.param(Residual(lambda x, y: torch.tanh(x) + y), set(), id="not its input, but something made of it"),
        pytest.param(
            Residual(torch.add, nn.Sequential(nn.ReLU(inplace=True), Act(8, 8))), set(), id="the input was changed"
        ),
        pytest.param(Residual(lambda x, y: max_pool2d(x, 3, 1, 1) + y), set(), id="a pooled input"),
        pytest.param(Residual(torch.add, nn.ReLU()), set(), id="no convolution: nothing to save"),
        pytest.param(Residual(torch.add, train_only=True), set(), id="only in train mode"),
        pytest.param(Residual(lambda x, y: x.mean((2, 3), keepdim=True) + y), set(), id="a broadcast mean"),
        pytest.param(Residual(lambda x, y: x[:, :, :1, :1] + y), set(), id="a slice"),
        pytest.param(Named(), set(), id="input by name: nothing may stand in for it"),
        pytest.param(Bottleneck(8, 8, shortcut=False), set(), id="a bottleneck without shortcut"),
    ],
)
def test_what_is_a_residual_branch(operator, blocks):
    assert set(trace(Probe(operator), 16).blocks) == blocks


def test_the_whole_detector_and_two_inputs_are_none():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.join, self.head = Act(3, 8), TwoInputs(), nn.Conv2d(8, 3, 1)

        def forward(self, image):
            x = self.stem(image)
            return image + self.head(self.join(x, x))

    assert trace(Net(), 16).blocks == {}


# ---- taking them out ----


def silent(net, found, names):
    """The branches add nothing: scale and shift at their ends are zero (f(0) = 0 for what follows)."""
    copied = copy.deepcopy(net)
    for end in (e for name in names for e in found.blocks[name].ends):
        layer = copied.get_submodule(found.convs[end].norm or end)
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    return copied


@pytest.mark.parametrize("name", ["yolov3", "yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n"])
def test_dropped_is_silenced(name):
    """Every second block, then all: the same output as with branches that add zero, the rest wired as it was."""
    net = narrow(name) if name == "yolov3" else detector(name)
    net.double()  # yolov10n sorts its boxes
    found = trace(net, 64)
    x = image(64, dtype=torch.float64)
    for names in (list(found.blocks)[::2], list(found.blocks)):
        shallow = drop(net, names)
        assert relative_difference(silent(net, found, names), shallow, x) < 1e-9
        assert relative_difference(net, shallow, x) > 1e-4
        left = trace(shallow, 64)
        assert set(left.blocks) == set(found.blocks) - set(names)
        gone = {c for b in names for c in found.blocks[b].convs}
        assert set(left.convs) == set(found.convs) - gone
        assert Costs(left).of(Costs(left).full).params == sum(p.numel() for p in shallow.parameters())


def test_dropping_leaves_the_input_alone_and_keeps_what_is_noted_on_a_module():
    """Ultralytics notes on each layer where its input comes from."""
    net = narrow("yolov3").train()
    before = copy.deepcopy(net)
    shallow = drop(net, ["model.2", "model.4.0"])
    assert same_weights(net, before) and isinstance(net.model[2], Bottleneck)
    assert type(shallow.model[2]) is nn.Identity
    assert (shallow.model[2].f, shallow.model[2].i) == (net.model[2].f, net.model[2].i)
    assert shallow.training and shallow.model[2].training
    assert sum(p.numel() for p in shallow.parameters()) < sum(p.numel() for p in net.parameters())


# ---- what a branch said on average goes into its readers ----


def readers(found, names, left):
    return [c for c in left.convs.values() if any(c.name in found.blocks[n].readers for n in names)]


def shallow_and_healed(net, names, batches, px=16, flat=False):
    """(without the branches, the same with their means absorbed)."""
    found, shallow = trace(net, px), drop(net, names)
    left = trace(shallow, px)
    means = missing_means(flattened(net, found, names) if flat else net, shallow, readers(found, names, left), batches)
    return shallow, absorb_missing(shallow, left, means)


def constant_branches(shift):
    """C3(8, 8, n=3), all of whose readers are 1x1; the first two branches say act(shift), whatever comes in."""
    net = randomise_norms(C3(8, 8, n=3))
    with torch.no_grad():
        for bottleneck in net.m[:2]:
            bottleneck.cv2.bn.weight.zero_()
            bottleneck.cv2.bn.bias.mul_(shift)
    return net


@pytest.mark.parametrize("flat", [False, True], ids=["measured", "beta"])
def test_a_branch_that_says_nothing_leaves_bit_by_bit(flat):
    """Scale and shift of its last norm are zero: outputs and all other weights are what they were."""
    net = constant_branches(0)
    x = torch.rand(2, 8, 8, 8)
    shallow, healed = shallow_and_healed(net, ["m.0", "m.1"], [x], 8, flat)
    with torch.no_grad():
        assert torch.equal(net(x), shallow(x)) and torch.equal(net(x), healed(x))
    assert same_weights(healed, shallow)


@pytest.mark.parametrize("flat", [False, True], ids=["measured", "beta"])
@pytest.mark.parametrize("names", [["m.0"], ["m.1"], ["m.0", "m.1"]], ids=" and ".join)
def test_a_constant_branch_is_absorbed_exactly(names, flat):
    """1x1 readers along the chain and behind it: each gets the sum of what was taken out before it."""
    net = constant_branches(1)
    batches = [torch.rand(2, 8, 8, 8), torch.rand(1, 8, 8, 8)]
    shallow, healed = shallow_and_healed(net, names, batches, 8, flat)
    assert relative_difference(net, healed, batches[0]) < 2e-6
    assert relative_difference(net, shallow, batches[0]) > 1e-2


class Read(nn.Module):
    """A residual branch that says act(1) everywhere, and one reader."""

    def __init__(self, reader):
        super().__init__()
        self.stem, self.block, self.read = Act(3, 4), Bottleneck(4, 4), reader
        randomise_norms(self)
        nn.init.zeros_(self.block.cv2.bn.weight), nn.init.ones_(self.block.cv2.bn.bias)

    def forward(self, x):
        return self.read(self.block(self.stem(x))).flatten(2).unflatten(2, (-1, 1))


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param(nn.Conv2d(4, 5, 1), id="1x1 with a bias"),
        pytest.param(Act(4, 5, act=nn.Identity()), id="1x1 and batch norm"),
        pytest.param(nn.Conv2d(4, 5, 3), id="3x3 without padding"),
        pytest.param(nn.Conv2d(4, 4, 3, groups=4), id="depthwise without padding"),
        pytest.param(nn.Conv2d(4, 4, 1, groups=2), id="grouped"),
        pytest.param(nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 5, 1)), id="behind a pool"),
    ],
)
def test_a_constant_is_absorbed_exactly_by(reader):
    net, x = Read(reader), image(16)
    shallow, healed = shallow_and_healed(net, ["block"], [x])
    assert relative_difference(net, healed, x) < 2e-6
    assert relative_difference(net, shallow, x) > 1e-2


def test_a_padded_3x3_is_exact_inside_and_off_at_the_border():
    net, x = Read(nn.Conv2d(4, 1, 3, padding=1)), image(16)
    _, healed = shallow_and_healed(net, ["block"], [x])
    with torch.no_grad():
        off = (healed(x) - net(x)).reshape(16, 16).abs()
    assert off[1:-1, 1:-1].max() < 1e-5 < 1e-2 < off[0].min()


def test_a_mean_is_made_up_for_once():
    """Branches that are not constant: absorbed front to back, every reader's mean is right again; from two plain
    measurements, subtracted, each error is corrected anew at every layer behind it."""
    torch.manual_seed(0)
    net, x = randomise_norms(C3(8, 8, n=6)), torch.rand(16, 8, 8, 8)
    shallow, healed = shallow_and_healed(net, ["m.0"], [x[:4], x[4:]], 8)
    left = trace(shallow, 8)
    truth, after = input_means(net, left, [x]), input_means(shallow, left, [x])
    missed = {c.name: truth[c.name] - after[c.name] for c in readers(trace(net, 8), ["m.0"], left)}
    assert missed.keys() == {f"m.{i}.cv1.conv" for i in range(1, 6)} | {"cv3.conv"}
    twice = absorb_missing(shallow, left, missed)

    def off(candidate):
        with torch.no_grad():
            return float((candidate(x) - net(x)).mean((0, 2, 3)).abs().mean())

    assert off(healed) < 0.1 * off(twice)
    assert off(healed) < 0.1 * off(shallow)


def test_measuring_leaves_no_hook_behind():
    net = Read(nn.Conv2d(4, 5, 1)).train()
    shallow = drop(net, ["block"])
    with pytest.raises(RuntimeError):
        missing_means(net, shallow, trace(shallow, 16).convs.values(), [torch.rand(1, 5, 16, 16)])
    assert not any(m._forward_pre_hooks for n in (net, shallow) for m in n.modules())
    assert net.training and shallow.training


# ---- scores ----


class Constants(nn.Module):
    """Blocks that add a constant each, to zero."""

    def __init__(self, constants):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 1, 1)
        self.blocks = nn.Sequential(*(Residual(torch.add, Act(1, 1, act=nn.Identity())) for _ in constants))
        for layer in (self.stem, self.head):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
        for block, constant in zip(self.blocks, constants, strict=True):
            nn.init.zeros_(block.f[1].weight), nn.init.constant_(block.f[1].bias, constant)
        self.head.weight.data.fill_(1.0)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


def oracle():
    """Y = 2 - 1 + 0.5, L = (y - 1)^2 / 2 = 0.125."""
    net = Constants((2.0, -1.0, 0.5)).eval()
    batches = [torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2)]
    evidence = Evidence(batches=batches, loss=lambda net, x: ((net(x) - 1) ** 2 / 2).mean())
    return net, trace(net, 2), evidence


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        pytest.param("delta_loss", [1, 1, -0.125], id="delta_loss: the true change"),
        pytest.param("taylor", [1, 0.25, 0.0625], id="taylor: (0.5 a)^2"),
        pytest.param("gamma_mean", [0, 0, 0], id="gamma_mean: all scales are zero"),
    ],
)
def test_scores_by_hand(score, expected):
    net, found, evidence = oracle()
    before = copy.deepcopy(net.state_dict())
    scores = score_blocks(net, found, score, evidence)
    assert list(scores) == ["blocks.0", "blocks.1", "blocks.2"]
    assert list(scores.values()) == pytest.approx(expected, abs=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters()) and not any(m._forward_hooks for m in net.modules())


def test_gradients_of_each_batch_are_squared_before_the_mean():
    """Slopes of opposite sign in two batches do not cancel."""
    net = Constants((1.0,)).eval()
    evidence = Evidence(batches=[1.0, -3.0], loss=lambda net, sign: sign * net(torch.rand(1, 3, 2, 2)).mean())
    assert score_blocks(net, trace(net, 2), "taylor", evidence)["blocks.0"] == pytest.approx((1 + 9) / 2)


def test_gamma_mean_is_of_the_last_convolution():
    net = detector("yolov5n")
    nn.init.constant_(net.model[4].m[1].cv2.bn.weight, -0.25)
    nn.init.constant_(net.model[4].m[1].cv1.bn.weight, 7)
    scores = score_blocks(net, trace(net, 64), "gamma_mean", Evidence())
    assert scores["model.4.m.1"] == pytest.approx(0.25) == min(scores.values())


@pytest.mark.parametrize("score", ["delta_loss", "taylor"])
def test_scores_of_the_loss_need_labels(score):
    net, found, _ = oracle()
    with pytest.raises(SlimError, match="data="):
        score_blocks(net, found, score, Evidence(images=[image(2)]))


def test_scores_that_are_not_numbers_are_refused():
    net, found, evidence = oracle()
    net.blocks[1].f[1].bias.data.fill_(float("nan"))
    with pytest.raises(SlimError, match=r"delta_loss.*checkpoint"):
        score_blocks(net, found, "delta_loss", evidence)


def test_a_branch_without_scales_is_told():
    net = Probe(Residual(torch.add, nn.Conv2d(8, 8, 1)))
    with pytest.raises(SlimError, match="operator does not end in a batch norm"):
        score_blocks(net, trace(net, 16), "gamma_mean", Evidence())


# ---- how many ----


def test_the_lowest_go_and_none_inside_another():
    scores = {"a.f.1": 1.0, "a": 2.0, "b": 3.0, "ab": 3.0, "c": 9.0}
    assert lowest(scores, 1) == ["a.f.1"]
    assert lowest(scores, 3) == ["a.f.1", "b", "ab"]
    with pytest.raises(SlimError, match="only 4"):
        lowest(scores, 5)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param({0: 1.0, 1: 0.9, 2: 0.8, 3: 0.7}, 3, id="each pays"),
        pytest.param({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, 0, id="none pays: equal is not less"),
        pytest.param({0: 1.0, 1: 0.9, 2: 0.9, 3: 0.9}, 1, id="the first alone"),
    ],
)
def test_auto_takes_what_costs_less_than_channels(losses, expected):
    """Each is tried in turn on top of those that went."""
    net, found, evidence = oracle()
    asked = []

    def loss_without(blocks):
        asked.append(blocks)
        return losses[len(blocks)]

    chosen = Prune(ratio=0.5, depth={"blocks": "auto", "score": "delta_loss"})
    gone = chosen_blocks(net, found, chosen, evidence, loss_without)
    order = ["blocks.2", "blocks.0", "blocks.1"]  # -0.125, 1, 1 at the same cost
    assert gone == order[:expected]
    assert len(asked) == 4 and asked[0] == []
    assert [blocks[-1] for blocks in asked[1:]] == order


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """The tiny detector, with scales to choose by. Read only."""
    net = build(tmp_path_factory.mktemp("varied"), text=TWO)
    with torch.no_grad():
        net.model[4].m[0].cv2.bn.weight.mul_(0.1)
    return net


@pytest.mark.parametrize("n", [0, 1, 2])
def test_blocks_and_channels_share_one_budget(varied, n):
    """Shares are of the detector as it came, whatever the blocks have saved already."""
    pruned = prune(
        varied, imgsz=PX, target={"flops": 0.6}, depth={"blocks": n, "score": "gamma_mean"}, criterion="l1", **SMALL
    )
    assert pruned.blocks == ("model.4.m.0", "model.2.m.0")[:n]
    assert [type(m) is nn.Identity for m in (pruned.model.model[4].m[0], pruned.model.model[2].m[0])] == [
        n > 0,
        n > 1,
    ]
    before, after = cost(varied, PX), cost(pruned.model, PX)
    assert (pruned.cost.before.params, pruned.cost.before.macs) == (before.params, before.macs)
    assert (pruned.cost.after.params, pruned.cost.after.macs) == (after.params, after.macs)
    assert pruned.cost.achieved["flops"] == pytest.approx(after.macs / before.macs)
    assert 0.5 < pruned.cost.achieved["flops"] <= 0.6 < pruned.cost.looser["flops"]
    assert pruned.difference < 1e-5


def test_ratios_count_the_channels_of_blocks_as_removed(varied):
    found = trace(varied, PX)
    shallow = trace(drop(varied, ["model.2.m.0"]), PX)
    flat = {g.name: np.arange(g.size, dtype=float) for g in found.groups}
    free = sum(g.size for g in found.free)
    gone = free - sum(g.size for g in shallow.free)
    plan = select(shallow, flat, Constraints(ratio=0.3, round_to=1, min_channels=1, min_keep=0, whole=found))
    assert (~plan.kept).sum() == int(0.3 * free) - gone > 0


def test_blocks_alone(varied):
    """No target, no ratio: the blocks go and every channel stays."""
    pruned = prune(varied, imgsz=PX, depth={"blocks": 1, "score": "gamma_mean"})
    assert pruned.blocks == ("model.4.m.0",)
    assert pruned.cost.asked == {} and pruned.cost.achieved["flops"] < 1
    assert {n for n, kept in pruned.kept.items() if not kept} == {"model.4.m.0.cv1.conv", "model.4.m.0.cv2.conv"}
    assert all(len(kept) in (0, len(pruned.trace.convs[n].outputs)) for n, kept in pruned.kept.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"depth": {"blocks": 3, "score": "gamma_mean"}}, "only 2 residual branches", id="too many"),
        pytest.param(
            {"depth": {"blocks": 2, "score": "gamma_mean"}, "exclude": ["model.4"]}, "only 1", id="excluded ones stay"
        ),
        pytest.param({"depth": {"blocks": 1}}, "data=", id="delta_loss without data"),
        pytest.param({"depth": {"blocks": "all"}}, "auto", id="neither a number nor auto"),
        pytest.param({"depth": {"blocks": -1}}, "greater than or equal to 0", id="less than none"),
        pytest.param(
            {"depth": {"blocks": 1, "score": "gamma_mean"}, "layers": {"model.77": 0.5}}, "matches no layer", id="typo"
        ),
        pytest.param(
            {"depth": {"blocks": 1, "score": "gamma_mean"}, "absorb": "measured"}, "needs images", id="no images"
        ),
    ],
)
def test_what_cannot_be_done_is_told(varied, settings, message):
    with pytest.raises(SlimError, match=message):
        prune(varied, imgsz=PX, **{"ratio": 0.3, **settings})


def test_excluded_blocks_stay_and_named_layers_may_go_with_theirs(varied):
    settings = {"depth": {"blocks": 1, "score": "gamma_mean"}, "ratio": 0.2, **SMALL}
    assert prune(varied, imgsz=PX, exclude=["model.4.m"], **settings).blocks == ("model.2.m.0",)
    assert prune(varied, imgsz=PX, layers={"model.4.m.0.cv1": 0.3}, **settings).blocks == ("model.4.m.0",)


def labelled(varied, prefer):
    """Evidence whose loss likes detectors with few residual branches, or with many."""

    def loss(net, batch):
        n = sum(isinstance(m, Bottleneck) and m.add for m in net.modules())
        return net.model[0](batch).mean() * 0 + prefer * n

    return Evidence(images=[image(PX, 2)], batches=[image(PX, 2)], loss=loss)


@pytest.mark.parametrize(("prefer", "gone"), [(1, 2), (-1, 0)], ids=["all pay", "none pays"])
def test_auto_under_one_budget(varied, prefer, gone):
    chosen = Prune(target={"flops": 0.6}, depth={"blocks": "auto"}, recalibrate=0, criterion="l1", **SMALL)
    pruned = cut_to_plan(varied, chosen, PX, labelled(varied, prefer))
    assert len(pruned.blocks) == gone
    assert 0.5 < pruned.cost.achieved["flops"] <= 0.6


# ---- a branch whose hidden channels are all gone ----


FREE = {"min_keep": 0, "min_channels": 0, "round_to": 1}


def test_an_empty_branch_disappears(varied):
    """Same outcome as taking it out: the constant that is left is absorbed."""
    emptied = prune(varied, imgsz=PX, layers={"model.2.m.0.cv1": 1.0}, **FREE)
    taken = prune(varied, imgsz=PX, exclude=["model.4"], depth={"blocks": 1, "score": "gamma_mean"}, **FREE)
    assert emptied.blocks == taken.blocks == ("model.2.m.0",)
    assert same_weights(emptied.model, taken.model)


@pytest.mark.parametrize(
    "floors",
    [
        pytest.param({"min_keep": 0, "min_channels": 1, "round_to": 1}, id="one channel stays"),
        pytest.param({"min_keep": 0.01, "min_channels": 0, "round_to": 1}, id="a share stays"),
        pytest.param({}, id="default floors"),
    ],
)
def test_a_branch_stays_where_floors_are_asked(varied, floors):
    pruned = prune(varied, imgsz=PX, layers={"model.2.m.0.cv1": 1.0}, **floors)
    assert pruned.blocks == () and len(pruned.kept["model.2.m.0.cv1.conv"]) >= 1


def test_other_groups_keep_one_channel(varied):
    pruned = prune(varied, imgsz=PX, layers={"*": 1.0}, **FREE)
    assert pruned.blocks == ("model.2.m.0", "model.4.m.0")
    widths = {len(kept) for name, kept in pruned.kept.items() if ".m.0." not in name or name.startswith("model.9")}
    assert min(widths) == 1


def test_branches_go_by_a_budget_too(varied):
    """Scores alone decide: hidden channels that say least go first, all of them."""
    net = copy.deepcopy(varied)
    nn.init.constant_(net.model[4].m[0].cv1.bn.weight, 1e-3)
    pruned = prune(net, imgsz=PX, criterion="bn_scale", target={"flops": 0.8}, **FREE)
    assert pruned.blocks == ("model.4.m.0",)
    assert pruned.cost.achieved["flops"] == pytest.approx(cost(pruned.model, PX).macs / cost(net, PX).macs)
    assert 0.75 < pruned.cost.achieved["flops"] <= 0.8


class Beside(nn.Module):
    """A residual branch of two convolutions with something beside the first."""

    def __init__(self, beside):
        super().__init__()
        self.first, self.second, self.beside = Act(8, 6, 3), Act(6, 8, 3), beside

    def forward(self, x):
        return x + (self.second(self.first(x)) + self.beside(x))


@pytest.mark.parametrize(
    ("beside", "groups"),
    [
        pytest.param(lambda x: 0 * x, {"operator.first.0"}, id="nothing"),
        pytest.param(lambda x: max_pool2d(x, 3, 1, 1), set(), id="a pool: no convolution tells of that path"),
        pytest.param(Act(8, 8), set(), id="a convolution"),
        pytest.param(nn.Sequential(Act(8, 6), Act(6, 8)), set(), id="another branch of its own"),
    ],
)
def test_only_a_width_that_silences_the_branch_may_be_emptied(beside, groups):
    net = Probe(Beside(beside))
    assert set(emptiable(net, trace(net, 16))) == groups


# ---- stored, used, cut again ----


@pytest.fixture(scope="module")
def shallow(original, tmp_path_factory):
    """A checkpoint of the tiny detector that has lost its residual branches and a fifth of its channels."""
    pruned = prune(checkpoint.load(original), imgsz=PX, ratio=0.3, depth={"blocks": 2, "score": "gamma_mean"}, **SMALL)
    path = tmp_path_factory.mktemp("shallow") / "slim.pt"
    checkpoint.save(pruned.model, path)
    (path.parent / "kept.json").write_text(json.dumps(pruned.kept))
    return path


STOCK = """
import json, torch
from pathlib import Path
import numpy as np
sys.modules["yolo_slim"] = None  # not to be imported
from ultralytics import YOLO
px = int(sys.argv[1])
image = np.random.default_rng(0).integers(0, 255, (px, px, 3), np.uint8)
found = {"boxes": YOLO("slim.pt").predict(image, imgsz=px, conf=1e-3, verbose=False)[0].boxes.data.tolist()}
found["identities"] = sum(type(m) is torch.nn.Identity and "m.0" in n for n, m in YOLO("slim.pt").model.named_modules())
x = torch.rand(1, 3, px, px)
plain, fused = YOLO("slim.pt").model.float().eval(), YOLO("slim.pt").model.float().eval().fuse(verbose=False)
with torch.no_grad():
    found["fused"] = float((plain(x)[0] - fused(x)[0]).abs().max())
found["onnx"] = Path(YOLO("slim.pt").export(format="onnx", imgsz=px)).stat().st_size
Path("found.json").write_text(json.dumps(found))
"""


def test_stock_ultralytics_uses_it(shallow, tmp_path):
    """Loads, predicts, fuses and exports where this package cannot be imported."""
    shutil.copy(shallow, tmp_path / "slim.pt")
    answer = run_alone(PX, cwd=tmp_path, code=STOCK)
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["identities"] == 2 and found["onnx"] > 10_000 and found["fused"] < 1e-2
    picture = np.random.default_rng(0).integers(0, 255, (PX, PX, 3), np.uint8)
    here = YOLO(shallow).predict(picture, imgsz=PX, conf=1e-3, verbose=False)[0].boxes.data.tolist()
    assert len(here) > 0
    np.testing.assert_allclose(found["boxes"], here, rtol=1e-3, atol=1e-3)


def test_a_block_that_is_a_layer_of_its_own_is_stored_too(tmp_path):
    """YOLOv3's: the detector asks each layer where its input comes from."""
    net = narrow("yolov3")
    net.args = {}
    pruned = prune(net, imgsz=64, ratio=0.2, depth={"blocks": 23, "score": "gamma_mean"}, **SMALL)
    stock = YOLO(checkpoint.save(pruned.model, tmp_path / "slim.pt"))
    assert type(stock.model.model[2]) is nn.Identity
    assert len(stock.predict(torch.rand(1, 3, 64, 64), imgsz=64, verbose=False)) == 1


def test_a_saved_cut_replays(shallow, loaded):
    kept = json.loads((shallow.parent / "kept.json").read_text())
    replayed, stored = replay(loaded, PX, Plan(kept)), checkpoint.load(shallow)
    widths = [
        {n: m.weight.shape for n, m in net.named_modules() if isinstance(m, nn.Conv2d)} for net in (replayed, stored)
    ]
    assert widths[0] == widths[1] and "model.2.m.0.cv1.conv" not in widths[0]
    for name, parameter in replayed.named_parameters():
        if "conv.weight" in name:
            assert torch.equal(parameter.half(), stored.get_parameter(name).half())
    written, convs = stored.yaml["slim"]["cuts"][0], trace(loaded, PX).convs
    assert written == {n: k for n, k in kept.items() if len(k) < len(convs[n].outputs)}


def maps_of(net, names, image):
    """What leaves each of these modules, where it is one map."""
    seen, handles = {}, []
    for name in names:
        keep = lambda m, a, out, name=name: seen.update({name: out})  # noqa: E731
        handles.append(net.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        net(image)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["yolov5n", "yolov3-tiny", "yolov8n", "yolo11n"])
def test_survivors_are_who_they_are_said_to_be(name):
    """Map by map: the cut detector gives what the masked one gives in the channels that are named."""
    net = randomise_norms(detector(name)).eval()
    found = trace(net, PX)
    kept = random_plan(found, np.random.default_rng(3))
    who = survivors(net, PX, Plan.of(found, kept))
    image = torch.rand(1, 3, PX, PX, generator=torch.Generator().manual_seed(1))
    inside = [n for n in who if n and n in dict(net.named_modules())]
    before, after = (maps_of(d, inside, image) for d in (masked(net, found, kept), cut(net, found, kept)))
    entering = [f"model.{i}" for i in net.model[-1].f]
    assert set(entering) <= before.keys(), "Detect's inputs are understood"
    narrowed = 0
    for module, there in before.items():
        here = after[module]
        assert here.shape[1] == len(who[module]), module
        assert torch.allclose(there[:, who[module]], here, rtol=1e-4, atol=1e-5 * float(there.abs().max())), module
        narrowed += here.shape[1] < there.shape[1]
    assert narrowed > 10


def test_survivors_of_a_cut_that_takes_a_block_out(shallow, loaded):
    kept = json.loads((shallow.parent / "kept.json").read_text())
    who = survivors(loaded, PX, Plan(kept))
    stored = checkpoint.load(shallow)
    for module in ("model.2", "model.4", "model.9"):
        assert len(who[module]) == maps_of(stored, [module], torch.rand(1, 3, PX, PX))[module].shape[1]
    assert "model.2.m.0.cv1" not in who


def test_replaying_half_a_block_is_refused(loaded):
    with pytest.raises(SlimError, match=r"model\.2\.m\.0\.cv1\.conv"):
        replay(loaded, PX, Plan({"model.2.m.0.cv1.conv": []}))


def test_a_detector_without_its_blocks_is_cut_again(shallow, tmp_path):
    first = checkpoint.load(shallow)
    second = prune(first, imgsz=PX, ratio=0.3, **SMALL)
    assert second.trace.blocks == {} and second.cost.after.params < second.cost.before.params
    again = checkpoint.load(checkpoint.save(second.model, tmp_path / "second.pt"))
    assert len(again.yaml["slim"]["cuts"]) == 2
    with pytest.raises(SlimError, match="only 0 residual branches"):
        prune(first, imgsz=PX, ratio=0.3, depth={"blocks": 1, "score": "gamma_mean"})


def test_the_stage_scores_records_and_tells(original, data, tmp_path):
    """With data: delta_loss by default, means measured, and fine-tuning goes on from there."""
    words = [f"model={original}", f"data={data}", f"runs={tmp_path}", "name=deep", f"imgsz={PX}", "prune.ratio=0.3"]
    words += ["prune.depth.blocks=1", "prune.round_to=4", "prune.min_channels=4", "prune.calib_images=4"]
    words += ["prune.criterion=l1"]
    answer = run("prune", *words)
    assert answer.code == 0, answer.err
    done = record.read(tmp_path / "deep" / "pruned")
    (block,) = done.details["blocks"]
    assert f"taken out whole: {block}" in answer.out
    assert {w["layer"] for w in done.details["widths"] if w["after"] == 0} == {
        f"{block}.cv1.conv",
        f"{block}.cv2.conv",
    }
    kept = json.loads((tmp_path / "deep" / "plan" / "plan.json").read_text())["outputs"]
    assert kept[f"{block}.cv1.conv"] == kept[f"{block}.cv2.conv"] == []
    tuned = run("finetune", *words, "finetune.epochs=1", "finetune.train={batch: 4, workers: 0}")
    assert tuned.code == 0, tuned.err
    slim = checkpoint.load(tmp_path / "deep" / "finetuned" / "slim.pt")
    assert type(slim.get_submodule(block)) is nn.Identity


def test_inspect_lists_them(original):
    answer = run("inspect", f"model={original}", f"imgsz={PX}")
    assert "2 residual branches may be taken out whole (prune.depth): 2.m.0, 4.m.0" in answer.out
