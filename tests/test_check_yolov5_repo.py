"""scripts/check_yolov5_repo.py against a checkout that is none: what it runs, what it compares, what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from tiny import PX, script
from yolov5_files import small

import yolo_slim

pytest_plugins = ["tiny"]

DETECT = """
from pathlib import Path
class LoadImages:
    def __init__(self, *places, auto=True): assert not auto
def run(source, project, name, **named):
    LoadImages(source, auto=True)
    folder = Path(project) / name / "labels"
    folder.mkdir(parents=True)
    for line in Path("boxes.txt").read_text().splitlines():
        (folder / "a.txt").write_text(line)
"""
VAL = """
def run(data, **named):
    import numpy as np, yaml
    assert np.int is int and np.trapz
    told = yaml.safe_load(open(data))
    assert told["nc"] == 4 and told["names"][0] == "circle", told
    print("the tables of a validation")
    return (0.1, 0.1, 0.2, 0.15, 0, 0, 0), None, None
"""


@pytest.fixture
def checked(tmp_path: Path, data: Path) -> tuple[SimpleNamespace, dict]:
    """A checkout of three lines, and what it is given."""
    module = script("check_yolov5_repo")
    repo, images = tmp_path / "repo", tmp_path / "images"
    for folder in (repo, images, tmp_path / "out"):
        folder.mkdir()
    (repo / "detect.py").write_text(DETECT)
    (repo / "val.py").write_text(VAL)
    (repo / "boxes.txt").write_text("")
    cv2.imwrite(str(images / "a.png"), np.zeros((PX, PX, 3), np.uint8))
    args = SimpleNamespace(repo=repo, python=sys.executable, images=images, data=data, imgsz=PX,
                           map_tolerance=0.2)  # fmt: skip
    given = {"weights": str(small(tmp_path)), "images": str(images), "imgsz": PX, "out": str(tmp_path / "out"),
             "data": module.described(data, tmp_path / "out"), "confidence": 0.25, "iou": 0.7}  # fmt: skip
    return args, given


def test_the_same_boxes_agree_and_one_too_many_does_not(checked: tuple[SimpleNamespace, dict], tmp_path: Path) -> None:
    module, (args, given) = script("check_yolov5_repo"), checked
    detector = yolo_slim.load(given["weights"])
    for conv in detector.model[-1].m:
        conv.bias.data.view(3, 9)[:, 4] = -20  # it sees no objects
    assert module.detected(args, given, detector)["fits"]  # none here, none there
    (args.repo / "boxes.txt").write_text("0 0.5 0.5 0.2 0.2 0.9")
    (tmp_path / "more").mkdir()
    row = module.detected(args, {**given, "out": str(tmp_path / "more")}, detector)
    assert (row["fits"], row["boxes"], row["theirs"]) == (False, 0, 1)


def test_map_is_compared_within_its_bound(checked: tuple[SimpleNamespace, dict]) -> None:
    module, (args, given) = script("check_yolov5_repo"), checked
    detector = yolo_slim.load(given["weights"])
    row = module.validated(args, given, detector)
    assert row["fits"] and row["theirs"] == 0.15
    args.map_tolerance = 0.01
    assert not module.validated(args, given, detector)["fits"]


def test_a_release_that_fails_is_told_with_its_own_words(checked: tuple[SimpleNamespace, dict]) -> None:
    module, (args, given) = script("check_yolov5_repo"), checked
    with pytest.raises(SystemExit, match="No module named 'export'"):
        module.ran(args, module.EXPORT, {**given, "onnx": {}, "opset": 17})


def test_what_is_exported_is_held_against_the_detector(
    checked: tuple[SimpleNamespace, dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its rows are x, y, w, h, objectness, classes."""
    module, (args, given) = script("check_yolov5_repo"), checked
    detector = yolo_slim.load(given["weights"])
    weights = Path(given["weights"])
    weights.with_suffix(".torchscript").touch()
    monkeypatch.setattr(module, "ran", lambda *_: None)

    def rows(shift: float) -> object:
        def run(image: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                found = detector(torch.from_numpy(image))[0].transpose(1, 2)
            told = torch.cat((found[..., :4] + shift, torch.ones_like(found[..., :1]), found[..., 4:]), 2)
            return [told.numpy()]

        return lambda *_: run

    monkeypatch.setattr(module, "opened", rows(0.0))
    assert module.exported(args, given, detector)["fits"]
    monkeypatch.setattr(module, "opened", rows(1.0))
    assert not module.exported(args, given, detector)["fits"]
    assert json.dumps(module.exported(args, given, detector))
