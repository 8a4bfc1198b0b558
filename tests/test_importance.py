"""Scores by hand-made numbers: which filter, which scale, and what a group makes of its producers."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Act, Network, Probe, randomise_norms
from tiny import build
from torch import nn
from ultralytics.nn.modules import C3, Bottleneck, C2f
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from yolo_slim import checkpoint
from yolo_slim.channels import Constraints, Plan, select, trace
from yolo_slim.channels.surgery import tensors
from yolo_slim.config import read_config
from yolo_slim.errors import SlimError
from yolo_slim.importance import CRITERIA, REDUCE, Evidence, score, source_of
from yolo_slim.pruning.choose import evidence_from

pytest_plugins = ["tiny"]

LOOKS = {"act_std", "act_mean", "apoz", "lasso"}  # at images
ASKS = {"taylor", "group_fisher"}  # the loss
EXACT = {"min_keep": 0, "min_channels": 1, "round_to": 1}


def line(*filters):
    """1x1 convolutions whose filters are given, then a prediction."""
    convs = []
    for rows in filters:
        weight = torch.tensor(rows, dtype=torch.float32)
        convs.append(nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False))
        convs[-1].weight.data = weight[:, :, None, None]
    return nn.Sequential(*convs, nn.Conv2d(convs[-1].out_channels, 1, 1), nn.Flatten(2))


def evidence(px, **options):
    """Four random images in two batches, and a loss without labels."""
    images = list(torch.rand(2, 2, 3, px, px, generator=torch.Generator().manual_seed(0)))
    return Evidence(images=images, batches=images, loss=squares, **options)


def squares(net, images):
    return sum(t.square().mean() for t in tensors(net(images)) if t.is_floating_point())


class Pair(nn.Module):
    """Two producers of one group of four, their scales given."""

    def __init__(self, one, two):
        super().__init__()
        self.a, self.b, self.head = Act(3, len(one)), Act(3, len(two)), nn.Conv2d(len(one), 2, 1)
        self.a[1].weight.data, self.b[1].weight.data = torch.tensor(one), torch.tensor(two)

    def forward(self, x):
        return self.head(self.a(x) + self.b(x)).flatten(2)


# ---- filter norms ----


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_the_zero_filter_goes_first(criterion):
    """Filters (0), (1), (4): removes filter 0."""
    net = line([[0], [1], [4]])
    found = trace(net, 1)
    scores = score(net, found, criterion, normalize="none")
    assert scores["0"].tolist() == [0, 1, 4]
    assert Plan.of(found, select(found, scores, Constraints(ratio=1 / 3, **EXACT)).kept).outputs == {"0": [1, 2]}


@pytest.mark.parametrize(
    ("criterion", "normalize", "expected"),
    [
        pytest.param("l1", "none", [7, 2], id="l1: sum of absolute values"),
        pytest.param("l2", "none", [5, 2], id="l2: root of the sum of squares"),
        pytest.param("l1", "mean", [14 / 9, 4 / 9], id="divided by the group's mean"),
        pytest.param("l1", "l2", [7 / 26.5**0.5, 2 / 26.5**0.5], id="divided by the group's root mean square"),
        pytest.param("l1", "auto", [14 / 9, 4 / 9], id="auto: mean for filter norms"),
    ],
)
def test_filter_norms(criterion, normalize, expected):
    net = line([[3, -4], [0, 2]])
    assert score(net, trace(net, 1), criterion, normalize=normalize)["0"] == pytest.approx(expected)


def test_normalising_makes_layers_comparable():
    """A layer with weights a hundred times larger is not spared for it."""
    net = line([[1], [2], [3]], [[100, 100, 100], [200, 200, 200], [300, 300, 300]])
    scores = score(net, trace(net, 1), "l1")
    assert scores["0"] == pytest.approx(scores["1"]) and scores["0"].mean() == pytest.approx(1)


def test_a_group_of_zeros_scores_zero():
    """Not a number would be refused; zero goes first."""
    net = line([[0], [0]])
    for normalize in ("mean", "l2"):
        assert score(net, trace(net, 1), "l1", normalize=normalize)["0"].tolist() == [0, 0]


def test_half_precision_is_scored_in_fp32():
    """Checkpoints are fp16: a filter of 4096 ones has norm 4096, and one more counts."""
    rows = torch.ones(2, 4097)
    rows[0, -1] = 0
    net = line(rows.tolist()).half()
    assert score(net, trace(net, 1), "l1", normalize="none")["0"].tolist() == [4096, 4097]


# ---- bn_fold ----


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_folded_norms_do_not_change_when_batch_norm_undoes_the_change(criterion):
    """Scale a filter and its mean by a, its variance so that the function stays: the folded score stays too."""
    net = Probe(nn.Identity())
    found, other = trace(net, 8), copy.deepcopy(net)
    a = torch.tensor([0.5, 1, 2, 3, 0.7, 1.5, 4, 1])
    conv, bn = other.stem[0], other.stem[1]
    with torch.no_grad():
        conv.weight *= a[:, None, None, None]
        bn.running_mean *= a
        bn.running_var.copy_(a**2 * (bn.running_var + bn.eps) - bn.eps)
        x = torch.rand(1, 3, 8, 8)
        assert torch.allclose(net(x), other(x), atol=1e-4)
    folded = [
        score(n, found, criterion, evidence=Evidence(bn_fold=True), normalize="none")["stem.0"] for n in (net, other)
    ]
    raw = [score(n, found, criterion, normalize="none")["stem.0"] for n in (net, other)]
    assert folded[0] == pytest.approx(folded[1], rel=1e-5)
    assert raw[1] == pytest.approx(raw[0] * a.numpy(), rel=1e-5)


def test_folded_norm_by_hand():
    """|gamma| * sum |W| / sqrt(var + eps)."""
    net = Probe(nn.Identity())
    conv, bn = net.stem[0], net.stem[1]
    bn.weight.data[0] = -2.0
    expected = conv.weight[0].abs().sum() * 2 / (bn.running_var[0] + bn.eps).sqrt()
    found = trace(net, 8)
    assert score(net, found, "l1", evidence=Evidence(bn_fold=True), normalize="none")["stem.0"][0] == pytest.approx(
        expected.item(), rel=1e-5
    )


@pytest.mark.parametrize(
    "stem",
    [
        pytest.param(Act(3, 8, norm=False, bias=True), id="no batch norm"),
        pytest.param(Act(3, 8, norm=False, act=nn.ReLU(inplace=True)), id="the batch norm is behind an activation"),
    ],
)
def test_nothing_to_fold_is_nothing_folded(stem):
    net = Probe(nn.BatchNorm2d(8) if stem[0].bias is None else nn.Identity(), stem=stem)
    found = trace(net, 8)
    a, b = (
        score(net, found, "l1", evidence=Evidence(bn_fold=fold), normalize="none")["stem.0"] for fold in (True, False)
    )
    assert a.tolist() == b.tolist()


# ---- scales ----


def test_bn_scale_is_the_absolute_scale():
    net = Probe(nn.Identity())
    net.stem[1].weight.data = torch.tensor([0.5, -2, 0, 1, -0.1, 3, 0.2, 0.3])
    expected = [0.5, 2, 0, 1, 0.1, 3, 0.2, 0.3]
    for reduce in ("l2", "max"):
        assert score(net, trace(net, 8), "bn_scale", group_reduce=reduce)["stem.0"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "stem",
    [
        pytest.param(Act(3, 8, norm=False, bias=True), id="no batch norm"),
        pytest.param(Act(3, 8, affine=False), id="a batch norm without scale"),
    ],
)
def test_without_a_scale_bn_scale_says_nothing(stem):
    """Infinite: the group stays whole, whatever is asked."""
    net = Probe(nn.Identity(), stem=stem)
    found = trace(net, 8)
    scores = score(net, found, "bn_scale")
    assert np.isinf(scores["stem.0"]).all() and np.isfinite(scores["reader.0"]).all()
    kept = Plan.of(found, select(found, scores, Constraints(ratio=0.4, **EXACT)).kept).outputs
    assert kept.keys() == {"reader.0"} and len(kept["reader.0"]) == 2


# ---- groups ----

ONE, TWO = [0.9, 0.02, 0.3, 0.01], [0.01, 0.5, 0.8, 0.02]


@pytest.mark.parametrize(
    ("reduce", "expected", "above"),
    [
        pytest.param("max", [0.9, 0.5, 0.8, 0.02], {0, 1, 2}, id="max: the union of their selections"),
        pytest.param("first", [0.9, 0.02, 0.3, 0.01], {0, 2}, id="first: the first producer decides"),
        pytest.param("mean", [0.455, 0.26, 0.55, 0.015], {0, 1, 2}, id="mean"),
        pytest.param("sum", [0.91, 0.52, 1.1, 0.03], {0, 1, 2}, id="sum"),
        pytest.param(
            "l2",
            [(0.8101 / 2) ** 0.5, (0.2504 / 2) ** 0.5, (0.73 / 2) ** 0.5, (0.0005 / 2) ** 0.5],
            {0, 1, 2},
            id="l2: root mean square",
        ),
    ],
)
def test_producers_are_joined(reduce, expected, above):
    """Producers .9 .02 .3 .01 and .01 .5 .8 .02, threshold .1."""
    net = Pair(ONE, TWO)
    scores = score(net, trace(net, 4), "bn_scale", group_reduce=reduce)["a.0"]
    assert scores == pytest.approx(expected)
    assert set(np.flatnonzero(scores > 0.1)) == above


def test_every_slot_of_a_channel_is_heard():
    """C2f: a channel of the chunk has two slots in cv1 and one in each bottleneck with a shortcut."""
    net = Probe(C2f(8, 8, n=2, shortcut=True))
    found = trace(net, 16)
    (group,) = [g for g in found.free if g.name == "operator.cv1.conv"]
    rows = CRITERIA["bn_scale"](net, found, Evidence())[group.name]
    block = net.operator
    expected = [block.cv1.bn.weight[:4], block.cv1.bn.weight[4:], block.m[0].cv2.bn.weight, block.m[1].cv2.bn.weight]
    assert rows == pytest.approx(torch.stack(expected).detach().numpy())


def test_scores_follow_the_channels_of_the_group():
    """Row by row in the order of the group's channels, for every producer of a residual group."""
    net = Probe(C3(8, 16, n=2))
    found = trace(net, 16)
    (group,) = [g for g in found.free if len(g.producers) == 3]
    for row, name in zip(CRITERIA["l1"](net, found, Evidence())[group.name], group.producers, strict=True):
        weight = net.get_submodule(name).weight
        where = [found.convs[name].outputs.tolist().index(c) for c in group.channels]
        assert row == pytest.approx(weight.abs().sum((1, 2, 3))[where].detach().numpy())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_scores_every_group(criterion):
    """One number a channel; what must stay is infinite. yolov5n, at half its width here, has all that v5 is made of."""
    half = yaml_model_load("yolov5n.yaml")
    half["scales"]["n"][1] /= 2
    for net, px in (
        (randomise_norms(DetectionModel(half, verbose=False)), 64),
        (Network(3), 32),
        (Probe(Bottleneck(8, 8)), 16),
    ):
        found = trace(net, px)
        scores = score(net, found, criterion, evidence=evidence(px))
        assert scores.keys() == {g.name for g in found.groups}
        for group in found.groups:
            assert scores[group.name].shape == (group.size,) and not np.isnan(scores[group.name]).any()
            assert (scores[group.name] >= 0).all()
            if group.reason:
                assert np.isinf(scores[group.name]).all()
            elif criterion != "bn_scale":
                assert np.isfinite(scores[group.name]).all()


@pytest.mark.parametrize("reduce", REDUCE)
def test_every_way_to_join_fits_any_number_of_rows(reduce):
    net = Network(3)
    found = trace(net, 32)
    for criterion in ("l1", "bn_scale"):
        scores = score(net, found, criterion, group_reduce=reduce)
        assert all(scores[g.name].shape == (g.size,) and not np.isnan(scores[g.name]).any() for g in found.groups)


@pytest.mark.parametrize("broken", [False, True], ids=["", "the loss, or the detector, raises"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_scoring_leaves_the_detector_alone(criterion, broken, tmp_path):
    """Weights, statistics, modes, gradients, hooks: also when something goes wrong on the way."""
    net = build(tmp_path)
    net.model[2].train()  # a mode of its own
    net.model[0].conv.weight.grad = torch.ones_like(net.model[0].conv.weight)
    net.model[1].requires_grad_(False)
    before, state = copy.deepcopy(net.state_dict()), settings_of(net)
    found, given = trace(net, 64), evidence(64, bn_fold=True)
    if broken and criterion in {*LOOKS, *ASKS, "obs"}:
        given = Evidence(images=[torch.rand(1, 4, 64, 64)], batches=[torch.rand(1, 4, 64, 64)], loss=squares)
        with pytest.raises(RuntimeError):
            score(net, found, criterion, evidence=given)
    else:
        score(net, found, criterion, evidence=given)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert settings_of(net) == state
    assert torch.equal(net.model[0].conv.weight.grad, torch.ones_like(net.model[0].conv.weight))


def settings_of(net):
    """All that a criterion could leave behind besides numbers."""
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m))) for m in net.modules()]
    return modules, [(p.requires_grad, p.grad is None) for p in net.parameters()]


@pytest.mark.parametrize("criterion", sorted(LOOKS | ASKS))
def test_half_precision_is_looked_at_in_fp32(criterion):
    """A checkpoint in fp16 is judged as the same weights in fp32."""
    net = Probe(C3(8, 8)).half()
    found = trace(net, 16)
    half, full = (score(n, found, criterion, evidence=evidence(16)) for n in (net, copy.deepcopy(net).float()))
    for group in found.free:
        assert half[group.name].tolist() == full[group.name].tolist()


@pytest.mark.parametrize("criterion", sorted(LOOKS | ASKS))
def test_the_same_evidence_gives_the_same_scores(criterion):
    net = Probe(C3(8, 8))
    found = trace(net, 16)
    one, two = (score(net, found, criterion, evidence=evidence(16)) for _ in range(2))
    assert all(one[g.name].tolist() == two[g.name].tolist() for g in found.free)


@pytest.mark.parametrize("criterion", sorted(LOOKS | ASKS))
def test_real_images_and_labels_are_looked_at(criterion, original: Path, data: Path):
    """Through Ultralytics' own loss and loader, as the stage does it."""
    net = checkpoint.load(original)
    before = copy.deepcopy(net.state_dict())
    words = [f"model={original}", f"data={data}", "imgsz=64", "prune.calib_images=8"]
    scores = score(net, found := trace(net, 64), criterion, evidence=evidence_from(read_config(None, words), net))
    assert all(np.isfinite(scores[g.name]).all() and scores[g.name].max() > 0 for g in found.free)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


# ---- comparable groups ----


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        pytest.param([1, 2, 3], [1 / 14, 4 / 13, 1], id="ascending"),
        pytest.param([3, 1, 2], [1, 1 / 14, 4 / 13], id="in the order of the channels"),
        pytest.param([0.1, 0.2], [0.2, 1], id="the best of a small layer counts as much"),
        pytest.param([0, 0], [0, 0], id="a group of zeros"),
        pytest.param([1, 1], [0.5, 1], id="a tie goes by order"),
    ],
)
def test_lamp(filters, expected):
    net = line([[f] for f in filters])
    assert score(net, trace(net, 1), "l2", normalize="lamp")["0"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("normalize", "gone"),
    [
        pytest.param("lamp", {"0": [0], "1": [0]}, id="lamp: the smallest of each layer"),
        pytest.param("none", {"1": [0, 1]}, id="plain norms empty the second layer"),
    ],
)
def test_lamp_empties_no_layer(normalize, gone):
    """Filters of norm 1, 2, 3 and of norm .1, .2; two of the five go."""
    net = line([[1], [2], [3]], [[0.1, 0, 0], [0.2, 0, 0]])
    found = trace(net, 1)
    scores = score(net, found, "l2", normalize=normalize)
    ranked = sorted((s, name, i) for name in ("0", "1") for i, s in enumerate(scores[name]))[:2]
    assert {name: [i for _, n, i in ranked if n == name] for _, name, _ in ranked} == gone


# ---- chance ----


@pytest.fixture(scope="module")
def probe():
    net = Probe(C3(8, 16, n=2))
    return net, trace(net, 16)


def test_the_same_seed_gives_the_same_scores(probe):
    net, found = probe
    one, same, other = (score(net, found, "random", evidence=Evidence(seed=seed)) for seed in (1, 1, 2))
    for group in found.free:
        assert one[group.name].tolist() == same[group.name].tolist()
        assert one[group.name].tolist() != other[group.name].tolist()
    flat = np.concatenate([one[g.name] for g in found.free])
    assert len(set(flat)) == len(flat) and (flat >= 0).all() and (flat < 1).all()


def test_chance_keeps_the_ratio_everywhere(probe):
    """Over 1000 seeds each group keeps its share: the mean is within three standard errors of the ratio."""
    net, found = probe
    n = sum(g.size for g in found.free)
    kept = []
    for seed in range(1000):
        plan = select(
            found, score(net, found, "random", evidence=Evidence(seed=seed)), Constraints(ratio=0.25, **EXACT)
        )
        kept.append([plan.kept[g.channels].mean() for g in found.free])
    kept, ratio = np.array(kept), 1 - np.floor(0.25 * n) / n
    error = kept.std(0, ddof=1) / len(kept) ** 0.5
    assert (error > 0).all()
    assert (abs(kept.mean(0) - ratio) < 3 * error).all()


# ---- refusals ----


def test_an_unknown_criterion_is_refused(probe):
    net, found = probe
    with pytest.raises(SlimError, match=r"expected prune.criterion to be one of .*bn_scale.*l1.*random.*, got magic"):
        score(net, found, "magic")


OWN = """
import numpy as np
from yolo_slim.importance import rows_of

def shift(detector, trace, evidence):
    found = {}
    for group in trace.free:
        rows = [rows_of(group, trace.norms[n].channels, detector.get_submodule(n).bias.abs()) for n in group.norms]
        found[group.name] = np.concatenate(rows)
    return found

nothing = None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working directory has a criterion in own_criterion.py, and broken_criterion.py, which cannot be imported."""
    (tmp_path / "own_criterion.py").write_text(OWN)
    (tmp_path / "broken_criterion.py").write_text("raise OSError('no such table')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield tmp_path / "own_criterion.py"
    sys.modules.pop("own_criterion", None)


def test_a_criterion_of_ones_own_is_named_by_its_module(own):
    net = Probe(nn.Identity())
    scores = score(net, trace(net, 8), "own_criterion:shift")
    assert scores["stem.0"] == pytest.approx(net.stem[1].bias.detach().abs().numpy())
    assert source_of("own_criterion:shift") == str(own) and source_of("l1") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("no_such_module:f", "ModuleNotFoundError.*working directory", id="no such module"),
        pytest.param("own_criterion:shifted", "AttributeError.*shifted.*module:function", id="no such function"),
        pytest.param("broken_criterion:f", "OSError: no such table", id="a module that raises"),
        pytest.param(":shift", "cannot be imported", id="no module named"),
        pytest.param(
            "own_criterion:nothing", "to be a function of .detector, trace, evidence., got None", id="no call"
        ),
    ],
)
def test_one_that_cannot_be_had_is_refused(own, probe, name, said):
    net, found = probe
    with pytest.raises(SlimError, match=rf"prune.criterion={name}.*{said}"):
        score(net, found, name)


@pytest.mark.parametrize("criterion", sorted(LOOKS | ASKS))
def test_a_criterion_says_what_it_needs(criterion, probe):
    net, found = probe
    needs = "looks at images" if criterion in LOOKS else "looks at the loss on labelled images"
    only_images = Evidence(images=[torch.rand(1, 3, 16, 16)])
    for given in [None, Evidence()] + [only_images] * (criterion in ASKS):
        with pytest.raises(SlimError, match=rf"prune.criterion={criterion} {needs}: give data="):
            score(net, found, criterion, evidence=given)
