"""Darknet's files come in as detectors that answer as OpenCV does, and as its formulas say."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_nets import CLASSES, SMALL, conv, detector, head, image, net, section, written, yolo
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.nms import non_max_suppression

from yolo_slim.errors import SlimError
from yolo_slim.formats import darknet
from yolo_slim.formats.darknet.build import EPS
from yolo_slim.formats.darknet.net import read_net

CORPUS = Path(__file__).parent / "corpus" / "darknet"
OPENCV_EPS = 1e-6
TIGHT = 1e-5


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def answers(model, x):
    with torch.no_grad():
        return model(x)


def test_what_nobody_reads_may_be_said_twice():
    """As in yolov3-openimages.cfg, which trains after it has tested: Darknet takes the first."""
    assert read_net(SMALL.replace("batch=1\n", "batch=1\nbatch=64\n")).classes == CLASSES


# ---- against OpenCV ----


@pytest.mark.parametrize("name", ["v3-tiny", "v4-parts", "new-coords"])
def test_opencv_says_the_same(name):
    """Its answers, as `scripts/opencv_darknet.py` kept them: raw maps, boxes, and scores that it does not drop."""
    model, told = darknet.load(CORPUS / f"{name}.cfg"), np.load(CORPUS / f"{name}.npz")
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.eps == EPS
        norm.eps = OPENCV_EPS
    x = torch.from_numpy(told["image"])
    boxes, maps = answers(model, x)
    assert boxes.shape[1] == 4 + CLASSES
    at, size = 0, torch.tensor([x.shape[3], x.shape[2]] * 2)
    for i, raw in enumerate(maps):
        assert relative(raw.permute(0, 2, 3, 1), torch.from_numpy(told[f"raw{i}"])) < TIGHT
        decoded = torch.from_numpy(told[f"decoded{i}"])  # [H * W * A, 5 + K]
        anchors, (h, w) = raw.shape[1] // (5 + CLASSES), raw.shape[2:]
        rows = boxes[0, :, at : at + anchors * h * w].view(-1, anchors, h, w).permute(2, 3, 1, 0).flatten(0, 2)
        at += anchors * h * w
        assert relative(rows[:, :4] / size, decoded[:, :4]) < TIGHT
        heard = decoded[:, 5:] > 0
        assert heard.any() and (rows[:, 4:] - decoded[:, 5:])[heard].abs().max() < TIGHT
        assert rows[:, 4:][~heard].max() <= 0.2 + TIGHT  # what OpenCV drops
    assert at == boxes.shape[2]


# ---- what a detector is ----


def test_a_detector_is_one_of_ultralytics(tmp_path):
    """What its trainer, validator and exporter ask of it."""
    model = darknet.load(written(tmp_path, SMALL))
    assert isinstance(model, DetectionModel) and not model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert model.names == {0: "0", 1: "1", 2: "2"} and model.nc == model.yaml["nc"] == 3
    assert model.stride.tolist() == model.model[-1].stride.tolist() == [4.0]
    assert (model.model[-1].f, model.model[-1].nl, model.model[-1].nc) == ([3], 1, 3)
    assert model.args["imgsz"] == 32 and model.task == "detect" and model.yaml["channels"] == 3
    assert "darknet" in model.yaml and set(map(type, model.yaml["darknet"].values())) == {str, list}
    assert [layer.i for layer in model.model] == list(range(len(model.model)))


def test_modes():
    """Train mode gives the maps, eval mode boxes and maps, an export boxes alone."""
    model = detector(SMALL)
    x = image(model, batch=2)
    boxes, maps = answers(model, x)
    assert boxes.shape == (2, 7, 2 * 8 * 8) and [m.shape for m in maps] == [(2, 16, 8, 8)]
    model.model[-1].export = True
    assert torch.equal(answers(model, x), boxes)
    model.model[-1].xyxy = True
    corners = answers(model, x)
    assert torch.allclose(corners[:, 2:4] - corners[:, :2], boxes[:, 2:4], atol=1e-4)
    assert [m.shape for m in answers(model.train(), x)] == [(2, 16, 8, 8)]


def test_nms_of_ultralytics_reads_it():
    model = detector(SMALL)
    (found,) = non_max_suppression(answers(model, image(model)), conf_thres=0.01)
    assert found.shape[1] == 6 and len(found)


def test_half_precision_decodes_in_fp32():
    head = detector(SMALL).half().model[-1]
    raw = torch.full((1, 16, 2, 2), 12.0, dtype=torch.float16)  # exp(12) is beyond fp16
    assert torch.isfinite(head([raw])[0]).all()


# ---- decoding, by hand ----


def test_decoding_by_hand():
    """sigmoid(ln 3) = 3/4, exp(ln 2) = 2; scale_x_y stretches 3/4 to 1.2 * 3/4 - 0.1 = 0.8."""
    model = detector(net() + conv(6, 3, 8) + head("1,3", scale_x_y=1.2))
    raw = torch.zeros(1, 2, 8, 4, 4)
    raw[0, 1, :, 2, 1] = torch.tensor([math.log(3), 0, math.log(2), 0, math.log(3), 0, math.log(3), -math.log(3)])
    boxes, _ = model.model[-1]([raw.view(1, 16, 4, 4)])
    box = boxes.view(7, 2, 4, 4)[:, 1, 2, 1]  # stride 8, cell (column 1, row 2), the anchor 20 x 18
    assert box.tolist() == pytest.approx([8 * (1 + 0.8), 8 * (2 + 0.5), 40, 18, 0.375, 0.5625, 0.1875])


def test_new_coordinates_by_hand():
    """Maps are in [0, 1] already; a size is 4 t^2 times its anchor."""
    model = detector(net() + conv(6, 3, 8) + head("0", activation="logistic", scale_x_y=2, new_coords=1))
    raw = torch.zeros(1, 8, 4, 4)
    raw[0, :, 3, 0] = torch.tensor([0.75, 0.5, 0.5, 0.25, 0.5, 1, 0.5, 0])
    box = model.model[-1]([raw])[0].view(7, 4, 4)[:, 3, 0]  # the anchor 4 x 5
    assert box.tolist() == pytest.approx([8 * (0 + 1.0), 8 * (3 + 0.5), 4, 1.25, 0.5, 0.25, 0])


# ---- weights, by hand ----


def packed(header, *numbers):
    return header + np.array(numbers, "<f4").tobytes()


ONE = net(2, 2, 1) + conv(1, activation="linear") + conv(8, activation="linear", norm=False) + yolo("0")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(struct.pack("<iiiI", 0, 1, 0, 7), id="0.1: seen is 32 bits"),
        pytest.param(struct.pack("<iiiQ", 0, 2, 0, 7), id="0.2: seen is 64 bits"),
        pytest.param(struct.pack("<iiiQ", 0, 2, 5, 1 << 40), id="0.2.5"),
        pytest.param(struct.pack("<iiiQ", 1, 0, 0, 7), id="1.0"),
    ],
)
def test_order_of_the_numbers_by_hand(tmp_path, header):
    """Shift, scale, mean, variance, weight; then biases before weights: (x * 3 - 1) / sqrt(4 + eps) * 5 + 2."""
    (tmp_path / "one.cfg").write_text(ONE)
    biases, weights = [0.5, *[0.0] * 7], [10.0, *[0.0] * 7]
    (tmp_path / "one.weights").write_bytes(packed(header, 2, 5, 1, 4, 3, *biases, *weights))
    model = darknet.load(tmp_path / "one.cfg")
    _, (raw,) = answers(model, torch.full((1, 1, 2, 2), 0.5))
    assert raw[0, 0, 0, 0].item() == pytest.approx(10 * ((0.5 * 3 - 1) / math.sqrt(4 + 1e-5) * 5 + 2) + 0.5)
    assert raw[0, 1:].abs().max() == 0
    assert darknet.save(model, tmp_path / "again.cfg")[1].read_bytes() == (tmp_path / "one.weights").read_bytes()


# ---- layers, by hand ----


def pooled(x, size, stride, pad):
    """Darknet's maximum: (n + pad - size) // stride + 1 windows, the first begins pad // 2 before the map."""
    h, w = ((n + pad - size) // stride + 1 for n in x.shape[2:])
    out = torch.full((*x.shape[:2], h, w), -math.inf)
    for i in range(h):
        for j in range(w):
            top, left = i * stride - pad // 2, j * stride - pad // 2
            window = x[:, :, max(top, 0) : top + size, max(left, 0) : left + size]
            out[:, :, i, j] = window.amax((2, 3))
    return out


@pytest.mark.parametrize(
    ("said", "pad"),
    [
        pytest.param({"size": 2, "stride": 2}, 1, id="2/2: the pad is out of reach on even maps"),
        pytest.param({"size": 2, "stride": 1}, 1, id="2/1: one behind, none before"),
        pytest.param({"size": 3, "stride": 1}, 2, id="3/1"),
        pytest.param({"size": 13, "stride": 1}, 12, id="13/1, of spp"),
        pytest.param({"size": 3, "stride": 2}, 2, id="3/2"),
        pytest.param({"size": 4, "stride": 1}, 3, id="4/1: one more behind than before"),
        pytest.param({"size": 4, "stride": 2}, 3, id="4/2"),
        pytest.param({"size": 4, "stride": 3}, 3, id="4/3"),
        pytest.param({"size": 6, "stride": 4}, 5, id="6/4"),
        pytest.param({"size": 3, "stride": 2, "padding": 0}, 0, id="3/2 without padding"),
        pytest.param({"size": 3, "stride": 1, "padding": 1}, 1, id="3/1, one behind"),
        pytest.param({"stride": 2}, 1, id="no size: the stride"),
        pytest.param({"size": 1}, 0, id="no stride: 1"),
    ],
)
@pytest.mark.parametrize("px", [12, 13])
def test_maxpool_by_definition(said, pad, px):
    found = detector(net(px, px) + section("maxpool", **said) + section("maxpool", size=px, stride=px) + head("0"))
    x = -torch.rand(2, 3, px, px) - 1  # below zero: a padding of zeros would be seen
    size, stride = said.get("size", said.get("stride")), said.get("stride", 1)
    assert torch.equal(found.model[0](x), pooled(x, size, stride, pad))


def test_a_part_of_a_route():
    model = detector(net() + conv(6, 3, 2) + section("route", layers=-1, groups=3, group_id=1) + conv(4, 3, 2) + head())
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert model.model[1](x).flatten().tolist() == [2, 3]
    assert model.model[2].conv.in_channels == 2


def test_routes_and_shortcuts_take_the_layers_they_name():
    """Counted from the start or back from where they stand; a sum takes the layer before as well."""
    text = net(4, 4) + conv(3) + conv(3) + conv(3) + section("shortcut", from_="-3,1", activation="linear")
    model = detector(text + section("route", layers="0, -2,3") + head())
    assert [model.model[i].f for i in (3, 4)] == [[-1, 0, 1], [0, 2, -1]]
    out = {}
    for i in range(5):
        model.model[i].register_forward_hook(lambda m, a, o, i=i: out.setdefault(i, o))
    answers(model, image(model))
    assert torch.equal(out[3], out[2] + out[0] + out[1])
    assert torch.equal(out[4], torch.cat([out[0], out[2], out[3]], 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("linear", [-2, 0, 8], id="linear"),
        pytest.param("leaky", [-0.2, 0, 8], id="leaky: a slope of 0.1"),
        pytest.param("relu", [0, 0, 8], id="relu"),
        pytest.param("relu6", [0, 0, 6], id="relu6"),
        pytest.param("logistic", [0.1192029, 0.5, 0.9996646], id="logistic"),
        pytest.param("swish", [-0.2384058, 0, 7.9973171], id="swish: x sigmoid(x)"),
        pytest.param("mish", [-0.2525015, 0, 7.9999982], id="mish: x tanh(ln(1 + exp x))"),
    ],
)
@pytest.mark.parametrize("norm", [True, False])
def test_activations_by_hand(name, expected, norm):
    layer = detector(net(1, 3, 1) + conv(8, activation=name, norm=norm) + yolo("0")).model[0]
    act = layer.act if norm else layer[-1] if name != "linear" else nn.Identity()
    assert act(torch.tensor([-2.0, 0.0, 8.0])).tolist() == pytest.approx(expected, abs=1e-6)


# ---- what lies beside it ----


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, "012", id="none: numbers"),
        pytest.param({"net.names": "a\nb\nc\n"}, "abc", id="called as the cfg"),
        pytest.param({"obj.names": "a\r\nb\r\nc"}, "abc", id="obj.names, of Windows"),
        pytest.param({"net.names": "a\nb\nc", "obj.names": "d\ne\nf"}, "abc", id="the cfg's own comes first"),
        pytest.param({"coco.names": "a\nb\nc\n\n"}, "abc", id="another, if it fits"),
        pytest.param({"x.names": "a\nb\nc", "y.names": "d\ne\nf"}, "012", id="two others: none is meant"),
        pytest.param({"x.names": "a\nb\nc", "y.names": "d\ne\nf\ng"}, "abc", id="two others, one fits"),
        pytest.param({"net.names": "\ufeffa\nb\nc"}, "abc", id="of an editor of Windows"),
        pytest.param({"x.names": "a\nb", "obj.names": "d\ne\nf"}, "def", id="another that does not fit"),
    ],
)
def test_names_of_classes(tmp_path, files, expected):
    path = written(tmp_path, SMALL)
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    assert "".join(darknet.load(path).names.values()) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a\nb", id="too few"),
        pytest.param("a\nb\nc\nd", id="too many"),
        pytest.param("a\n\nc", id="one is empty"),
        pytest.param("", id="none"),
        pytest.param("a\nb\n\x1b[2J", id="control characters"),
        pytest.param("a" * 100_000, id="far too long"),
    ],
)
def test_names_that_do_not_fit_their_cfg_are_refused(tmp_path, text):
    path = written(tmp_path, SMALL)
    (tmp_path / "net.names").write_text(text)
    (tmp_path / "obj.names").write_text("d\ne\nf")
    with pytest.raises(SlimError, match=r"net\.names: expected the names of the 3 classes of net\.cfg"):
        darknet.load(path)


@pytest.mark.parametrize("name", ["net_best.weights", "net_final.weights", "net_last.weights"])
def test_weights_beside_a_cfg_as_darknet_calls_them(tmp_path, name):
    path = written(tmp_path, SMALL)
    path.with_suffix(".weights").rename(tmp_path / name)
    assert len(list(darknet.load(path).parameters())) == 8


def test_weights_given(tmp_path):
    path = written(tmp_path, SMALL)
    other = path.with_suffix(".weights").rename(tmp_path / "elsewhere")
    assert darknet.load(str(path), str(other)).nc == CLASSES


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"[net]\nwidth=1", True, id="a cfg"),
        pytest.param(b"\xef\xbb\xbf[net]", True, id="a mark of Windows before it: refused when it is read"),
        pytest.param(b"# yolo\r\n\r\n [network]\r\n", True, id="comments first, another word, other line ends"),
        pytest.param(b"nc: 80\nbackbone:\n", False, id="a model YAML"),
        pytest.param(b"[flake8]\n", False, id="another cfg"),
        pytest.param(b"\0\0\0\0\2\0\0\0[net]", False, id="binary"),
        pytest.param(b"PK\3\4", False, id="a zip"),
        pytest.param(b"", False, id="nothing"),
    ],
)
def test_a_cfg_is_told_by_what_it_holds(tmp_path, content, expected):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    assert darknet.reads(path) is expected


def test_what_is_no_file_is_no_cfg(tmp_path):
    assert not any(darknet.reads(path) for path in (tmp_path, tmp_path / "none", "a" * 5000, "a\0b"))
