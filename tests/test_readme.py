"""Every code block of the README runs, or names only what is there."""

import re
import shlex
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import numpy as np
import pytest
from ultralytics.utils import DEFAULT_CFG_DICT

import yolo_slim
from yolo_slim import deploy
from yolo_slim.cli import STAGES, configured

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
LINES = [
    line.split("#")[0].strip()
    for language, code in BLOCKS
    if language == "bash"
    for line in code.splitlines()
    if line.split("#")[0].strip()
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all that the README's Python names: best.pt, slim.pt, my.yaml, image.jpg, exported files."""
    folder = tmp_path_factory.mktemp("readme")
    spec = spec_from_file_location("make_shapes", ROOT / "scripts" / "make_shapes.py")
    shapes = module_from_spec(spec)
    spec.loader.exec_module(shapes)
    data = shapes.draw(folder / "shapes", train=8, val=4, test=4, imgsz=64, seed=0)
    (folder / "my.yaml").write_text(data.read_text().replace("train:", f"path: {data.parent}\ntrain:", 1))
    names = read_names(data)
    detector = yolo_slim.load("yolov5n.yaml")
    detector = detector.__class__({**detector.yaml, "nc": len(names)}, verbose=False)
    detector.args = dict(DEFAULT_CFG_DICT)
    yolo_slim.save(detector, folder / "best.pt")
    yolo_slim.save(yolo_slim.prune(detector, imgsz=64, ratio=0.3, criterion="l1").model, folder / "slim.pt")
    for format in ("onnx", "openvino", "ncnn", "torchscript"):
        deploy.export_file(folder / "slim.pt", folder / f"slim{deploy.suffix(format)}", 320, format)
    cv2.imwrite(str(folder / "image.jpg"), np.full((64, 64, 3), 127, np.uint8))
    return folder


def read_names(data):
    import yaml

    return yaml.safe_load(data.read_text())["names"]


def test_the_readme_has_blocks():
    assert len(PYTHON) >= 4 and len(LINES) >= 12


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_block_runs(number, place, monkeypatch):
    monkeypatch.chdir(place)
    exec(compile(PYTHON[number], f"README block {number}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("line", LINES)
def test_shell_line_names_what_exists(line, monkeypatch):
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^[\w -]*\b{re.escape(words[1])}\b[\w -]*:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for word in words[2:]:
            name, _, value = word.partition("=")
            assert name == "CONFIG" and (ROOT / value).is_file()
    elif words[0] == "yolo-slim":
        assert words[1] in STAGES
        monkeypatch.chdir(ROOT)
        configured(words[2:])
    elif words[0] == "python":
        told = subprocess.run([sys.executable, ROOT / words[1], "--help"], capture_output=True, text=True, check=True)
        assert all(flag in told.stdout for flag in words[2:] if flag.startswith("--"))
    elif words[:3] == ["yolo", "detect", "train"]:
        assert all(word.partition("=")[0] in DEFAULT_CFG_DICT for word in words[3:])
    else:
        assert words[0] in ("git", "cp", "pip")
