"""Devices: the table of facts, the widths that follow it, and what padding costs, against numbers by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import PX, ROOT, run
from torch import nn

from yolo_slim import SlimError, prune, record, trace
from yolo_slim.channels.groups import Conv
from yolo_slim.config import Prune
from yolo_slim.devices import DEVICES, Padding, filled, preset
from yolo_slim.devices.kinds import BYTES
from yolo_slim.measure.padded import avoided, padded, weights_after
from yolo_slim.report import device_warnings, markdown
from yolo_slim.report.device_words import device_rows, device_said

pytest_plugins = ["tiny", "handmade"]

ALL = [f"{name}:{precision}" for name, device in DEVICES.items() for precision in device.rules]


def conv(inputs, outputs, kernel=9, positions=100, groups=1):
    return Conv("c", np.arange(inputs), np.arange(outputs), kernel, positions, groups, False, None)


@pytest.mark.parametrize("name", DEVICES)
def test_every_fact_has_its_source(name):
    facts = DEVICES[name].facts
    assert facts and all(fact.says and fact.source.startswith("https://") for fact in facts)


@pytest.mark.parametrize("text", ALL)
def test_the_multiple_wastes_no_weight_of_a_dense_layer(text):
    """Where the device computes inputs in larger blocks than outputs, those alone may be filled up."""
    rules = preset(text).rules
    for padding in (rules.computed, rules.stored):
        assert filled(rules.round_to, padding.outputs) == rules.round_to
        assert filled(2 * rules.round_to, padding.inputs) == 2 * rules.round_to
    assert preset(text).precision in BYTES


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_has_its_page_and_its_line(name):
    """The line names its precisions, the usual one as the bare name, and the multiple of each."""
    docs = ROOT / "docs" / "devices"
    assert (docs / f"{name}.md").is_file()
    lines = [text.split("|") for text in (docs / "index.md").read_text().splitlines() if f"[{name}]({name}.md)" in text]
    settings, multiples = (cell.replace("`", "").split(", ") for cell in map(str.strip, lines[0][2:4]))
    assert [str(preset(text)) for text in settings] == [f"{name}:{p}" for p in DEVICES[name].rules]
    assert [int(n) for n in multiples] == [rules.round_to for rules in DEVICES[name].rules.values()]


def test_a_device_is_named_with_or_without_its_precision():
    assert str(preset("rknn")) == "rknn:int8" and str(preset("rknn:fp16")) == "rknn:fp16"
    assert str(preset("tensorrt")) == "tensorrt:fp16"


@pytest.mark.parametrize(
    ("width", "blocks", "after"),
    [
        pytest.param(12, (1,), 12, id="nothing is filled up"),
        pytest.param(12, (8,), 16, id="to a multiple"),
        pytest.param(16, (8,), 16, id="is one"),
        pytest.param(40, (8, 16, 32), 40, id="a whole block of 32, and one of 8"),
        pytest.param(44, (8, 16, 32), 48, id="one of 16"),
        pytest.param(56, (8, 16, 32), 64, id="24 are left, which takes another of 32"),
    ],
)
def test_widths_are_filled_up(width, blocks, after):
    assert filled(width, blocks) == after


ROCKCHIP = {  # (outputs, inputs, kernel, depthwise) -> bytes, as rknn-toolkit2 2.3.2 prints its "Const Tensor" table
    "rknn:int8": {
        **{(8, 32, 9, 0): 0x900, (16, 8, 9, 0): 0x900, (24, 16, 9, 0): 0xD80, (32, 24, 9, 0): 0x2400},
        **{(48, 40, 9, 0): 0x5100, (64, 56, 9, 0): 0x9000, (64, 20, 9, 0): 0x4800, (64, 36, 9, 0): 0x6C00},
        **{(100, 96, 1, 0): 0x2580, (16, 16, 9, 1): 0x90, (24, 24, 9, 1): 0x120, (40, 40, 9, 1): 0x240},
        **{(72, 72, 9, 1): 0x2D0, (96, 96, 9, 1): 0x360, (100, 100, 9, 1): 0x480},
    },
    "rknn:fp16": {
        **{(8, 32, 9, 0): 0x1200, (16, 8, 9, 0): 0x900, (24, 16, 9, 0): 0x1B00, (32, 24, 9, 0): 0x4800},
        **{(48, 40, 9, 0): 0x8700, (64, 56, 9, 0): 0x12000, (64, 12, 9, 0): 0x4800, (64, 36, 9, 0): 0xB400},
        **{(96, 72, 1, 0): 0x3600, (16, 16, 9, 1): 0x120, (40, 40, 9, 1): 0x2D0, (72, 72, 9, 1): 0x510},
        **{(100, 100, 9, 1): 0x750},
    },
}
CYCLES = {  # (outputs, inputs) -> cycles of a 3x3 convolution at 40x40, from the same compiler's table of layers
    "rknn:int8": {(8, 32): 14400, (40, 32): 28800, (48, 40): 57600, (64, 20): 28800, (64, 56): 57600},
    "rknn:fp16": {(8, 32): 14400, (24, 16): 28800, (48, 40): 86400, (64, 8): 57600, (64, 56): 115200},
}


@pytest.mark.parametrize("device", ROCKCHIP)
def test_weights_are_those_of_rockchips_compiler(device):
    to = preset(device)
    for (outputs, inputs, kernel, depthwise), size in ROCKCHIP[device].items():
        layer = conv(inputs, outputs, kernel, groups=inputs if depthwise else 1)
        assert to.weight_bytes * weights_after(layer, to.rules.stored) == size, (outputs, inputs, kernel, depthwise)


@pytest.mark.parametrize("device", CYCLES)
def test_operations_grow_as_the_cycles_of_rockchips_compiler(device):
    rules = preset(device).rules
    per_cycle = {
        weights_after(conv(inputs, outputs), rules.computed) * 1600 / cycles
        for (outputs, inputs), cycles in CYCLES[device].items()
    }
    assert per_cycle == {1024.0 if device == "rknn:int8" else 512.0}


def test_a_sum_by_hand():
    """Qualcomm's: all channels to multiples of 32. 3 -> 48 -> 48 (depthwise) -> 40, 100 positions each."""
    layers = [conv(3, 48), conv(48, 48, groups=48), conv(48, 40, kernel=1)]
    found = padded(layers, preset("qnn:int8"))
    assert (found.layers, found.off) == (3, 3)
    assert found.weight_bytes == 9 * 3 * 48 + 9 * 48 + 48 * 40
    assert found.weight_bytes_padded == 9 * 32 * 64 + 9 * 64 + 64 * 64
    assert found.flops == 2 * 100 * found.weight_bytes
    assert found.flops_padded == 2 * 100 * found.weight_bytes_padded
    halves = padded(layers, preset("qnn:fp16"))
    assert (halves.weight_bytes, halves.flops_padded) == (2 * found.weight_bytes, found.flops_padded)


def test_each_group_is_filled_up_for_itself():
    assert weights_after(conv(16, 32, kernel=1, groups=2), Padding((32,), (32,), (1,))) == 2 * 32 * 32


@pytest.mark.parametrize("text", ALL)
def test_a_device_only_adds(loaded, text):
    found = padded(trace(loaded, PX).convs.values(), preset(text))
    assert found.weight_bytes_padded >= found.weight_bytes and found.flops_padded >= found.flops
    assert found.weight_bytes == BYTES[preset(text).precision] * sum(
        m.weight.numel() for m in loaded.modules() if isinstance(m, nn.Conv2d)
    )


def test_what_a_device_does_not_like_is_counted():
    leaky = nn.Sequential(nn.Conv2d(3, 8, 1), nn.LeakyReLU(0.1), nn.Sequential(nn.LeakyReLU(0.1)))
    assert avoided(leaky, preset("edgetpu")) == {"LeakyReLU": 2}
    assert avoided(leaky, preset("qnn")) == {}


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        pytest.param({}, (8, 8), id="no device"),
        pytest.param({"device": "rknn"}, (32, 16), id="INT8 is usual there"),
        pytest.param({"device": "rknn:fp16"}, (16, 16), id="another precision"),
        pytest.param({"device": "rknn", "round_to": 4}, (4, 16), id="what is given wins"),
        pytest.param({"device": "rknn", "min_channels": 0}, (32, 0), id="even zero"),
        pytest.param({"device": "rknn", "round_to": None}, (32, 16), id="null is not given"),
        pytest.param({"device": "ncnn:fp32"}, (4, 8), id="finer than usual"),
    ],
)
def test_widths_follow_the_device(settings, widths):
    assert Prune(**settings).widths == widths


def test_a_cut_keeps_to_the_devices_multiple(loaded):
    plain, slim = (prune(loaded, imgsz=PX, ratio=0.4, criterion="l1", device=d) for d in (None, "ncnn:fp32"))
    coarse = prune(loaded, imgsz=PX, ratio=0.1, criterion="l1", device="tensorrt:int8")

    def free(result, of):
        return {n for g in trace(loaded, PX).free for n in (len(result.kept[g.name]),) if n % of and n < g.size}

    assert not free(plain, 8) and not free(slim, 4) and not free(coarse, 32)
    assert free(slim, 8)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        pytest.param("rkn", r"prune\.device: expected one of onnxruntime, .* tflite, as rknn or rknn:int8, got 'rkn'"),
        pytest.param("rknn:int4", "expected rknn:int8 or rknn:fp16, got 'rknn:int4'"),
        pytest.param("rknn:", "expected rknn:int8 or rknn:fp16"),
        pytest.param("", "expected a text"),
        pytest.param(3, r"prune\.device"),
    ],
)
def test_a_wrong_device_is_refused(loaded, device, said):
    with pytest.raises(SlimError, match=said):
        prune(loaded, imgsz=PX, ratio=0.4, criterion="l1", device=device)


# ---- a run ----


@pytest.fixture(scope="module")
def on_rknn(original, data, tmp_path_factory):
    """A cut for RKNN and its report."""
    runs = tmp_path_factory.mktemp("runs")
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "name=a", "prune.criterion=l1"]
    small = ["prune.ratio=0.4", "sparse_train.epochs=0", "report.latency_runs=1", "prune.recalibrate=0"]
    said = [run("prune", *words, *small, "prune.device=rknn:fp16"), run("report", *words, *small)]
    assert [answer.code for answer in said] == [0, 0], said
    return runs / "a", said


def test_a_run_says_which_widths_and_why(on_rknn):
    folder, (cut, _) = on_rknn
    assert "prune.device=rknn:fp16: round_to=16 (RKNN, Rockchip NPU at fp16), min_channels=16 (RKNN" in cut.out
    assert "layers off the multiple" in cut.out
    asked = {"device": "rknn:fp16", "round_to": 16, "min_channels": 16, "given": []}
    assert record.read(folder / "plan").details["device"] == asked
    (row,) = record.read(folder / "pruned").details["on_device"]["rows"]
    assert row["stage"] == "pruned" and row["flops_padded"] > row["flops"]


def test_the_report_shows_it(on_rknn):
    folder, _ = on_rknn
    found = json.loads((folder / "report" / "report.json").read_text())["device"]
    assert found["device"] == "rknn:fp16" and [row["stage"] for row in found["rows"]] == ["original", "pruned"]
    page = (folder / "report" / "report.md").read_text()
    assert "## On the device" in page and "rknn-toolkit2 2.3.2" in page
    assert "Not verified: " in page
    html = (folder / "report" / "report.html").read_text()
    assert '<section id="device">' in html and device_rows(found)[1][2] in html


def row(**changed):
    return {
        **{"stage": "finetuned", "layers": 60, "off": 7, "weight_bytes": 9_000_000, "weight_bytes_padded": 9_000_000},
        **{"flops": 2_000_000_000, "flops_padded": 3_000_000_000, "avoided": {}},
        **changed,
    }


def test_a_ceiling_that_is_passed_is_told_at_the_top(report):
    report["device"] = {"device": "edgetpu:int8", "rows": [row(avoided={"LeakyReLU": 11})]}
    page = markdown(report)
    said = device_warnings(report["device"])
    assert len(said) == 2 and all(line.split(":")[0] in page for line in said)
    assert "9.00 MB of weights in int8" in said[0] and "about 8.4 MB" in said[0]
    assert "11 LeakyReLU" in said[1]
    assert page.index("9.00 MB of weights") < page.index("## Results")


def test_what_fits_is_not_warned_of(report):
    small = {"device": "edgetpu:int8", "rows": [row(weight_bytes_padded=8 << 20)]}
    assert device_warnings(small) == [] and device_warnings(None) == []
    assert device_warnings({"device": "rknn:int8", "rows": [row()]}) == []  # no ceiling is known of it


def test_the_table_by_hand():
    (line,) = device_rows({"device": "rknn:int8", "rows": [row()]})
    assert line == ["finetuned", "7 of 60", "9.00", "9.00 (×1.00)", "2.00", "3.00 (×1.50)"]


@pytest.mark.parametrize("name", DEVICES)
def test_the_report_tells_what_is_verified(name):
    said = " ".join(device_said({"device": str(preset(name)), "rows": []}))
    assert all(fact.says in said and fact.source in said for fact in DEVICES[name].facts)


def test_the_report_tells_what_the_converter_wants():
    said = device_said({"device": "hailo:int8", "rows": []})
    assert "INT8 is to be calibrated on at least 1,024 images." in said
    assert "Its files take pictures of one size, export.imgsz." in said
    assert not any("calibrated on at least" in line for line in device_said({"device": "rknn:fp16", "rows": []}))
