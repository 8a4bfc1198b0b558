"""ONNX: exported, run, compared with PyTorch, and refused where it differs."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny import PX, contents, refused, run
from torch import Tensor, nn

from yolo_slim import checkpoint, record
from yolo_slim.deploy import compare_onnx, export_onnx
from yolo_slim.errors import SlimError
from yolo_slim.training.calibrate import Batches

pytest_plugins = ["tiny"]

AGREES = 1e-3


@pytest.fixture(scope="module")
def exported(slim: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(slim, tmp_path_factory.mktemp("export") / "slim.onnx", PX)


@pytest.fixture(scope="module")
def batches(data: Path) -> list[Tensor]:
    return list(Batches(str(data), PX, 3, split="val", batch=1))


def test_only_the_file_is_written(exported: Path, slim: Path) -> None:
    assert contents(exported.parent).keys() == {"slim.onnx"}
    assert contents(slim.parent).keys() == {"slim.pt"}
    onnx.checker.check_model(onnx.load(exported))


def test_the_file_agrees_with_pytorch(exported: Path, slim: Path, batches: list[Tensor]) -> None:
    assert [tuple(image.shape) for image in batches] == [(1, 3, PX, PX)] * 3
    assert 0 <= compare_onnx(checkpoint.load(slim), exported, batches) < AGREES


def test_comparing_leaves_the_detector_alone(exported: Path, slim: Path, batches: list[Tensor]) -> None:
    detector = checkpoint.load(slim).train().half()
    assert compare_onnx(detector, exported, batches[:1]) < 0.01  # its weights were in fp16 anyway
    assert detector.training
    assert next(detector.parameters()).dtype == torch.float16


def last(detector: nn.Module, branch: str) -> nn.Conv2d:
    return getattr(detector.model[-1], branch)[0][-1]


@pytest.mark.parametrize("branch", [pytest.param("cv2", id="boxes"), pytest.param("cv3", id="scores")])
def test_another_detector_is_noticed(exported: Path, slim: Path, batches: list[Tensor], branch: str) -> None:
    other = checkpoint.load(slim)
    with torch.no_grad():
        last(other, branch).bias[::2] += 1
    assert compare_onnx(other, exported, batches) > 10 * AGREES


@pytest.mark.parametrize("factor", [1.5, float("nan")], ids=["larger weights", "no numbers"])
def test_another_file_is_noticed(
    exported: Path, slim: Path, batches: list[Tensor], tmp_path: Path, factor: float
) -> None:
    model = onnx.load(exported)
    weights = max(model.graph.initializer, key=lambda tensor: numpy_helper.to_array(tensor).size)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(factor), weights.name))
    onnx.save(model, tmp_path / "other.onnx")
    assert not compare_onnx(checkpoint.load(slim), tmp_path / "other.onnx", batches) <= AGREES


@torch.no_grad()
def test_the_worst_image_counts(slim: Path, batches: list[Tensor], tmp_path: Path) -> None:
    """With norms that follow the images: those of the untrained detector let hardly anything of them through."""
    detector = checkpoint.load(slim).train()
    for norm in (m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    detector(torch.cat(batches))
    seeing = checkpoint.save(detector.eval(), tmp_path / "seeing.pt")
    exported, other = export_onnx(seeing, tmp_path / "seeing.onnx", PX), checkpoint.load(seeing)
    last(other, "cv3").weight.mul_(1.1)
    alone = [compare_onnx(other, exported, [image]) for image in batches]
    assert compare_onnx(other, exported, batches) == max(alone) > 1.01 * min(alone)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "onnxslim"])
def test_a_missing_package_is_named_with_what_to_type(
    slim: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == name else find(n, *rest))
    with pytest.raises(SlimError, match=rf"needs {name}: pip install yolo-slim\[export\]"):
        export_onnx(slim, tmp_path / "slim.onnx", PX)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "slim.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"no checkpoint")
    (tmp_path / "out").mkdir()
    with pytest.raises(SlimError, match=f"ONNX export of {weights} failed"):
        export_onnx(weights, tmp_path / "out" / "slim.onnx", PX)
    assert list((tmp_path / "out").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# The stage


@pytest.fixture(scope="module")
def pruned(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder in which `prune` has been done."""
    runs = tmp_path_factory.mktemp("pruned") / "runs"
    assert run("prune", f"model={original}", f"imgsz={PX}", f"runs={runs}", "prune.ratio=0.3").code == 0
    return runs


@pytest.fixture
def words(pruned: Path, original: Path, data: Path, tmp_path: Path) -> list[object]:
    shutil.copytree(pruned, tmp_path / "runs")
    return ["export", f"model={original}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", f"data={data}"]


def test_the_stage_fails_beyond_its_tolerance(words: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "slim" / "export"
    answer = run(*words, "export.images=1", "export.tolerance=1e-12")
    refused(answer, folder / "slim.onnx", "differs from PyTorch", "export.tolerance=1e-12")
    assert record.read(folder) is None
    assert contents(folder).keys() == {"slim.onnx"}


def test_the_stage_says_what_it_compared(words: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "slim" / "export"
    assert run(*words, "export.images=9").code == 0
    done = record.read(folder)
    assert 0 <= done.metrics["difference"] <= done.metrics["tolerance"] == 1e-3
    assert done.output(folder, "onnx") == folder / "slim.onnx"
    assert done.metrics["file_mb"] == pytest.approx((folder / "slim.onnx").stat().st_size / 1e6, abs=1e-3)
    assert done.metrics["images"] == 4  # there are no more in this split


def test_the_stage_needs_images(words: list[object], tmp_path: Path) -> None:
    before = contents(tmp_path)
    refused(run(*words, "data=null"), "real images", "data=path/to/data.yaml")
    assert contents(tmp_path) == before


def test_the_stage_needs_something_to_export(original: Path, data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    refused(run("export", f"model={original}", f"runs={runs}", f"data={data}"), "nothing to export", "yolo-slim prune")
    assert not runs.exists()
