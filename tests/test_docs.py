"""Every code block of README.md and docs/ runs, but for what needs a network or hours; and the site builds."""

import re
import shlex
import shutil
import subprocess
import sys
from unittest.mock import patch

import cv2
import darknet_nets as nets
import numpy as np
import pytest
import yaml
from tiny import ROOT, build, run, script
from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT

import yolo_slim
from yolo_slim import checkpoint, deploy
from yolo_slim.cli import configured
from yolo_slim.distill import FEATURES
from yolo_slim.importance import CRITERIA
from yolo_slim.stages import STAGES
from yolo_slim.timing import layers, targets
from yolo_slim.timing.layers import random_widths

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), language, code)
    for page in PAGES
    for language, code in re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]
PYTHON = [pytest.param(code, id=page) for page, language, code in BLOCKS if language == "python"]


def lines_of(code):
    """What is typed, without comments."""
    return [line.split("#")[0].strip() for line in code.splitlines() if line.split("#")[0].strip()]


SHELL = [
    pytest.param(lines_of(code), id=f"{page}: {lines_of(code)[0]}")
    for page, language, code in BLOCKS
    if language == "bash"
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all that Python blocks name: best.pt, slim.pt, my.yaml, image.jpg, exported files."""
    folder = tmp_path_factory.mktemp("docs")
    data = script("make_shapes").draw(folder / "shapes", train=8, val=4, test=4, imgsz=64, seed=0)
    (folder / "my.yaml").write_text(data.read_text().replace("train:", f"path: {data.parent}\ntrain:", 1))
    detector = checkpoint.build("yolov5n.yaml", classes=len(yaml.safe_load(data.read_text())["names"]))
    yolo_slim.save(detector, folder / "best.pt")
    yolo_slim.save(yolo_slim.prune(detector, imgsz=64, ratio=0.3, criterion="l1").model, folder / "slim.pt")
    for format in ("onnx", "openvino", "ncnn", "torchscript"):
        deploy.export_file(folder / "slim.pt", folder / f"slim{deploy.suffix(format)}", 320, format)
    cv2.imwrite(str(folder / "image.jpg"), np.full((64, 64, 3), 127, np.uint8))
    return folder


def test_there_are_blocks():
    assert len(PYTHON) >= 10 and len(SHELL) >= 20


@pytest.mark.parametrize("code", PYTHON)
def test_python_block_runs(code, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(DEFAULT_CFG, "plots", False)  # pictures of a training take ten times as long as it does
    with patch.dict(FEATURES), patch.dict(CRITERIA):  # what is added there stays there
        exec(compile(code, "a block", "exec"), {"__name__": "__main__"})


# ---- what is typed in a shell ----

SMALL = shlex.split("""
    imgsz=64 prune.calib_images=4 sparse_train.epochs=2 sparse_train.min_steps=0 finetune.epochs=1
    report.latency_runs=1 bench.runs=3
    latency.samples=8 latency.runs=3 latency.threads=1 sweep.flops=[0.7] export.images=2 export.calib_images=8
    prune.sensitivity.images=8 prune.sensitivity.ratios=[0.5] prune.round_to=4 prune.min_channels=4
    export.formats=[onnx] export.map_tolerance=1 export.int8_tolerance=1 bench.runtimes=[torch]
""")
"""What makes any command quick (on four images mAP says nothing); what a line itself says comes after it."""

HERE = {
    "device=0,1": "device=cpu",  # no GPUs
    "prune.target.latency=0.5": "prune.target.latency=0.95",  # at 64 px most of the time is no convolution's
    "sweep.flops=[0.75,0.5,0.25]": "sweep.flops=[0.75]",
    "sweep.workers=8": "sweep.workers=2",
    "original.epochs=45": "original.epochs=1",
}
"""What another machine, or another detector, could do as it is typed."""

AFTER_PRUNE = ("finetune", "export")
"""What a block may begin with only once there is a cut."""


@pytest.fixture(scope="module")
def shell(place, tmp_path_factory):
    """A folder with all that is named in shell lines, under those names, and small."""
    folder = tmp_path_factory.mktemp("shell")
    for name in ("configs", "data/bccd", "weights", "more/images"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "bccd.yaml", folder / "configs")
    for name in ("my.yaml", "data/bccd/bccd.yaml"):
        shutil.copy(place / "my.yaml", folder / name)
    for seed, names in enumerate([("best.pt", "weights/bccd_v5n.pt"), ("weights/large.pt",)]):
        for name in names:
            yolo_slim.save(build(folder, seed), folder / name)
    shutil.copy(place / "slim.pt", folder)
    for image in (place / "shapes" / "images" / "train").iterdir():
        shutil.copy(image, folder / "more" / "images")
    nets.written(folder, nets.SMALL, name="yolov3-tiny")
    (own,) = (code for _, _, code in BLOCKS if "def shift(" in code)
    (folder / "mine.py").write_text(own.partition("CRITERIA[")[0])
    return folder


def made(target, *words):
    """The command of ours that `make` would run, as words."""
    asked = ["make", "--dry-run", "--assume-old=.venv/ready", target, *words]
    told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = (shlex.split(line) for line in told.splitlines() if line.startswith(".venv/bin/yolo-slim"))
    return ["yolo-slim", *command[1:]]


def carry_out(stage, words):
    """Read a stage's settings as they are typed, and run it, small."""
    assert stage in STAGES
    flags = [word for word in words if word.startswith("--")]
    words = [word for word in words if word not in flags]
    configured(words)
    if "sweep.executor=ray" in words:  # there is no cluster
        return
    words = [HERE.get(word, word) for word in words]
    answer = run(stage, *(w for w in words if "=" not in w), *SMALL, *(w for w in words if "=" in w), *flags)
    assert answer.code == 0, answer.err


def check_named(words):
    """What is not ours, or takes too long here, names what there is."""
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", words[1]], cwd=ROOT, capture_output=True, check=True)
    elif words[0] == "python":
        what = words[1:3] if words[1] == "-m" else [ROOT / words[1]]
        told = subprocess.run([sys.executable, *what, "--help"], capture_output=True, text=True, check=True)
        assert all(flag in told.stdout for flag in words[2:] if flag.startswith("--"))
    elif words[:3] == ["yolo", "detect", "train"]:
        assert all(word.partition("=")[0] in DEFAULT_CFG_DICT for word in words[3:])
    else:
        assert words[0] in ("git", "cp", "pip")


@pytest.mark.parametrize("block", SHELL)
def test_a_shell_block_runs_as_it_is_typed(block, shell, monkeypatch):
    """One after the other in one folder, as its reader would; layers are timed in few detectors, and a cut once."""
    monkeypatch.chdir(shell)
    monkeypatch.setattr(layers, "random_widths", lambda wiring, _: random_widths(wiring, 4))
    monkeypatch.setattr(targets, "TRIES", 1)
    for number, line in enumerate(block):
        words = shlex.split(line)
        if words[0] == "make" and words[1] not in ("demo", "test"):
            words = made(*words[1:])
        if words[0] != "yolo-slim":
            check_named(words)
            continue
        _, stage, *words = words
        if number == 0 and stage in AFTER_PRUNE and "model=slim.pt" not in words:
            carry_out("prune", words)
        carry_out(stage, words)


def test_generated_parts_are_as_they_are_generated():
    write = script("write_docs")
    made = write.tables()
    assert [page.name for page in PAGES if write.written(text := page.read_text(encoding="utf-8"), made) != text] == []


def test_no_row_has_been_lost():
    """Rows are looked up by the settings that they were made with, which may have got others since."""
    assert [page.name for page in PAGES if "Still missing" in page.read_text(encoding="utf-8")] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8000


def test_the_site_builds(tmp_path):
    """Every page in the navigation, every link and anchor there, every name of the API."""
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for page in re.findall(r"\]\(([\w/-]+\.md)\)", (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")):
        assert (ROOT / "docs" / page).exists(), page


def test_links_of_the_readme_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), link
