"""Files for chips: made by the converter where it is installed, run where they can be, and told apart where not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny import PX, run

from yolo_slim import deploy, record
from yolo_slim.deploy import card_in, elsewhere, export_file, how_to_install
from yolo_slim.report.exports import export_amiss

pytest_plugins = ["tiny"]


@pytest.mark.parametrize(
    ("formats", "how"),
    [
        (["onnx", "ncnn"], "pip install yolo-slim[export]"),
        (["litert"], "pip install yolo-slim[litert]"),
        (["onnx", "qnn"], "pip install yolo-slim[export]; pip install yolo-slim[qnn]"),
        (["rknn"], "see docs/devices/rknn.md"),
    ],
)
def test_what_is_missing_has_a_way_in(formats, how):
    assert how_to_install(formats) == how


@pytest.mark.parametrize("format", ["onnx", "openvino", "litert", "qnn"])
def test_what_runs_here_is_not_elsewhere(format):
    assert elsewhere(format) is None


def test_core_ml_is_proven_on_macos_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert "macOS" in str(elsewhere("coreml"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert elsewhere("coreml") is None


@pytest.fixture
def made(original, data, tmp_path, monkeypatch):
    """Run `export` of a cut with a converter that only notes what it is asked for."""
    asked = {}

    def export_file(weights, target: Path, imgsz, format, *, card, **arguments):
        asked[format] = arguments
        target.mkdir()
        (target / "net.bin").write_bytes(b"12345")
        return target

    monkeypatch.setattr(deploy, "export_file", export_file)
    monkeypatch.setattr(deploy, "missing", lambda formats: [])
    monkeypatch.setitem(deploy.elsewhere.__globals__["ELSEWHERE"], "rknn", (lambda: False, "another chip's"))
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path}", "name=a", "prune.criterion=l1"]
    small = ["prune.ratio=0.3", "sparse_train.epochs=0", "prune.recalibrate=0", "export.images=1"]
    assert run("prune", *words, *small).code == 0

    def export(*more):
        answer = run("export", *words, *small, *more)
        assert answer.code == 0, answer.err
        return answer, asked, record.read(tmp_path / "a" / "export").metrics["files"]

    return export


@pytest.mark.parametrize(
    ("device", "quantize", "precision"),
    [
        pytest.param("null", 8, "int8", id="no device"),
        pytest.param("rknn", 8, "int8", id="its usual one"),
        pytest.param("rknn:fp16", 16, "fp16", id="as the run is for"),
        pytest.param("qnn:fp16", 8, "int8", id="a run for another chip"),
    ],
)
def test_a_chips_file_has_the_devices_precision(made, device, quantize, precision):
    answer, asked, (row,) = made("export.formats=[rknn]", f"prune.device={device}", "export.chip=rk3566")
    assert asked["rknn"]["quantize"] == quantize and asked["rknn"]["name"] == "rk3566"
    assert row["precision"] == precision and row["not_run"] == "another chip's"
    assert "slim_rknn_model" in answer.out and "made, not proven here: another chip's" in answer.out
    assert export_amiss({"files": [row]}) == ["slim_rknn_model: made, not proven: another chip's"]


def test_a_file_that_is_not_run_has_no_numbers(made):
    _, asked, (row,) = made("export.formats=[rknn]")
    assert "name" not in asked["rknn"]
    assert row["difference"] is None and row["map50_95"] is None and row["error"] is None


def test_litert_carries_the_card_and_takes_several_images(seeing, tmp_path):
    pytest.importorskip("litert_torch", reason="LiteRT is not installed: pip install yolo-slim[litert]")
    import numpy as np

    file = export_file(seeing, tmp_path / "slim.tflite", PX, "litert", card={"steps": [], "versions": {}}, batch=2)
    assert card_in(file) == {"steps": [], "versions": {}}
    run = deploy.opened(file, "litert", 1)
    images = np.random.default_rng(0).random((4, 3, PX, PX), np.float32)
    assert np.array_equal(run(images)[0], np.concatenate([run(images[:2])[0], run(images[2:])[0]]))
