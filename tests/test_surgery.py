"""The proof: masked equals cut, for every detector and any plan, and what is left is wired as it was."""

import copy
import json

import numpy as np
import pytest
import torch
from networks import FRIENDLY, HOSTILE, PX, Act, Network, Probe, detector, random_plan, randomise_norms
from torch import nn
from ultralytics.nn.modules import C2f, Conv
from ultralytics.nn.modules.block import ELAN1, RepNCSPELAN4

from yolo_slim.channels import Plan, cut, masked, relative_difference, silent, trace, voices, widened
from yolo_slim.channels.groups import FIXED, same_wiring
from yolo_slim.errors import SlimError

TIGHT = 1e-5  # fp32, relative to the largest value of each output


def image(px, batch=1):
    return torch.rand(batch, 3, px, px, generator=torch.Generator().manual_seed(1))


def prove(net, found, kept, px, batch=1):
    """Masked equals cut, the wiring is the old one restricted; returns the slim detector."""
    slim = cut(net, found, kept)
    assert relative_difference(masked(net, found, kept), slim, image(px, batch)) < TIGHT
    assert same_wiring(found, kept, trace(slim, px))
    return slim


def count(net):
    return sum(p.numel() for p in net.parameters())


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def comes_back(slim, net, found, kept):
    """Whether it gives the network again, and values that changed after the cut are there after the next."""
    if not same_weights(widened(slim, net, found, kept), net):
        return False
    other = copy.deepcopy(slim)
    with torch.no_grad():
        for layer in map(other.get_submodule, [*found.convs, *found.norms]):
            for tensor in (*layer.parameters(), *layer.buffers()):
                tensor.add_(1)
    wide = widened(other, net, found, kept)
    state = cut(wide, found, kept).state_dict()
    return all(torch.equal(state[name], value) for name, value in other.state_dict().items() if "tracked" not in name)


# ---- masked equals cut ----

NARROW = 0.25
"""Of the widest, all layers at a quarter of the width: to the law a width is a number, and time goes into copying."""
FAMILIES = [
    pytest.param("yolov3", 64, 1, NARROW, id="yolov3: five residual stages"),
    pytest.param("yolov3-spp", 64, 1, NARROW, id="yolov3-spp: three parallel pools"),
    pytest.param("yolov3-tiny", 64, 3, None, id="yolov3-tiny: stride-1 pool behind a zero pad"),
    pytest.param("yolov5n", 64, 3, None, id="yolov5n"),
    pytest.param("yolov5s", 64, 1, None, id="yolov5s"),
    pytest.param("yolov5m", 64, 1, NARROW, id="yolov5m"),
    pytest.param("yolov5l", 64, 1, NARROW, id="yolov5l"),
    pytest.param("yolov5x", 64, 1, NARROW, id="yolov5x"),
    pytest.param("yolov5n-p6", 128, 2, None, id="yolov5n-p6: a fourth map"),
    pytest.param("yolov5s-p6", 128, 1, None, id="yolov5s-p6"),
    pytest.param("yolov5m-p6", 64, 1, NARROW, id="yolov5m-p6"),
    pytest.param("yolov5l-p6", 64, 1, NARROW, id="yolov5l-p6"),
    pytest.param("yolov5x-p6", 64, 1, NARROW, id="yolov5x-p6"),
    pytest.param("yolov8n", 64, 1, None, id="yolov8n: chunks"),
    pytest.param("yolov9t", 64, 1, None, id="yolov9t: chunks of chunks, pools beside convolutions"),
    pytest.param("yolov10n", 64, 1, None, id="yolov10n: depthwise heads, attention, two heads"),
    pytest.param("yolo11n", 64, 1, None, id="yolo11n: attention"),
    pytest.param("yolo12n", 64, 1, None, id="yolo12n: area attention"),
    pytest.param("yolo26n", 64, 1, None, id="yolo26n: attention that reads a width in Python"),
]


@pytest.mark.parametrize(("name", "px", "plans", "width"), FAMILIES)
def test_masked_equals_cut(name, px, plans, width):
    """Every detector, random plans; an empty plan changes nothing at all."""
    net = detector(name, width=width)
    if getattr(net.model[-1], "end2end", False):
        net.double()  # it returns boxes sorted by score: in fp32 a rounding error can swap two
    x = image(px).to(next(net.parameters()).dtype)
    found = trace(net, px)
    assert relative_difference(net, cut(net, found, np.ones(found.n_channels, bool)), x) == 0
    for seed in range(plans):
        kept = random_plan(found, np.random.default_rng(seed))
        slim = cut(net, found, kept)
        assert relative_difference(masked(net, found, kept), slim, x) < TIGHT, f"plan {seed}"
        assert relative_difference(net, slim, x) > 100 * TIGHT, f"plan {seed} proves nothing"
        assert same_wiring(found, kept, trace(slim, px)), f"plan {seed}"
        assert count(slim) < 0.8 * count(net)


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_masked_equals_cut_on_random_networks(first):
    """A hundred networks of YOLO's operators, friendly and hostile: no output moves, no wire is crossed."""
    wrong, removed = {}, []
    for seed in range(first, first + 25):
        net = Network(seed)
        found = trace(net, PX)
        kept = random_plan(found, np.random.default_rng(seed))
        slim, x = cut(net, found, kept), image(PX, 2)
        removed.append(1 - kept.mean())
        faults = {
            "empty plan": relative_difference(net, cut(net, found, np.ones_like(kept)), x) != 0,
            "output": not relative_difference(masked(net, found, kept), slim, x) < TIGHT,
            "wiring": not same_wiring(found, kept, trace(slim, PX)),
            "way back": not same_weights(widened(slim, net, found, kept), net)
            or not comes_back(slim, net, found, kept),
        }
        if any(faults.values()):
            wrong[seed] = [fault for fault, seen in faults.items() if seen]
    assert not wrong, f"networks.Network(seed) for these seeds: {wrong}"
    assert np.mean(np.array(removed) > 0) > 0.8 and np.mean(removed) > 0.1  # not by keeping everything


@pytest.mark.parametrize("name", [*FRIENDLY, *HOSTILE])
def test_masked_equals_cut_around_one_operator(name):
    """Whatever stands between two convolutions, understood or not."""
    net = Probe({**FRIENDLY, **HOSTILE}[name])
    found = trace(net, 16)
    for seed in range(3):
        prove(net, found, random_plan(found, np.random.default_rng(seed)), 16)


class RawAndNormed(nn.Module):
    """A convolution's output that is read both raw and behind a batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.conv(x)
        return self.head(torch.relu(self.norm(x)) + x).flatten(2)


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(Probe(Act(8, 8, 3, affine=False)), id="a batch norm without scale and shift"),
        pytest.param(Probe(nn.BatchNorm2d(8, affine=False)), id="the same behind an activation"),
        pytest.param(Probe(Act(8, 8, 3, bias=True)), id="a bias before a batch norm"),
        pytest.param(Probe(Act(8, 8, 3, norm=False)), id="neither bias nor batch norm"),
        pytest.param(Probe(Act(8, 8, 3, norm=False, bias=True)), id="a bias instead of a batch norm"),
        pytest.param(Probe(nn.BatchNorm2d(8, track_running_stats=False)), id="a batch norm without statistics"),
        pytest.param(RawAndNormed(), id="an output that is read raw as well"),
        pytest.param(Probe(Act(8, 8, 3, groups=8, norm=False)), id="depthwise without batch norm"),
    ],
)
def test_masked_equals_cut_without_plain_batch_norm(net):
    net = randomise_norms(net)
    found = trace(net, 16)
    kept = np.ones(found.n_channels, bool)
    for group in found.free:
        kept[group.channels[::2]] = False
    assert not kept.all()
    prove(net, found, kept, 16, batch=2)


def test_depthwise_group_cut_to_one_channel():
    """One channel left: the depthwise convolution has become an ordinary one, its wiring has not changed."""
    net = Probe(Act(8, 8, 3, groups=8))
    found = trace(net, 16)
    kept = np.ones(found.n_channels, bool)
    kept[found.free[0].channels[1:]] = False
    slim = prove(net, found, kept, 16)
    assert slim.operator[0].groups == 1


# ---- the check can fail ----


def test_a_wrong_cut_is_noticed():
    """Two tied producers that lose different channels: same shapes, other output."""
    net = detector("yolov5n")
    found = trace(net, 64)
    kept = np.ones(found.n_channels, bool)
    (group,) = [g for g in found.free if "model.2.cv1.conv" in g.producers]
    kept[group.channels[3]] = False
    right, wrong = cut(net, found, kept), cut(net, found, kept)
    other = [i for i in range(16) if i != 4]
    with torch.no_grad():
        wrong.model[2].m[0].cv2.conv.weight.copy_(net.model[2].m[0].cv2.conv.weight[other])
    reference = masked(net, found, kept)
    assert relative_difference(reference, right, image(64)) < TIGHT
    assert relative_difference(reference, wrong, image(64)) > 10 * TIGHT  # one channel of one producer in yolov5n


def test_a_width_read_in_python_is_noticed_at_the_latest_by_the_check():
    """Values that depend on a width, not wiring: no trace can see it, so the check must."""

    def scaled(x):
        return x / x.shape[1] ** 0.5

    net = Probe(scaled)
    found = trace(net, 16)
    kept = np.ones(found.n_channels, bool)
    kept[found.free[0].channels[::2]] = False
    assert relative_difference(masked(net, found, kept), cut(net, found, kept), image(16)) > 100 * TIGHT


class Says(nn.Module):
    """A detector that always says the same."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = tuple(torch.as_tensor(o) for o in outputs)

    def forward(self, x):
        return self.outputs


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(([1.0, 2.0],), ([1.0, 2.0],), 0.0, id="equal"),
        pytest.param(([1.0, 4.0],), ([1.0, 3.0],), 0.25, id="relative to the largest value"),
        pytest.param(([0.0, 0.0],), ([0.0, 3.0],), 3.0, id="absolute where the reference is zero"),
        pytest.param(([640.0], [0.5]), ([640.0], [0.4]), 0.2, id="pixels do not hide probabilities"),
        pytest.param(([1.0], [1.0, 2.0]), ([1.0], [1.0]), 0.0, id="a narrower map beside the predictions"),
        pytest.param(([1.0], [7]), ([1.0], [8]), 0.0, id="indices are not compared"),
    ],
)
def test_relative_difference(a, b, expected):
    assert relative_difference(Says(*a), Says(*b), image(8)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(([1.0], [1.0]), ([float("nan")], [1.0]), id="in the first output"),
        pytest.param(([1.0], [1.0]), ([1.0], [float("nan")]), id="in a later output"),
        pytest.param(([1.0], [float("inf")]), ([1.0], [float("inf")]), id="infinite in both"),
    ],
)
def test_outputs_that_are_not_numbers_never_pass(a, b):
    assert not relative_difference(Says(*a), Says(*b), image(8)) < TIGHT


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(([1.0, 2.0],), ([1.0],), id="predictions of another shape"),
        pytest.param(([1.0, 2.0], [1.0]), ([1.0], [1.0]), id="only the maps agree"),
        pytest.param(([1.0], [1.0]), ([1.0],), id="another number of outputs"),
    ],
)
def test_detectors_that_cannot_be_compared_are_refused(a, b):
    with pytest.raises(SlimError, match="same predictions"):
        relative_difference(Says(*a), Says(*b), image(8))


def test_relative_difference_leaves_each_mode_as_it_was():
    """Also where a batch norm is frozen inside a detector in train mode."""
    net = Probe(nn.Identity()).train()
    net.stem[1].eval()
    modes = [m.training for m in net.modules()]
    relative_difference(net, net, image(16))
    assert [m.training for m in net.modules()] == modes


# ---- what a cut keeps ----


def test_the_input_is_left_alone():
    net = detector("yolov5n").train()
    before = copy.deepcopy(net)
    found = trace(net, 64)
    kept = random_plan(found, np.random.default_rng(0))
    for slim in (cut(net, found, kept), masked(net, found, kept)):
        for p in slim.parameters():
            p.data.zero_()
    assert same_weights(net, before)
    for a, b in zip(net.modules(), before.modules(), strict=True):
        assert a.training == b.training and a.extra_repr() == b.extra_repr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_requires_grad_and_mode_stay(dtype):
    net = detector("yolov3-tiny").to(dtype).train()
    for i, p in enumerate(net.parameters()):
        p.requires_grad_(i % 3 == 0)
    found = trace(net, 64)
    slim = cut(net, found, random_plan(found, np.random.default_rng(0)))
    for (name, a), (other, b) in zip(net.named_parameters(), slim.named_parameters(), strict=True):
        assert (
            name == other and a.dtype == b.dtype and a.requires_grad == b.requires_grad and isinstance(b, nn.Parameter)
        )
    assert [b.dtype for b in net.buffers()] == [b.dtype for b in slim.buffers()]
    assert slim.training and count(slim) < count(net)


def test_attributes_follow_the_weights():
    """What a layer says of its width is its width: repr, thop and export read it."""
    net = Probe(Act(8, 8, 3, groups=8))
    found = trace(net, 16)
    kept = np.ones(found.n_channels, bool)
    kept[found.free[0].channels[:5]] = False
    slim = cut(net, found, kept)
    depthwise = slim.operator[0]
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (3, 3, 3)
    for layer in slim.modules():
        if isinstance(layer, nn.Conv2d):
            assert (layer.out_channels, layer.in_channels // layer.groups) == layer.weight.shape[:2]
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.weight) == len(layer.running_var) == len(layer.bias)


def test_the_kept_weights_are_the_old_ones():
    net = detector("yolov5n")
    found = trace(net, 64)
    kept = random_plan(found, np.random.default_rng(0))
    slim, outputs = cut(net, found, kept), Plan.of(found, kept).outputs
    name = "model.1.conv"
    into, out = outputs.get("model.0.conv", range(16)), outputs.get(name, range(32))
    old, new = net.get_submodule(name).weight, slim.get_submodule(name).weight
    assert torch.equal(new, old[list(out)][:, list(into)])
    assert torch.equal(
        slim.get_submodule("model.1.bn").running_var, net.get_submodule("model.1.bn").running_var[list(out)]
    )


def test_slim_detector_learns():
    """Gradients reach every weight of a cut detector, and none of the original's."""
    net = detector("yolov5n").train()
    found = trace(net, 64)
    slim = cut(net, found, random_plan(found, np.random.default_rng(0))).train()
    sum(o.float().square().mean() for o in [slim(image(64, 2))["boxes"], slim(image(64, 2))["scores"]]).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in slim.parameters() if p.requires_grad)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["yolov8n", "yolov9t", "yolo11n"])
def test_half_width_follows_so_that_export_may_split(name):
    """Export swaps `forward_split` in, which splits by `self.c`."""
    net = detector(name)
    found = trace(net, 64)
    slim = cut(net, found, random_plan(found, np.random.default_rng(0)))
    swapped, n = copy.deepcopy(slim), 0
    for module in swapped.modules():
        if isinstance(module, (C2f, RepNCSPELAN4, ELAN1)):
            module.forward = module.forward_split
            n += 1
    assert n and relative_difference(slim, swapped, image(64)) == 0


# ---- plans ----


def test_cutting_twice_composes():
    """A cut of a cut is one cut: the kept lists, one looked up in the other."""
    net = detector("yolov5n")
    found = trace(net, 64)
    first = random_plan(found, np.random.default_rng(1))
    slim = cut(net, found, first)
    again = trace(slim, 64)
    second = random_plan(again, np.random.default_rng(2))
    twice = cut(slim, again, second)

    one, two = Plan.of(found, first).outputs, Plan.of(again, second).outputs
    both = {}
    for name, conv in found.convs.items():
        left = one.get(name, list(range(len(conv.outputs))))
        both[name] = [left[i] for i in two.get(name, range(len(left)))]
    assert same_weights(twice, cut(net, found, Plan(both).kept(found)))


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov5n", "yolov8n"])
def test_a_saved_plan_replays(name):
    """As JSON, on the original: identical weights. One producer of a coupled group speaks for all."""
    net = detector(name)
    found = trace(net, 64)
    kept = random_plan(found, np.random.default_rng(0))
    saved = json.loads(json.dumps(Plan.of(found, kept).outputs))
    assert saved and all(len(v) < len(found.convs[k].outputs) for k, v in saved.items())
    assert (Plan(saved).kept(found) == kept).all()
    assert same_weights(cut(net, found, Plan(saved).kept(trace(net, 64))), cut(net, found, kept))
    firsts = {g.producers[0]: saved[g.producers[0]] for g in found.groups if g.producers[0] in saved}
    assert (Plan(firsts).kept(found) == kept).all()


def test_an_empty_list_of_cuts_keeps_everything():
    found = trace(detector("yolov3-tiny"), 64)
    assert Plan({}).kept(found).all()
    assert Plan.of(found, np.ones(found.n_channels, bool)).outputs == {}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        pytest.param({"model.99.conv": [0]}, "does not have: model.99.conv", id="a convolution of another detector"),
        pytest.param({"model.0.conv": [0, 16]}, r"model\.0\.conv.*16", id="an output beyond the last"),
        pytest.param({"model.0.conv": [-1, 3]}, "model.0.conv", id="an output before the first"),
        pytest.param({"model.24.cv3.0.2": [0, 1]}, "Detect", id="classes may not go"),
        pytest.param({"model.0.conv": []}, "model.0.conv", id="nothing would be left"),
        pytest.param(
            {"model.2.cv1.conv": [0, 1], "model.2.m.0.cv2.conv": [0, 2]}, "contradicts", id="tied layers that disagree"
        ),
        pytest.param(
            {"model.2.m.0.cv2.conv": list(range(16)), "model.2.cv1.conv": [0]},
            "contradicts",
            id="one keeps all, one not",
        ),
    ],
)
def test_contradictory_and_foreign_cuts_are_refused(outputs, message):
    found = trace(detector("yolov5n"), 64)
    with pytest.raises(SlimError, match=message):
        Plan(outputs).kept(found)


def test_a_fixed_output_says_nothing_about_other_channels():
    """A depthwise convolution on the image: its outputs must stay, which decides about no channel."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rgb, self.stem, self.head, self.aside = (
                nn.Conv2d(3, 3, 3, groups=3),
                Conv(3, 8),
                nn.Conv2d(8, 5, 1),
                Conv(8, 4),
            )

        def forward(self, x):
            x = self.stem(self.rgb(x))
            y = self.head(x).flatten(2)
            self.aside(x)  # the last channels of the trace, free: nobody reads them
            return y

    found = trace(Net(), 16)
    cuts = {"aside.conv": [0, 1, 2], "rgb": [0, 1, 2]}
    kept = Plan(cuts).kept(found)
    assert Plan.of(found, kept).outputs == {"aside.conv": [0, 1, 2]}
    with pytest.raises(SlimError, match="rgb"):
        Plan({"rgb": [0, 1]}).kept(found)


# ---- silent channels ----


def hush(net, found, kept):
    """Zero in all of their voices, in place."""
    with torch.no_grad():
        for name, slots in voices(net, found).items():
            net.state_dict()[name][torch.as_tensor((slots != FIXED) & ~kept[slots])] = 0


@pytest.mark.parametrize(
    ("net", "px"),
    [
        pytest.param(lambda: detector("yolov5n"), 64, id="yolov5n"),
        pytest.param(lambda: detector("yolov3-tiny"), 64, id="yolov3-tiny"),
        pytest.param(lambda: detector("yolov8n"), 64, id="yolov8n: chunks"),
        pytest.param(lambda: Probe(Act(8, 8, 3, affine=False)), 16, id="a batch norm without scale and shift"),
        pytest.param(lambda: Probe(Act(8, 8, 3, norm=False, bias=True)), 16, id="no batch norm"),
        *(pytest.param(lambda seed=seed: Network(seed), PX, id=f"random network {seed}") for seed in range(5)),
    ],
)
def test_cutting_what_is_silent_changes_nothing(net, px):
    net = net().eval()
    found = trace(net, px)
    kept = random_plan(found, np.random.default_rng(0))
    assert silent(net, found, np.ones_like(kept))
    if not kept.all():
        assert not silent(net, found, kept)
    hush(net, found, kept)
    assert silent(net, found, kept)
    assert relative_difference(net, cut(net, found, kept), image(px, 2)) < TIGHT


def test_a_whisper_is_not_silence():
    net = detector("yolov5n")
    found = trace(net, 64)
    kept = random_plan(found, np.random.default_rng(0))
    hush(net, found, kept)
    group = next(g for g in found.free if not kept[g.channels].all())
    slot = int(np.flatnonzero(~kept[found.norms[group.norms[0]].channels])[0])
    with torch.no_grad():
        net.get_submodule(group.norms[0]).bias[slot] = 1e-7
    assert not silent(net, found, kept)
