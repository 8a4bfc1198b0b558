"""A data set, a detector and a command line small enough for tests: 64 px, 0.2 M parameters, a dozen images.

A test file asks for the fixtures here with `pytest_plugins = ["tiny"]`. (PYTEST_DONT_REWRITE: test files import this
one before pytest could.)
"""

import contextlib
import functools
import hashlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

os.environ["YOLO_OFFLINE"] = "true"  # before Ultralytics is imported: it looks for a connection then

import numpy as np
import pytest
import torch
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.cli import main
from yolo_slim.mould import duplicate

ROOT = Path(__file__).parents[1]
PX = 64
CLASSES = 4

TINY = """\
# YOLOv5's parts, few of them: a shortcut, SPPF, upsampling, concatenation, Detect at strides 8 and 16
nc: 4
backbone:
  - [-1, 1, Conv, [16, 6, 2, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 1]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, C3, [32]]
  - [-1, 1, Conv, [48, 3, 2]]
  - [-1, 1, SPPF, [48, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C3, [32, False]]
  - [[9, 6], 1, Detect, [nc]]
"""


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def run(*words: object) -> Answer:
    """The command line in this process. An exception other than SlimError would be a traceback: it comes through."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Answer(code, out.getvalue(), err.getvalue())


def run_alone(
    *words: object, cwd: Path, code: str = "from yolo_slim.cli import main; sys.exit(main())", patience: float = 300
) -> Answer:
    """The command line in a process of its own; `code` may be other Python, with `sys` imported."""
    command = [sys.executable, "-c", f"import sys; {code}", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=patience)
    return Answer(done.returncode, done.stdout, done.stderr)


def script(name: str) -> ModuleType:
    """A file of scripts/, which is no package, as a module; what it sets for its own process is taken back."""
    if (folder := str(ROOT / "scripts")) not in sys.path:
        sys.path.insert(0, folder)
    before = dict(os.environ)
    try:
        return importlib.import_module(name)
    finally:
        os.environ.clear()
        os.environ.update(before)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder: relative path -> sha256. A folder that is not there has none."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def labels(file: Path) -> np.ndarray:
    """(N, 5): class, cx, cy, w, h."""
    return np.array(file.read_text().split(), float).reshape(-1, 5)


def colours(picture: np.ndarray) -> int:
    """How many a picture (H, W, 4) in [0, 1] has."""
    return len(np.unique((picture * 255).round().astype(np.uint8).view(np.uint32)))


def build(folder: Path, seed: int = 0, text: str = TINY) -> nn.Module:
    """The tiny detector, untrained but with batch norms far from trivial and sure of itself; its YAML in `folder`."""
    torch.manual_seed(seed)
    (folder / "tiny.yaml").write_text(text)
    detector = checkpoint.build(str(folder / "tiny.yaml"))
    with torch.no_grad():
        for norm in (m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.3)
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
        for boxes, scores in zip(detector.model[-1].cv2, detector.model[-1].cv3, strict=True):
            boxes[-1].bias.copy_(-torch.arange(16.0).repeat(4))  # else every box is as large as the image
            scores[-1].bias.fill_(-1.0)  # else every score is below Ultralytics' lowest
    return detector


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny detector. Read it only; `detector` is for changing."""
    folder = tmp_path_factory.mktemp("original")
    return checkpoint.save(build(folder), folder / "tiny.pt")


@pytest.fixture(scope="session")
def loaded(original: Path) -> nn.Module:
    """The detector in `original`. Leave it as it is."""
    return checkpoint.load(original)


@pytest.fixture
def detector(loaded: nn.Module) -> nn.Module:
    """A copy of the detector in `original`, to do with as one likes."""
    return duplicate(loaded)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a data set: 8 images to train on, 4 to validate on, no test split."""
    out = tmp_path_factory.mktemp("data") / "shapes"
    with contextlib.redirect_stdout(io.StringIO()):
        return script("make_shapes").draw(out, train=8, val=4, test=0, imgsz=PX, seed=0)


@pytest.fixture(scope="session")
def slim(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned checkpoint of the tiny detector, at two thirds of its channels. Read it only."""
    from yolo_slim import prune

    pruned = prune(checkpoint.load(original), imgsz=PX, ratio=0.33)
    return checkpoint.save(pruned.model, tmp_path_factory.mktemp("slim") / "slim.pt")


@pytest.fixture(scope="session")
@torch.no_grad()
def seeing(slim: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with norms that follow the images: those of `slim` let hardly anything of them through. Read it only."""
    from yolo_slim.data.batches import Batches

    detector = checkpoint.load(slim).train()
    for norm in (m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    detector(next(iter(Batches(str(data), PX, 8))))
    return checkpoint.save(detector.eval(), tmp_path_factory.mktemp("seeing") / "slim.pt")


@pytest.fixture(scope="session")
def exported(seeing: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Format -> the file that `seeing` is exported to, made when first asked for. Read it only."""
    from yolo_slim.deploy import export_file, suffix

    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def made(format: str) -> Path:
        return export_file(seeing, folder / f"slim{suffix(format)}", PX, format)

    return made


def refused(answer: Answer, *words: object) -> None:
    """Exit code 2 and one message on stderr, which holds all of these words; no traceback."""
    assert answer.code == 2, answer
    assert answer.err.startswith("yolo-slim: "), answer.err
    assert answer.err.count("yolo-slim: ") == 1, answer.err
    assert "Traceback" not in answer.err
    missing = [word for word in map(str, words) if word not in answer.err]
    assert not missing, f"{missing} not in: {answer.err}"
