"""Export: written whole by Ultralytics, run, compared with PyTorch, and refused where it differs."""

import importlib.util
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny import PX, contents, refused, run
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.utils import checks, downloads

from yolo_slim import checkpoint, record
from yolo_slim.config import read_config
from yolo_slim.data.batches import Batches
from yolo_slim.deploy import (
    RUNTIMES,
    Exported,
    difference,
    export_file,
    file_mb,
    opened,
    runtime_of,
    suffix,
    taken,
    with_nms,
)
from yolo_slim.deploy.offline import offline
from yolo_slim.errors import SlimError
from yolo_slim.measure import accuracy
from yolo_slim.stages.export import _check_side, complaints

pytest_plugins = ["tiny"]

AGREES = 1e-3
FORMATS = ["onnx", "openvino", "torchscript", "ncnn"]


@pytest.fixture(scope="module")
def batches(data: Path) -> list[Tensor]:
    return list(Batches(str(data), PX, 3, split="val", batch=1))


def compared(detector: nn.Module, file: Path, batches: list[Tensor]) -> float | None:
    return difference(detector, opened(file, "onnxruntime", 1), batches)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_written_under_its_name_and_nothing_else(
    format: str, exported: Callable[[str], Path], seeing: Path
) -> None:
    file = exported(format)
    assert file.name == f"slim{suffix(format)}"
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".") or "tmp" in path.name] == []
    assert contents(seeing.parent).keys() == {"slim.pt"}


def test_converters_keep_their_progress_to_themselves(
    seeing: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    export_file(seeing, tmp_path / "slim_ncnn_model", PX, "ncnn")
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"


@pytest.mark.parametrize("format", FORMATS)
def test_stock_ultralytics_takes_the_file(format: str, exported: Callable[[str], Path], loaded: nn.Module) -> None:
    (found,) = YOLO(exported(format), task="detect").predict(np.full((PX, PX, 3), 127, np.uint8), imgsz=PX, conf=0.001)
    assert found.names == loaded.names
    assert len(found.boxes)


def test_a_folder_takes_the_place_of_an_older_one(seeing: Path, tmp_path: Path) -> None:
    target = tmp_path / "slim_openvino_model"
    target.mkdir()
    (target / "old.xml").touch()
    export_file(seeing, target, PX, "openvino")
    assert {*contents(tmp_path)} == {f"slim_openvino_model/{n}" for n in ("metadata.yaml", "slim.bin", "slim.xml")}
    assert file_mb(target) == pytest.approx(sum(p.stat().st_size for p in target.iterdir()) / 1e6, abs=1e-3)


def test_a_dynamic_file_takes_other_images(seeing: Path, tmp_path: Path, batches: list[Tensor]) -> None:
    file = export_file(seeing, tmp_path / "slim.onnx", PX, dynamic=True)
    wide = [torch.cat([batch, batch], 3) for batch in batches]
    assert compared(checkpoint.load(seeing), file, wide) < AGREES


def test_an_argument_reaches_the_exporter(seeing: Path, tmp_path: Path) -> None:
    plain = onnx.load(export_file(seeing, tmp_path / "slim.onnx", PX, opset=13, simplify=False))
    assert plain.opset_import[0].version == 13
    small = onnx.load(export_file(seeing, tmp_path / "slim.onnx", PX, opset=13, simplify=True))
    assert len(small.graph.node) < len(plain.graph.node)


def test_formats_take_what_ultralytics_says() -> None:
    assert {"dynamic", "opset", "simplify", "nms"} <= taken("onnx")
    assert not {"dynamic", "opset", "simplify", "nms"} & taken("ncnn")


@pytest.mark.parametrize(
    ("format", "name"), [("onnx", "onnx"), ("onnx", "onnxslim"), ("openvino", "openvino"), ("ncnn", "pnnx")]
)
def test_a_missing_package_is_named_with_what_to_type(
    seeing: Path, tmp_path: Path, format: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == name else find(n, *rest))
    with pytest.raises(SlimError, match=rf"{format} export needs {name}: pip install yolo-slim\[export\]"):
        export_file(seeing, tmp_path / f"slim{suffix(format)}", PX, format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("executorch") is not None, reason="executorch is here")
@pytest.mark.skipif(torch.__version__ < "2.9", reason="Ultralytics asks for a newer torch first")
def test_a_format_without_its_package_installs_nothing(
    seeing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As online as can be: Ultralytics would call pip now."""
    monkeypatch.setattr(checks, "ONLINE", True)
    monkeypatch.setattr(checks.subprocess, "check_output", lambda *a, **k: pytest.fail(f"it ran {a}"))
    with pytest.raises(SlimError, match=r"executorch export needs something that is not installed here: .*executorch"):
        export_file(seeing, tmp_path / "slim_executorch_model", PX, "executorch")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_downloaded() -> None:
    before = downloads.safe_download, checks.AUTOINSTALL
    with offline():
        with pytest.raises(ConnectionError, match="wants to download"):
            downloads.attempt_download_asset("calibration.zip")
        with pytest.raises(ConnectionError, match="wants to download"):
            downloads.safe_download(url="https://example.com/file.zip")
    assert before == (downloads.safe_download, checks.AUTOINSTALL)


def test_a_conversion_is_reported_to_nobody() -> None:
    pytest.importorskip("openvino")
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_what_ultralytics_refuses_is_said(seeing: Path, tmp_path: Path) -> None:
    with pytest.raises(SlimError, match=r"Ultralytics' onnx export of .* failed: AssertionError: .*opset>=9"):
        export_file(seeing, tmp_path / "slim.onnx", PX, opset=8)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "slim.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"no checkpoint")
    (tmp_path / "out").mkdir()
    with pytest.raises(SlimError, match=f"^{weights} is not a readable checkpoint"):
        export_file(weights, tmp_path / "out" / "slim.onnx", PX)
    assert list((tmp_path / "out").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# Comparing


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_agrees_with_pytorch(
    format: str, exported: Callable[[str], Path], seeing: Path, batches: list[Tensor]
) -> None:
    found = opened(exported(format), runtime_of(format), 1)
    assert 0 <= difference(checkpoint.load(seeing), found, batches) < AGREES


def test_comparing_leaves_the_detector_alone(
    exported: Callable[[str], Path], seeing: Path, batches: list[Tensor]
) -> None:
    detector = checkpoint.load(seeing).train().half()
    assert compared(detector, exported("onnx"), batches[:1]) < 0.01  # its weights were in fp16 anyway
    assert detector.training
    assert next(detector.parameters()).dtype == torch.float16


def last(detector: nn.Module, branch: str) -> nn.Conv2d:
    return getattr(detector.model[-1], branch)[0][-1]


@pytest.mark.parametrize("branch", [pytest.param("cv2", id="boxes"), pytest.param("cv3", id="scores")])
def test_another_detector_is_noticed(
    exported: Callable[[str], Path], seeing: Path, batches: list[Tensor], branch: str
) -> None:
    other = checkpoint.load(seeing)
    with torch.no_grad():
        last(other, branch).bias[::2] += 1
    assert compared(other, exported("onnx"), batches) > 10 * AGREES


@pytest.mark.parametrize("factor", [1.5, float("nan")], ids=["larger weights", "no numbers"])
def test_another_file_is_noticed(
    exported: Callable[[str], Path], seeing: Path, batches: list[Tensor], tmp_path: Path, factor: float
) -> None:
    model = onnx.load(exported("onnx"))
    weights = max(model.graph.initializer, key=lambda tensor: numpy_helper.to_array(tensor).size)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(factor), weights.name))
    onnx.save(model, tmp_path / "other.onnx")
    assert not compared(checkpoint.load(seeing), tmp_path / "other.onnx", batches) <= AGREES


def test_the_worst_image_counts(exported: Callable[[str], Path], seeing: Path, batches: list[Tensor]) -> None:
    other = checkpoint.load(seeing)
    with torch.no_grad():
        last(other, "cv3").weight.mul_(1.1)
    alone = [compared(other, exported("onnx"), [image]) for image in batches]
    assert compared(other, exported("onnx"), batches) == max(alone) > 1.01 * min(alone)


def test_sorted_detections_are_not_compared_in_numbers(seeing: Path, batches: list[Tensor]) -> None:
    detector = checkpoint.load(seeing)
    whole = with_nms(detector)
    assert difference(whole, lambda images: pytest.fail("no need to run it"), batches) is None


def test_the_evaluator_takes_a_file_like_a_detector(exported: Callable[[str], Path], seeing: Path, data: Path) -> None:
    found = Exported(opened(exported("onnx"), "onnxruntime", 1), checkpoint.load(seeing))
    both = [accuracy(of, str(data), PX, "val") for of in (checkpoint.load(seeing), found)]
    numbers = [{k: v for k, v in of.items() if isinstance(v, float)} for of in both]
    assert numbers[1] == pytest.approx(numbers[0], abs=1e-6) and len(numbers[0]) > 8
    assert [of["per_class"] for of in both][1] == [
        {**r, "ap50_95": pytest.approx(r["ap50_95"])} for r in both[0]["per_class"]
    ]
    assert found(torch.rand(3, 3, PX, PX)).shape == (3, 8, 80)


def test_a_file_with_nms_gives_pytorchs_detections(seeing: Path, batches: list[Tensor], tmp_path: Path) -> None:
    detector = checkpoint.load(seeing)
    file = export_file(seeing, tmp_path / "slim.torchscript", PX, "torchscript", nms=True)
    found = Exported(opened(file, "torchscript", 1), detector)(batches[0])
    expected = with_nms(detector)(batches[0])
    assert found.shape == expected.shape == (1, 300, 6)
    assert (expected[0, :, 4] > 0.25).any()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


ROW = {"file": "slim.onnx", "precision": "fp32", "runtime": "onnxruntime", "tolerance": 1e-3, "difference": 1e-6}
ROW |= {"also": {"opencv": None}, "map50_95_difference": 0.0, "map50_95_tolerance": 0.001}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"difference": 2e-3}, ["onnxruntime", "2.0e-03", "export.tolerance=1e-03"], id="raw"),
        pytest.param({"difference": math.nan}, ["differs from PyTorch's by nan"], id="no numbers"),
        pytest.param({"also": {"opencv": 0.5}}, ["opencv", "5.0e-01"], id="in another runtime"),
        pytest.param({"map50_95_difference": -0.002}, ["-0.20 points", "export.map_tolerance=0.001"], id="worse"),
        pytest.param({"map50_95_difference": 0.002}, ["+0.20 points"], id="better is no agreement either"),
        pytest.param({"map50_95_difference": math.nan}, ["nan points"], id="no mAP"),
        pytest.param(
            {"precision": "int8", "map50_95_difference": -0.02, "map50_95_tolerance": 0.015},
            ["2.00 points below", "export.int8_tolerance=0.015", "export.calib_images", "export.int8_float"],
            id="INT8 lost too much",
        ),
    ],
)
def test_what_is_beyond_its_bound_is_said(changed: dict, words: list[str]) -> None:
    (said,) = complaints({**ROW, **changed})
    assert said.startswith("slim.onnx: ")
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, id="agrees"),
        pytest.param({"difference": None}, id="nothing to compare"),
        pytest.param({"precision": "int8", "difference": None, "map50_95_difference": 0.02}, id="INT8 may gain"),
    ],
)
def test_what_is_within_its_bounds_is_let_be(changed: dict) -> None:
    assert [*complaints({**ROW, **changed})] == []


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
    refused(answer, folder, "slim.onnx: its output in onnxruntime", "in opencv", "export.tolerance=1e-12")
    assert record.read(folder) is None
    assert contents(folder).keys() == {"slim.onnx", "export.json"}
    found = json.loads((folder / "export.json").read_text())
    assert found["files"][0]["difference"] > 1e-12 and "differs from PyTorch's" in found["wrong"][0]


def test_the_stage_says_what_it_compared(words: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "slim" / "export"
    words += ["export.formats=[onnx,torchscript]", "export.int8=[openvino]", "export.calib_images=2", "export.images=9"]
    assert run(*words).code == 0
    done = record.read(folder)
    files = {file["file"]: file for file in done.metrics["files"]}
    assert done.outputs == {
        "onnx": "slim.onnx",
        "torchscript": "slim.torchscript",
        "openvino_int8": "slim_int8_openvino_model",
        "json": "export.json",
    }
    assert (
        {*files, "export.json"} == {*done.outputs.values()} == {path.name for path in folder.iterdir()} - {record.FILE}
    )
    assert 0 <= files["slim.onnx"]["difference"] <= files["slim.onnx"]["tolerance"] == 1e-3
    assert 0 <= files["slim.onnx"]["also"]["opencv"] <= 1e-3
    assert files["slim_int8_openvino_model"]["difference"] is None
    for file in files.values():
        assert file["images"] == 4  # there are no more in this split
        assert file["file_mb"] == file_mb(folder / file["file"])
        assert abs(file["map50_95_difference"]) <= file["map50_95_tolerance"]
    (folder / "slim_int8_openvino_model" / "slim.xml").write_text("")
    assert record.read(folder) is None, "a changed file in a folder is a changed output"


def test_a_file_that_cannot_be_run_is_told_and_kept(
    words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in its own runtime, which fails the stage, and in another."""

    def broken(file: Path, threads: int) -> Callable:
        return lambda images: 1 / 0

    folder, runtimes = tmp_path / "runs" / "slim" / "export", dict(RUNTIMES)
    for name, fails in (("opencv", False), ("onnxruntime", True)):
        runtimes[name] = replace(RUNTIMES[name], open=broken)
        monkeypatch.setattr("yolo_slim.deploy.runtimes.RUNTIMES", dict(runtimes))
        monkeypatch.setattr("yolo_slim.deploy.RUNTIMES", dict(runtimes))
        answer = run(*words, "export.images=1")
        (row,) = json.loads((folder / "export.json").read_text())["files"]
        if fails:
            refused(answer, "slim.onnx: onnxruntime does not run it: ZeroDivisionError")
            assert row["error"] and row["map50_95"] is None
        else:
            assert answer.code == 0 and "slim.onnx: not in opencv: ZeroDivisionError" in answer.out
            assert row["not_in"] == {"opencv": "ZeroDivisionError: division by zero"}
        words.append("export.calib_images=9")


def test_a_side_that_strides_do_not_divide() -> None:
    config = read_config(None, ["model=x.pt", "export.imgsz=352"])
    wide = SimpleNamespace(stride=torch.tensor([8.0, 16.0, 32.0, 64.0]))
    with pytest.raises(SlimError, match=r"multiple of 64, .* got 352: give export\.imgsz=384"):
        _check_side(config, wide)


def test_what_is_no_longer_asked_for_does_not_stay(words: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "slim" / "export"
    assert run(*words, "export.formats=[torchscript]", "export.images=1").code == 0
    (folder / "mine.txt").write_text("a user's own")
    assert run(*words, "export.formats=[onnx]", "export.images=1").code == 0
    assert contents(folder).keys() == {"slim.onnx", "export.json", "mine.txt", record.FILE}


def test_an_argument_that_a_format_does_not_take_is_said(words: list[object]) -> None:
    answer = run(*words, "export.formats=[ncnn]", "export.nms=true", "export.images=1")
    assert answer.code == 0
    assert "ncnn: takes no nms, left out" in answer.out


def test_a_package_that_is_missing_stops_the_stage_before_it_begins(
    words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, before = importlib.util.find_spec, contents(tmp_path)
    gone = {"nncf", "pnnx"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n in gone else find(n, *rest))
    answer = run(*words, "export.formats=[onnx,ncnn]", "export.int8=[openvino]")
    refused(answer, "export needs pnnx, nncf: pip install yolo-slim[export]")
    assert contents(tmp_path) == before


def test_the_stage_needs_images(words: list[object], tmp_path: Path) -> None:
    before = contents(tmp_path)
    refused(run(*words, "data=null"), "real images", "data=path/to/data.yaml")
    assert contents(tmp_path) == before


def test_the_stage_needs_a_format(words: list[object]) -> None:
    refused(run(*words, "export.formats=[]"), "export.formats=[onnx]")


def test_the_stage_needs_something_to_export(original: Path, data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    refused(
        run("export", f"model={original}", f"runs={runs}", f"data={data}"), "nothing slim to export", "yolo-slim prune"
    )
    assert not runs.exists()


def test_a_folder_with_an_apostrophe_is_exported_to(seeing, tmp_path):
    """Ultralytics drops apostrophes from the paths of weights."""
    folder = tmp_path / "it's #1"
    folder.mkdir()
    file = export_file(seeing, folder / "slim.torchscript", PX, "torchscript")
    assert file.is_file() and contents(folder).keys() == {"slim.torchscript"}
