"""The wiring a trace must find: the table of YOLO facts row by row, operators one by one, and the law's own trial."""

import copy
import re

import numpy as np
import pytest
import torch
from networks import FRIENDLY, HOSTILE, Act, ChunkPair, Network, Predictions, Probe, SplitSizes, detector, reshape_like
from torch import nn
from torch.nn import functional
from ultralytics.nn.modules import C3, SPP, SPPF, Bottleneck, C2f, Conv

from yolo_slim.channels import trace
from yolo_slim.channels.groups import FIXED, same_wiring
from yolo_slim.errors import SlimError


class Wrapped(nn.Module):
    """A block between a stem and a prediction convolution."""

    def __init__(self, block, c1, c2):
        super().__init__()
        self.stem, self.block, self.head = Conv(3, c1, 3), block, nn.Conv2d(c2, 5, 1)

    def forward(self, image):
        return self.head(self.block(self.stem(image))).flatten(2)


@pytest.fixture(scope="module")
def traced():
    """Detector name -> its trace, each made once."""
    cache = {}

    def of(name):
        if name not in cache:
            cache[name] = trace(detector(name), 64)
        return cache[name]

    return of


def group_of(found, producer):
    """The one group that a convolution makes all of."""
    (group,) = [g for g in found.groups if producer in g.producers]
    return group


def coupled(found):
    """Groups that several convolutions make together."""
    return [g for g in found.groups if len(g.producers) > 1]


# ---- a table of networks ----


def test_c3_with_shortcut_is_one_coupled_group():
    found = trace(Wrapped(C3(8, 16, n=3), 8, 16), 16)
    expected = ("block.cv1.conv", "block.m.0.cv2.conv", "block.m.1.cv2.conv", "block.m.2.cv2.conv")
    assert [set(g.producers) for g in coupled(found)] == [set(expected)]
    assert group_of(found, "block.cv1.conv").size == 8
    for free in ("block.m.0.cv1.conv", "block.m.2.cv1.conv", "block.cv2.conv", "block.cv3.conv"):
        group = group_of(found, free)
        assert group.producers == (free,) and group.reason is None


def test_c3_without_shortcut_is_all_free():
    found = trace(Wrapped(C3(8, 16, n=2, shortcut=False), 8, 16), 16)
    assert not coupled(found)
    assert {g.name for g in found.groups if g.reason} == {"head"}
    assert len(found.free) == 8  # stem, cv1, cv2, cv3 and two in each of two bottlenecks


@pytest.mark.parametrize(
    ("shortcut", "left"),
    [
        pytest.param(True, "block.cv1.conv", id="the coupled group comes first"),
        pytest.param(False, "block.m.1.cv2.conv", id="the last bottleneck comes first"),
    ],
)
def test_c3_concat_offsets(shortcut, left):
    convs = trace(Wrapped(C3(8, 16, n=2, shortcut=shortcut), 8, 16), 16).convs
    read = convs["block.cv3.conv"].inputs
    assert read[:8].tolist() == convs[left].outputs.tolist()
    assert read[8:].tolist() == convs["block.cv2.conv"].outputs.tolist()


@pytest.mark.parametrize("pyramid", [SPPF, SPP])
def test_pyramid_pooling_reads_each_channel_in_four_slots(pyramid):
    convs = trace(Wrapped(pyramid(8, 12), 8, 12), 16).convs
    made = convs["block.cv1.conv"].outputs.tolist()
    assert convs["block.cv2.conv"].inputs.tolist() == made * 4


@pytest.mark.parametrize("name", ["yolov3", "yolov3-spp"])
def test_yolov3_residual_stages(traced, name):
    """Five groups: a stage's downsampling convolution with every second convolution of its bottlenecks."""
    found = traced(name)
    stages = coupled(found)
    assert [len(g.producers) - 1 for g in stages] == [1, 2, 8, 8, 4]  # 23 shortcuts
    assert [g.producers[0] for g in stages] == [f"model.{i}.conv" for i in (1, 3, 5, 7, 9)]
    assert all(p.endswith(".cv2.conv") for g in stages for p in g.producers[1:])
    assert all(g.reason is None for g in stages)
    for first in [p.replace("cv2", "cv1") for g in stages for p in g.producers[1:]]:
        assert group_of(found, first).producers == (first,)
        assert group_of(found, first).reason is None


@pytest.mark.parametrize(
    ("name", "shortcuts"),
    [
        pytest.param("yolov5n", [1, 2, 3, 1], id="n: depth 0.33, 7 bottlenecks"),
        pytest.param("yolov5s", [1, 2, 3, 1], id="s: depth 0.33, 7 bottlenecks"),
        pytest.param("yolov5m", [2, 4, 6, 2], id="m: depth 0.67, 14 bottlenecks"),
        pytest.param("yolov5n-p6", [1, 2, 3, 1, 1], id="n-p6: a fifth stage"),
    ],
)
def test_yolov5_backbone_bottlenecks(traced, name, shortcuts):
    stages = coupled(traced(name))
    assert [len(g.producers) - 1 for g in stages] == shortcuts
    assert all(g.producers[0].endswith("cv1.conv") and g.reason is None for g in stages)


@pytest.mark.parametrize(
    ("name", "maker", "readers"),
    [
        pytest.param("yolov5n", "model.4.cv3.conv", {"model.5.conv": 0, "model.17.cv1.conv": 64}, id="v5 layer 4"),
        pytest.param("yolov5n", "model.6.cv3.conv", {"model.7.conv": 0, "model.13.cv2.conv": 128}, id="v5 layer 6"),
        pytest.param("yolov3", "model.5.conv", {"model.7.conv": 0, "model.26.cv1.conv": 128}, id="v3 layer 6"),
        pytest.param("yolov3", "model.7.conv", {"model.9.conv": 0, "model.19.cv1.conv": 256}, id="v3 layer 8"),
    ],
)
def test_backbone_output_is_read_twice(traced, name, maker, readers):
    """By the next layer at offset 0 and by a head concatenation behind the upsampled map."""
    convs = traced(name).convs
    made = convs[maker].outputs.tolist()
    for reader, offset in readers.items():
        assert convs[reader].inputs[offset : offset + len(made)].tolist() == made


@pytest.mark.parametrize(
    ("name", "maker", "reader"),
    [
        pytest.param("yolov5n", "model.10.conv", "model.13.cv1.conv", id="v5"),
        pytest.param("yolov3", "model.16.conv", "model.19.cv1.conv", id="v3"),
        pytest.param("yolov3-tiny", "model.16.conv", "model.19.conv", id="v3-tiny"),
    ],
)
def test_convolution_before_upsample_is_free(traced, name, maker, reader):
    found = traced(name)
    made = found.convs[maker].outputs.tolist()
    assert found.convs[reader].inputs[: len(made)].tolist() == made
    assert group_of(found, maker).reason is None


def test_c2f_chunk_ties_its_halves():
    found = trace(Wrapped(C2f(8, 16, n=2, shortcut=True), 8, 16), 16)
    outputs = found.convs["block.cv1.conv"].outputs
    assert outputs[:8].tolist() == outputs[8:].tolist()
    group = group_of(found, "block.cv1.conv")
    assert set(group.producers) == {"block.cv1.conv", "block.m.0.cv2.conv", "block.m.1.cv2.conv"}
    assert group.size == 8 and group.reason is None
    assert found.chunks == {"block": 8}


@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny", "yolov5n", "yolov5n-p6", "yolov8n", "yolo11n"])
def test_detect_keeps_its_outputs_and_nothing_else(traced, name):
    found = traced(name)
    last = max(int(n.split(".")[1]) for n in found.convs)
    head = [n for n in found.convs if n.startswith(f"model.{last}.cv")]
    final = [n for n in head if not n.endswith(".conv")]
    assert len(final) == 2 * len({n.split(".")[3] for n in head})
    for conv in final:
        assert "Detect" in group_of(found, conv).reason
    for conv in set(head) - set(final):
        assert group_of(found, conv).reason is None


@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny", "yolov5n", "yolov5n-p6"])
def test_only_detect_is_protected(traced, name):
    """Everything else in YOLOv3 and YOLOv5 may go; the fixed weights that decode boxes are not counted."""
    blame = [g.reason for g in traced(name).groups if g.reason]
    assert blame and all("Detect" in reason or "DFL" in reason for reason in blame)


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n"])
def test_groups_partition_the_channels_and_protection_has_a_reason(traced, name):
    found = traced(name)
    members = np.concatenate([g.channels for g in found.groups])
    assert sorted(members.tolist()) == list(range(found.n_channels))
    assert len({g.name for g in found.groups}) == len(found.groups)
    for group in found.groups:
        if group.reason is not None:
            operator, _, place = group.reason.partition(" in ")
            assert operator.strip() and ("model." in place or "narrowing" in operator), group.reason
    assert sum(g.size for g in found.free) > found.n_channels / 2


def test_tracing_is_repeatable():
    """The same detector gives the same groups, reasons included."""
    net = Network(7)
    a, b = trace(net, 32), trace(net, 32)
    assert [(g.name, g.channels.tolist(), g.reason) for g in a.groups] == [
        (g.name, g.channels.tolist(), g.reason) for g in b.groups
    ]


# ---- operators one by one ----


@pytest.mark.parametrize("name", FRIENDLY)
def test_understood_operators_pass_channels_on(name):
    found = trace(Probe(FRIENDLY[name]), 16)
    assert group_of(found, "stem.0").reason is None
    assert FIXED not in found.convs["reader.0"].inputs


def test_deterministic_algorithms_change_no_group():
    """A training that was interrupted may leave them on; then torch interpolates by indices."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        found = trace(Probe(nn.Upsample(scale_factor=1.5, mode="bilinear")), 16)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert group_of(found, "stem.0").reason is None


@pytest.mark.parametrize(
    ("clamp", "free"),
    [
        pytest.param(nn.ReLU6(), True, id="relu6"),
        pytest.param(nn.Hardtanh(), True, id="between -1 and 1, which torch leaves out"),
        pytest.param(nn.Hardtanh(0.5, 1.0), False, id="never zero"),
        pytest.param(nn.Hardtanh(0.5, 2.0, inplace=True), False, id="never zero, in place"),
    ],
)
def test_a_clamp_around_zero_lets_channels_go(clamp, free):
    found = trace(Probe(Act(8, 8, act=clamp)), 16)
    (group,) = (g for g in found.groups if "operator.0" in g.producers)
    assert (group.reason is None) is free, group.reason


@pytest.mark.parametrize("name", HOSTILE)
def test_operators_that_mix_or_name_channels_keep_them(name):
    found = trace(Probe(HOSTILE[name]), 16)
    assert [g.name for g in found.groups if not g.reason] == ["reader.0"]
    assert group_of(found, "stem.0").reason


@pytest.mark.parametrize(
    ("operator", "word"),
    [
        pytest.param(nn.Conv2d(8, 12, 3, groups=2), "grouped convolution operator", id="grouped convolution"),
        pytest.param(nn.Conv2d(8, 16, 3, groups=8), "grouped convolution operator", id="depthwise with a multiplier"),
        pytest.param(nn.ConvTranspose2d(8, 8, 2, 2), "transposed convolution in operator", id="transposed"),
        pytest.param(SplitSizes(8), "split_with_sizes in operator (SplitSizes)", id="sizes held by Python"),
        pytest.param(lambda x: torch.cat(x.split(4, 1)[::-1], 1), "split in operator (Fn)", id="a size held by Python"),
        pytest.param(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "pad", id="padding that is not zero"),
        pytest.param(nn.PReLU(8), "in operator (PReLU)", id="a weight a channel that is no batch norm"),
        pytest.param(nn.GroupNorm(2, 8), "in operator (GroupNorm)", id="statistics over channels"),
        pytest.param(lambda x: torch.sigmoid(x), "sigmoid in operator (Fn)", id="f(0) is not 0"),
    ],
)
def test_reason_names_operator_and_module(operator, word):
    assert word in group_of(trace(Probe(operator), 16), "stem.0").reason


def test_depthwise_convolution_passes_channels_on():
    found = trace(Probe(Act(8, 8, 3, groups=8)), 16)
    assert found.convs["operator.0"].depthwise
    group = group_of(found, "stem.0")
    assert group.producers == ("stem.0", "operator.0") and group.consumers == ("reader.0",)
    assert group.norms == ("stem.1", "operator.1") and group.reason is None


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_chunk_ties_its_parts(parts):
    found = trace(Probe(ChunkPair(12, parts), channels=12), 16)
    made = found.convs["stem.0"].outputs.reshape(parts, -1)
    assert (made == made[0]).all()
    assert group_of(found, "stem.0").reason is None


def test_uneven_chunk_keeps_everything():
    """Seven channels in two parts: four and three, which nothing can keep in step."""
    found = trace(Probe(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), channels=7), 16)
    assert "split" in group_of(found, "stem.0").reason


def test_same_tensor_twice_is_the_same_channels_twice():
    found = trace(Probe(lambda x: torch.cat([x, x], 1)), 16)
    made = found.convs["stem.0"].outputs.tolist()
    assert found.convs["reader.0"].inputs.tolist() == made * 2
    assert found.convs["stem.0"].norm == "stem.1"


class TwoBranches(nn.Module):
    """Two convolutions on the image and something that reads both."""

    def __init__(self, join, widths=(8, 8)):
        super().__init__()
        self.a, self.b = Act(3, widths[0], 3), Act(3, widths[1], 3)
        self.join = join
        self.head = nn.Conv2d(self.join(self.a(torch.rand(2, 3, 8, 8)), self.b(torch.rand(2, 3, 8, 8))).shape[1], 5, 1)

    def forward(self, image):
        return self.head(self.join(self.a(image), self.b(image))).flatten(2)


@pytest.mark.parametrize(
    ("join", "tied", "free"),
    [
        pytest.param(lambda a, b: a + b, True, True, id="an addition makes two equal"),
        pytest.param(lambda a, b: a - b, True, True, id="so does a difference"),
        pytest.param(lambda a, b: torch.cat([a, b], 2), True, True, id="one above the other: equal"),
        pytest.param(lambda a, b: torch.cat([a, b], 0)[: len(a)], True, True, id="one batch behind the other: equal"),
        pytest.param(lambda a, b: torch.cat([a, b], 1), False, True, id="a concatenation makes nothing equal"),
        pytest.param(lambda a, b: a * b, False, False, id="a product is not understood"),
        pytest.param(torch.maximum, False, False, id="nor is a maximum"),
        pytest.param(lambda a, b: torch.stack([a, b]).sum(0), False, False, id="nor a stack"),
        pytest.param(lambda a, b: a + torch.flip(b, (1,)), False, False, id="an addition to what is fixed"),
        pytest.param(lambda a, b: functional.conv2d(a, b[:, :, :3, :3]), False, False, id="features as a kernel"),
    ],
)
def test_operators_that_read_two_tensors(join, tied, free):
    found = trace(TwoBranches(join), 16)
    a, b = found.convs["a.0"].outputs.tolist(), found.convs["b.0"].outputs.tolist()
    assert (a == b) == tied
    assert (group_of(found, "a.0").reason is None) == free
    assert (group_of(found, "b.0").reason is None) == free


def test_addition_that_broadcasts_channels_keeps_both():
    found = trace(TwoBranches(lambda a, b: a + b, widths=(8, 1)), 16)
    assert group_of(found, "a.0").reason and group_of(found, "b.0").reason


def test_convolution_used_twice_ties_what_it_reads():
    """The same weights read both inputs, slot by slot."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.shared, self.head = Conv(3, 8), Conv(3, 8), nn.Conv2d(8, 6, 1), nn.Conv2d(12, 5, 1)

        def forward(self, x):
            y = torch.cat([self.shared(self.a(x)), self.shared(self.b(x))], 1)
            return self.head(y).flatten(2)

    found = trace(Shared(), 16)
    assert set(group_of(found, "a.conv").producers) == {"a.conv", "b.conv"}
    assert found.convs["head"].inputs.tolist() == found.convs["shared"].outputs.tolist() * 2
    assert found.convs["shared"].positions == 2 * 16 * 16


def test_norm_belongs_to_the_convolution_it_reads():
    """A batch norm behind an activation does not read the convolution's own output, in place or not."""
    for inplace in (False, True):
        found = trace(Probe(nn.BatchNorm2d(8), stem=Act(3, 8, norm=False, act=nn.ReLU(inplace))), 16)
        assert found.convs["stem.0"].norm is None
        assert group_of(found, "stem.0").norms == ("operator",)


def test_raw_predictions_are_kept():
    """The outputs of the detector stay whole, also where no view protects them, and whatever was freed on the way."""

    class Raw(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.a, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
            self.between = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(depth))

        def forward(self, x):
            x = self.a(x)
            for layer in self.between:
                x = layer(torch.flip(x, (1,)))  # a tensor without labels, read by a convolution, freed at once
            return self.c(x)

    for depth in range(1, 30):  # addresses are used again at random
        found = trace(Raw(depth), 8)
        assert "output" in (group_of(found, "c").reason or ""), depth
        assert group_of(found, f"between.{depth - 1}").reason is None


def test_maps_beside_the_predictions_may_shrink():
    """A map that a convolution reads is not a result, even when it is returned as well."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            y = self.a(x)
            return {"predictions": self.b(y), "maps": [y]}

    found = trace(Both(), 8)
    assert group_of(found, "a").reason is None
    assert "output" in group_of(found, "b").reason


def test_branches_that_run_in_one_mode_only_are_seen():
    """An operator in train mode alone, and another in eval mode alone, both count."""

    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.head = Conv(3, 8), Conv(8, 8), Conv(8, 8), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            y = self.a(x)
            y = self.b(torch.flip(y, (1,)) if self.training else y)
            z = self.c(y if self.training else torch.flip(y, (1,)))
            return self.head(z).flatten(2)

    found = trace(Moody(), 8)
    assert "flip" in group_of(found, "a.conv").reason
    assert "flip" in group_of(found, "b.conv").reason
    assert group_of(found, "c.conv").reason is None


# ---- the law's own trial ----


class Bystanders(nn.Module):
    """Four free convolutions in a row beside an offender between two of them."""

    def __init__(self, offend):
        super().__init__()
        self.before, self.a, self.b, self.after = Conv(3, 8), Conv(8, 8), Conv(8, 8), Conv(8, 8)
        self.offend, self.head = offend, nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.before(x)
        a = self.a(x)
        return self.head(self.after(self.offend(a, self.b(x)))).flatten(2)


def assume_width(a, b):
    """Python that assumes the width of one tensor only."""
    if a.shape[1] != 8:
        raise RuntimeError("expected 8 channels")
    return a


def branch_on_width(a, b):
    """Python that does something else when the width is another: no error, other wiring."""
    return a if a.shape[1] == 8 else torch.cat([a, a], 1)[:, : a.shape[1]]


@pytest.mark.parametrize(
    ("offend", "kept", "message"),
    [
        pytest.param(reshape_like, {"a.conv", "b.conv"}, "reshape|view|shape", id="reads a's width, reshapes b"),
        pytest.param(assume_width, {"a.conv"}, "expected 8 channels", id="assumes a's width"),
        pytest.param(branch_on_width, {"a.conv"}, "the wiring changes", id="does something else at another width"),
    ],
)
def test_bisection_keeps_the_offending_group_and_no_other(offend, kept, message):
    found = trace(Bystanders(offend), 16)
    assert {g.name for g in found.groups if g.reason} == kept | {"head"}
    assert "does not survive narrowing" in group_of(found, "a.conv").reason
    assert re.search(message, group_of(found, "a.conv").reason)


def test_two_offenders_far_apart_are_both_found():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.x, self.y, self.head = Bystanders(assume_width), Bystanders(assume_width), nn.Conv2d(10, 5, 1)

        def forward(self, image):
            return torch.cat([self.x(image), self.y(image)], 1)

    assert {g.name for g in trace(Two(), 16).groups if g.reason} == {"x.a.conv", "x.head", "y.a.conv", "y.head"}


def test_narrow_depthwise_group_survives():
    """Three depthwise channels are halved to one, where a depthwise convolution is an ordinary one: no offence."""
    found = trace(Probe(Act(3, 3, 3, groups=3), channels=3), 16)
    assert group_of(found, "stem.0").reason is None


def test_same_wiring_sees_a_difference():
    """Shuffled, fixed or merged slots are another wiring; renumbered ones are not."""
    found = trace(Wrapped(C3(8, 16, n=1), 8, 16), 16)
    everything = np.ones(found.n_channels, bool)
    assert same_wiring(found, everything, trace(Wrapped(C3(8, 16, n=1), 8, 16), 16))
    assert not same_wiring(found, everything, trace(Wrapped(C3(8, 16, n=1, shortcut=False), 8, 16), 16))
    for wrong in (found.convs["head"].inputs[::-1], np.full(16, FIXED), found.convs["head"].inputs[[0] * 16]):
        convs = {**found.convs}
        convs["head"] = type(convs["head"])(**{**vars(convs["head"]), "inputs": wrong})
        assert not same_wiring(found, everything, type(found)(**{**vars(found), "convs": convs}))


# ---- what a trace leaves alone, counts and refuses ----


def test_trace_leaves_the_detector_untouched():
    net = detector("yolov5n")
    net.train()
    net.model[3].eval()
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    attributes = [copy.copy(m.__dict__) for m in net.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    trace(net, 64)
    assert all(torch.equal(v, weights[k]) and v.device.type == "cpu" for k, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()] == hooks
    for module, before in zip(net.modules(), attributes, strict=True):
        assert module.__dict__.keys() == before.keys()
        assert all(module.__dict__[k] is v for k, v in before.items())


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float16, id="as checkpoints are stored"), pytest.param(torch.float64, id="double")]
)
def test_trace_does_not_depend_on_the_dtype(dtype):
    net = detector("yolov3-tiny")
    a, b = trace(net, 64), trace(net.to(dtype), 64)
    assert [(g.name, g.size, g.reason) for g in a.groups] == [(g.name, g.size, g.reason) for g in b.groups]


def test_positions_are_counted_at_the_asked_size():
    convs = trace(detector("yolov5n"), (64, 96)).convs
    assert convs["model.0.conv"].positions == 32 * 48
    assert convs["model.9.cv1.conv"].positions == 2 * 3
    assert convs["model.0.conv"].kernel == 36 and convs["model.1.conv"].kernel == 9


def test_detector_without_convolutions_is_refused():
    with pytest.raises(SlimError, match="no Conv2d"):
        trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 2)


@pytest.mark.parametrize(
    ("name", "imgsz"),
    [
        pytest.param("yolov5n", 100, id="the neck cannot join its maps"),
        pytest.param("yolov3", 48, id="not a multiple of 32"),
        pytest.param("yolov5n-p6", 96, id="p6 needs multiples of 64"),
    ],
)
def test_size_that_is_no_multiple_of_the_stride_is_refused(name, imgsz):
    with pytest.raises(SlimError, match=rf"{imgsz}x{imgsz} px: model\.\d+ .*multiple of the detector's stride"):
        trace(detector(name), imgsz)


def test_predictions_module_is_traced_like_detect():
    """Several maps, each with its own prediction convolution: only those are kept."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = Conv(3, 8, 3, 2), Bottleneck(8, 8), Predictions([8, 8])

        def forward(self, x):
            x = self.a(x)
            return self.head(x, functional.max_pool2d(self.b(x), 2))

    found = trace(Two(), 16)
    assert {g.name: g.reason for g in found.groups if g.reason} == {
        "head.heads.0": "view in head (Predictions)",
        "head.heads.1": "view in head (Predictions)",
    }
