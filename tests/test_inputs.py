"""What a detector's input is: images of 1, 3, 4 and other channels, and stems that reshape them first."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml
from networks import Act, Fn, randomise_norms
from tiny import PX, TINY
from torch import nn
from torch.nn.functional import pixel_unshuffle
from ultralytics.nn.modules import Focus
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_slim import SlimError, checkpoint, cost, deploy, measure, prune, trace
from yolo_slim.channels import image_channels
from yolo_slim.channels import trace as traced
from yolo_slim.deploy.focus import without_slices
from yolo_slim.timing.quiet import latency
from yolo_slim.timing.runner import Runner
from yolo_slim.training.distill import losses_between
from yolo_slim.training.pairs import check_sees_the_same, pair
from yolo_slim.training.teacher import Taps, Teacher, entering

pytest_plugins = ["tiny"]

FOCUS = TINY.replace("Conv, [16, 6, 2, 2]", "Focus, [16, 3]")
KINDS = {"grey": (TINY, 1), "colour": (TINY, 3), "four": (TINY, 4), "focus": (FOCUS, 3), "grey focus": (FOCUS, 1)}
SMALL = {"criterion": "l1", "round_to": 1, "min_channels": 2}


def detector_of(kind: str) -> nn.Module:
    """A tiny detector of this kind, with norms far from trivial, and scores above Ultralytics' lowest."""
    text, channels = KINDS[kind]
    torch.manual_seed(0)
    detector = randomise_norms(DetectionModel(yaml.safe_load(text), ch=channels, verbose=False))
    with torch.no_grad():
        for boxes, scores in zip(detector.model[-1].cv2, detector.model[-1].cv3, strict=True):
            boxes[-1].bias.copy_(-torch.arange(16.0).repeat(4))
            scores[-1].bias.fill_(-1.0)
    detector.args = dict(DEFAULT_CFG_DICT)
    return detector


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


# ---- the one function ----


class Stem(nn.Sequential):
    """A stem and two convolutions behind it."""

    def __init__(self, *stem: nn.Module, width: int = 8) -> None:
        super().__init__(*stem, Act(width, 8, 3), nn.Conv2d(8, 5, 1))


class Late(nn.Module):
    """Its first convolution in order of names runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem = nn.Conv2d(8, 5, 1), Act(2, 8, 3)

    def forward(self, image):
        return self.head(self.stem(image))


class TwoStreams(nn.Module):
    """Colour and what is beside it, apart."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.beside, self.head = Act(3, 8, 3), Act(2, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, image):
        return self.head(self.colour(image[:, :3]) + self.beside(image[:, 3:]))


def with_places(image):
    """The image, and where each pixel is."""
    places = torch.ones_like(image[:, :1])
    return torch.cat([image, places, places], 1)


STEMS = {
    "grey": (lambda: Stem(width=1), 1),
    "colour": (lambda: Stem(width=3), 3),
    "four": (lambda: Stem(width=4), 4),
    "seven": (lambda: Stem(width=7), 7),
    "twelve": (lambda: Stem(width=12), 12),
    "four hundred": (lambda: Stem(width=400), 400),
    "Focus": (lambda: Stem(Focus(3, 8, 3)), 3),
    "grey Focus": (lambda: Stem(Focus(1, 8, 3)), 1),
    "space to depth": (lambda: Stem(Fn(lambda x: pixel_unshuffle(x, 4)), width=48), 3),
    "grey space to depth": (lambda: Stem(Fn(lambda x: pixel_unshuffle(x, 4)), width=16), 1),
    "places beside": (lambda: Stem(Fn(with_places), width=5), 3),
    "a head that is named first": (Late, 2),
    "two streams": (TwoStreams, 5),
}


@pytest.mark.parametrize("name", STEMS)
def test_an_input_is_found_by_trying(name):
    make, channels = STEMS[name]
    network = randomise_norms(make())
    assert image_channels(network, 32) == image_channels(network) == channels
    assert trace(network, 32).image_channels == channels
    pruned = prune(network, imgsz=32, ratio=0.3, **{**SMALL, "min_channels": 1})
    assert pruned.difference < 1e-5
    assert pruned.model(torch.rand(1, channels, 32, 32)).shape == network(torch.rand(1, channels, 32, 32)).shape
    assert cost(network, 32).params == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("key", ["channels", "ch"])
def test_a_detector_says_it_itself(key):
    """Where several would do, what its YAML says, as this Ultralytics writes it or as older ones did."""
    network = Stem(Fn(lambda x: x.mean(1, keepdim=True)), width=1)
    assert image_channels(network) == 3
    network.yaml = {key: 6}
    assert image_channels(network) == 6


@pytest.mark.parametrize("said", [3, True, "1", None, -1, 0, 10**9, 1.0, [1]])
def test_a_yaml_that_is_wrong_is_not_believed(said):
    """Such as that of a colour detector whose stem was exchanged for a grey one."""
    detector = detector_of("grey")
    detector.yaml["channels"] = said
    assert image_channels(detector, PX) == 1
    pruned = prune(detector, imgsz=PX, ratio=0.3, **SMALL)
    assert pruned.model.yaml["channels"] == 1  # Ultralytics' exporter goes by it


def test_a_size_that_does_not_fit_is_no_matter_of_channels():
    detector = detector_of("four")
    assert image_channels(detector, 40) == 4
    for of in (traced, measure.cost):
        with pytest.raises(SlimError, match=r"40x40 px.*Is the size a multiple of"):
            of(detector, 40)


def test_an_input_that_cannot_be_found_is_told():
    def refuse(image):
        raise ValueError("not today")

    with pytest.raises(SlimError, match=r"channels the images have that this Stem reads.*ValueError: not today"):
        image_channels(Stem(Fn(refuse)))


def test_the_detector_is_left_alone(kind):
    detector = detector_of(kind).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    image_channels(detector)
    assert all(m.training for m in detector.modules())
    assert not any(m._forward_pre_hooks for m in detector.modules())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_a_model_yaml_says_it(tmp_path):
    for key, channels in (("channels", 1), ("ch", 4)):
        (tmp_path / "tiny.yaml").write_text(f"{key}: {channels}\n{TINY}")
        detector = checkpoint.load(tmp_path / "tiny.yaml")
        assert (image_channels(detector), detector.yaml["channels"]) == (channels, channels)


# ---- what looks at images ----


def test_a_cut_keeps_to_the_original(kind):
    detector, channels = detector_of(kind), KINDS[kind][1]
    pruned = prune(detector, imgsz=PX, target={"flops": 0.6}, calibration=torch.rand(2, channels, PX, PX), **SMALL)
    assert pruned.cost.achieved["flops"] <= 0.6 and pruned.difference < 1e-5
    assert pruned.model.yaml["channels"] == channels
    assert pruned.model(torch.rand(1, channels, PX, PX))[0].shape == detector(torch.rand(1, channels, PX, PX))[0].shape
    branch = {"blocks": 1, "score": "gamma_mean"}
    assert prune(detector, imgsz=PX, target={"flops": 0.6}, depth=branch, absorb="beta", **SMALL).blocks


def test_what_a_detector_costs_and_takes(kind):
    detector, channels = detector_of(kind), KINDS[kind][1]
    found = cost(detector, PX)
    assert found.params == sum(p.numel() for p in detector.parameters())
    assert found.macs == sum(c.positions * c.kernel * len(c.inputs) // c.groups * len(c.outputs)
                             for c in trace(detector, PX).convs.values()) + norms_of(detector)  # fmt: skip
    times, _ = latency({"it": detector}, PX, runs=3)
    assert times["it"]["median"] > 0
    assert image_channels(detector) == channels


def norms_of(detector: nn.Module) -> int:
    """What thop counts for batch norms: 4 an element."""
    return sum(4 * n.positions * len(n.channels) for n in trace(detector, PX).norms.values())


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("grey", "torch"),
        ("four", "torch"),
        ("focus", "torch"),
        ("four", "onnxruntime"),
        ("grey", "openvino"),
        ("four", "torchscript"),
        ("grey", "opencv"),
        ("four", "ncnn"),
        ("focus", "ncnn"),
    ],
)
def test_every_runtime_takes_its_images(kind, runtime, tmp_path):
    """As latency targets and `bench` start it; and what it says is what PyTorch says."""
    if runtime not in ("torch", *deploy.present()):
        pytest.skip(f"{runtime} is not installed")
    detector, channels = detector_of(kind), KINDS[kind][1]
    start, _ = Runner(runtime, 1, PX).start(detector, tmp_path)
    start()
    if runtime == "torch":
        return
    file = tmp_path / f"timed{deploy.suffix(deploy.RUNTIMES[runtime].format)}"
    images = torch.rand(2, 1, channels, PX, PX)
    stored = checkpoint.load(tmp_path / "timed.pt")
    assert deploy.difference(stored, deploy.opened(file, runtime, 1), images) < 1e-3


def test_a_focus_is_one_convolution():
    detector = detector_of("focus").double()
    image = torch.rand(1, 3, PX, PX, dtype=torch.float64)
    expected, whole = detector(image)[0], copy.deepcopy(detector)
    without_slices(whole)
    assert not any(isinstance(m, Focus) for m in whole.modules())
    assert whole.model[0].conv.conv.kernel_size == (6, 6)
    assert torch.allclose(whole(image)[0], expected, rtol=1e-12)
    assert cost(whole, PX).macs == cost(detector, PX).macs


def test_a_teacher_looks_at_the_same_images(kind):
    student, channels = prune(detector_of(kind), imgsz=PX, ratio=0.3, **SMALL).model, KINDS[kind][1]
    teacher = detector_of(kind)
    check_sees_the_same(student, teacher, "itself", PX, square=True)
    other = DetectionModel(yaml.safe_load(TINY), ch=channels + 1, verbose=False)
    with pytest.raises(SlimError, match=f"other looks at images of {channels + 1} channels, the student at {channels}"):
        check_sees_the_same(student, other, "other", PX, square=True)
    taps = Taps(student, entering(student), "the student")
    found = pair(student, taps, Teacher(teacher, "itself", student.stride.tolist()), None)
    assert len(losses_between([found], {"features": {"mimic": {}}, "outputs": {}}).names) == 1
