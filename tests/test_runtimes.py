"""Exported files in their runtimes: PyTorch's numbers, the threads that were asked for, clear words where it fails."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import PX
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.deploy import RUNTIMES, opened, present, runtime_of
from yolo_slim.errors import SlimError

pytest_plugins = ["tiny"]

HERE = [name for name in RUNTIMES if name != "litert" or name in present()]  # in an extra of its own
NAMES = [*HERE, "another"]  # another: one that is not ours, as for formats that Ultralytics alone opens


def file_for(name: str, exported: Callable[[str], Path]) -> Path:
    return exported(RUNTIMES[name].format if name in RUNTIMES else "onnx")


@pytest.fixture(scope="module")
def detector(seeing: Path) -> nn.Module:
    return checkpoint.load(seeing)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, PX, PX), np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_gives_pytorchs_numbers(
    name: str, exported: Callable[[str], Path], detector: nn.Module, image: np.ndarray
) -> None:
    with torch.inference_mode():
        expected = detector(torch.from_numpy(image))[0].numpy()
    (found,) = opened(file_for(name, exported), name, 1)(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", HERE)
def test_answers_do_not_change_when_asked_again(name: str, exported: Callable[[str], Path], image: np.ndarray) -> None:
    """Some runtimes give out memory of their own, which the next image overwrites."""
    run = opened(file_for(name, exported), name, 1)
    (first,) = run(image)
    kept = first.copy()
    (second,) = run(1 - image)
    assert np.array_equal(first, kept)
    assert not np.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("name", ["torchscript", "opencv"])
def test_the_process_keeps_its_threads(name: str, exported: Callable[[str], Path], image: np.ndarray) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    opened(file_for(name, exported), name, before[0] + 1)(image)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_ncnn_takes_images_one_by_one(exported: Callable[[str], Path], image: np.ndarray) -> None:
    run = opened(exported("ncnn"), "ncnn", 1)
    both = np.concatenate([image, 1 - image])
    assert np.array_equal(run(both)[0], np.concatenate([run(image)[0], run(1 - image)[0]]))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_something_else(name: str, tmp_path: Path) -> None:
    file = tmp_path / "slim.onnx"
    file.write_bytes(b"no detector")
    with pytest.raises(SlimError, match=f"{name} cannot read {file}"):
        opened(file, name, 1)


def test_an_ncnn_file_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "model.ncnn.param").write_text("no detector")
    with pytest.raises(SlimError, match="are no NCNN model"):
        opened(tmp_path, "ncnn", 1)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_that_is_not_installed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    module = RUNTIMES[name].module
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == module else find(n, *rest))
    assert name not in present()
    extra = "litert" if name == "litert" else "export"
    with pytest.raises(SlimError, match=rf"{name} is not installed: pip install yolo-slim\[{extra}\]"):
        opened(tmp_path, name, 1)


@pytest.mark.parametrize(
    ("format", "runtime"), [("onnx", "onnxruntime"), ("openvino", "openvino"), ("ncnn", "ncnn"), ("paddle", "paddle")]
)
def test_a_format_has_its_runtime(format: str, runtime: str) -> None:
    assert runtime_of(format) == runtime
