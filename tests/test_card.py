"""The model card: a slim checkpoint says where it comes from and how it came about; stock Ultralytics does not mind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import PX, refused, run
from ultralytics import YOLO

from yolo_slim import checkpoint, record
from yolo_slim.channels import trace
from yolo_slim.deploy import card_in, export_file
from yolo_slim.runs.stage import sign
from yolo_slim.stages.inspect import history, plan_of

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def pruned(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("card")
    words = [f"model={original}", f"imgsz={PX}", f"runs={runs}", "name=c", "sparse_train.epochs=0"]
    assert run("prune", *words, "prune.criterion=l1", "prune.target={size_mb: 0.4, flops: 0.9}").code == 0
    return runs / "c" / "pruned" / "pruned.pt"


def test_every_step_is_told_with_its_settings_and_numbers(pruned: Path, original: Path) -> None:
    card = checkpoint.card(pruned)
    assert card["source"] == {"file": original.name, "sha256": record.sha256(original)}
    assert [step["stage"] for step in card["steps"]] == ["original", "pruned"]
    before, after = card["steps"]
    assert after["params"] < before["params"] and after["settings"]["criterion"] == "l1"
    assert card["versions"] == record.versions()


def test_the_detector_is_what_it_was(pruned: Path) -> None:
    found = record.read(pruned.parent)
    assert found.sums["weights"] == record.sha256(pruned), "the record is of the file with its card"
    assert found.metrics["file_mb"] == pytest.approx(pruned.stat().st_size / 1e6, abs=1e-3)
    assert found.metrics["file_mb"] <= 0.4, "a budget of megabytes counts the card"
    assert "cuts" in checkpoint.load(pruned).yaml["slim"]
    with torch.no_grad():
        assert len(YOLO(pruned).predict(torch.rand(1, 3, PX, PX), imgsz=PX, verbose=False)) == 1


def test_inspect_prints_it(pruned: Path, original: Path) -> None:
    answer = run("inspect", pruned, f"imgsz={PX}")
    assert answer.code == 0, answer
    assert f"Made from {original.name} (sha256 {record.sha256(original)})" in answer.out
    assert "criterion=l1" in answer.out and '"flops": 0.9' in answer.out and "min_keep" not in answer.out
    assert "By yolo-slim" in answer.out.splitlines()[-2]
    widths = {c.name: len(c.outputs) for c in trace(checkpoint.load(original), PX).convs.values()}
    name, kept = next(iter(checkpoint.load(pruned).yaml["slim"]["cuts"][0].items()))
    told = f"{name.removeprefix('model.').removesuffix('.conv')} {widths[name]} -> {len(kept)}"
    assert "Plan: " in answer.out.splitlines()[-1] and told in answer.out.splitlines()[-1]


@pytest.mark.parametrize("card", [{"source": {"file": "a.pt", "sha256": "b"}}, {"versions": {"torch": "2"}}])
def test_a_card_with_less_in_it_is_told_as_far_as_it_goes(card: dict) -> None:
    assert history(card)


def test_a_long_plan_is_told_in_short() -> None:
    cuts = [{f"model.{i}.conv": [0, 1, 2, 3] for i in range(15)}, {"model.0.conv": [0, 3]}]
    (line,) = plan_of(cuts, {"model.0.conv": 8})
    assert line.startswith("Plan: 15 convolutions are narrower: 0 8 -> 2, 1 -> 4, ") and line.endswith(", and 3 more")


def test_a_tensorrt_file_begins_with_its_metadata(tmp_path: Path) -> None:
    text = json.dumps({"yolo_slim": json.dumps({"steps": []})}).encode()
    (tmp_path / "slim.engine").write_bytes(len(text).to_bytes(4, "little", signed=True) + text + b"the engine")
    assert card_in(tmp_path / "slim.engine") == {"steps": []}


def test_a_checkpoint_without_a_card_has_none(original: Path) -> None:
    assert checkpoint.card(original) == {}
    answer = run("inspect", original, f"imgsz={PX}")
    assert answer.code == 0 and "Made from" not in answer.out


@pytest.fixture(scope="module")
def exports(pruned: Path, data: Path) -> Path:
    words = [f"runs={pruned.parent.parent.parent}", "name=c", f"data={data}"]
    forms = ["export.formats=[torchscript, ncnn]", "export.int8=[onnx, openvino]"]
    answer = run("export", *words, *forms, "export.images=1", "export.calib_images=2", "export.int8_tolerance=1")
    assert answer.code == 0, answer
    return pruned.parent.parent / "export"


@pytest.mark.parametrize("name", ["slim.torchscript", "slim_ncnn_model", "slim_int8.onnx", "slim_int8_openvino_model"])
def test_every_export_carries_the_card(name: str, exports: Path, pruned: Path, original: Path) -> None:
    """INT8 files have it from the files in float that they are made of."""
    carried = card_in(exports / name)
    assert carried.pop("weights") == {"file": pruned.name, "sha256": record.sha256(pruned)}
    assert carried.pop("plan") == checkpoint.load(pruned).yaml["slim"]["cuts"]
    assert carried == checkpoint.card(pruned)
    answer = run("inspect", f"{exports / name}/" if (exports / name).is_dir() else exports / name)
    assert answer.code == 0, answer
    assert answer.out.startswith(f"Exported from {pruned.name} (sha256 {record.sha256(pruned)})")
    assert f"Made from {original.name}" in answer.out and "criterion=l1" in answer.out


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        pytest.param(None, "none.onnx", "there is no", id="not there"),
        pytest.param(b"not a model", "text.onnx", "cannot read the metadata", id="not ONNX"),
        pytest.param(b"not a model", "text.torchscript", "expected a checkpoint", id="not a zip file"),
        pytest.param({}, "slim_openvino_model", "expected a checkpoint", id="empty folder"),
        pytest.param({}, "slim.mlpackage", "other formats are not read here", id="CoreML"),
        pytest.param(b"no", "slim.engine", "cannot read the metadata", id="not TensorRT"),
        pytest.param({"metadata.yaml": "[oh"}, "slim_ncnn_model", "cannot read the metadata", id="broken YAML"),
    ],
)
def test_what_cannot_be_read_is_refused(content: object, name: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        path.mkdir()
        for inner, text in content.items():
            (path / inner).write_text(text, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    refused(run("inspect", path), told, name)


def test_an_export_of_others_carries_none(original: Path, tmp_path: Path) -> None:
    file = export_file(original, tmp_path / "other.torchscript", PX, "torchscript")
    assert card_in(file) == {}
    assert "carries no model card" in run("inspect", file).out


def test_a_data_set_is_not_where_a_detector_comes_from(original: Path, data: Path, tmp_path: Path) -> None:
    """One that was trained from a model YAML was made from no checkpoint, whatever else went in."""
    trained = tmp_path / "trained.pt"
    shutil.copy(original, trained)
    sign(trained, [data], {"stage": "original", "settings": {}})
    assert checkpoint.card(trained).keys() == {"steps", "versions"}
    sign(trained, [data, original], {"stage": "original", "settings": {}})
    assert checkpoint.card(trained)["source"]["file"] == original.name
