"""Ultralytics' exporter: a file for a device, whole or not at all, with nothing installed on the way."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ultralytics import YOLO
from ultralytics.engine.exporter import export_formats

from yolo_slim.checkpoint import reading_for_ultralytics
from yolo_slim.deploy.card import carry
from yolo_slim.deploy.focus import CANNOT_SLICE, without_slices
from yolo_slim.deploy.offline import offline
from yolo_slim.errors import SlimError, why
from yolo_slim.formats.detector import Detector
from yolo_slim.scratch import Scratch

PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "onnxslim"),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch", "ai_edge_litert"),
    "coreml": ("coremltools",),
    "qnn": ("onnx", "onnxruntime", "onnxruntime_qnn"),
    "rknn": ("rknn",),
    "hailo": ("hailo_sdk_client",),
}
"""What has to be installed to make a format, and to run it."""

APART = {
    "litert": "pip install yolo-slim[litert]",
    "coreml": "pip install yolo-slim[coreml]",
    "qnn": "pip install yolo-slim[qnn]",
    "rknn": "see docs/devices/rknn.md",
    "hailo": "see docs/devices/hailo.md",
}
"""How that is had, where it is not in the `export` extra."""

ROUNDED = frozenset({"edgetpu", "imx", "rknn", "axelera", "deepx", "qnn", "hailo", "ascend", "xilinx"})
"""Formats of chips without float32: Ultralytics rounds by itself, most to INT8, on images of `data`."""


def missing(formats: Iterable[str], needs: Mapping[str, Iterable[str]] = PACKAGES) -> list[str]:
    """The packages that are not installed here, of those that these formats need."""
    needed = dict.fromkeys(name for format in formats for name in needs.get(format, ()))
    return [name for name in needed if importlib.util.find_spec(name) is None]


def how_to_install(formats: Iterable[str]) -> str:
    """Where what is missing for these formats comes from."""
    return "; ".join(dict.fromkeys(APART.get(format, "pip install yolo-slim[export]") for format in formats))


def suffix(format: str) -> str:
    """How names of a format end: `.onnx`, or `_openvino_model` for a folder."""
    table = export_formats()
    return dict(zip(table["Argument"], table["Suffix"], strict=True))[format]


def taken(format: str) -> set[str]:
    """The names of the arguments that Ultralytics' exporter takes for a format, `imgsz` apart."""
    table = export_formats()
    return set(dict(zip(table["Argument"], table["Arguments"], strict=True))[format])


def export_file(
    weights: Path,
    target: Path,
    imgsz: int,
    format: str = "onnx",
    *,
    card: dict[str, Any] | None = None,
    **arguments: Any,
) -> Path:
    """Export a checkpoint to `target`.

    Args:
        weights: a checkpoint that is read here.
        target: the file, or for some formats the folder, to be written; it ends in `suffix(format)`.
        imgsz: image side in pixels.
        format: of Ultralytics' exporter.
        card: plain values for the file to carry, read back by `card_in`.
        arguments: of Ultralytics' exporter, of those that the format takes; device and batch are cpu and 1 by default.

    Raises:
        SlimError: packages are missing, or Ultralytics' exporter fails.
    """
    if lacking := missing([format]):
        raise SlimError(f"{format} export needs {', '.join(lacking)}: {how_to_install([format])}")
    # Ultralytics drops apostrophes from the paths of weights, and then looks for them online.
    with Scratch(None if "'" in str(target.absolute()) else target.parent) as folder:
        copied = Path(folder) / f"{target.name.removesuffix(suffix(format))}.pt"
        copied.symlink_to(weights.resolve())
        try:
            with offline(), reading_for_ultralytics(), _hushed(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls TorchScript deprecated each time
                arguments = {"device": "cpu", "batch": 1, **arguments}
                model = YOLO(copied)
                if format in CANNOT_SLICE:
                    without_slices(cast(Detector, model.model))
                if card:
                    carry(model, card)
                written = Path(model.export(format=format, imgsz=imgsz, **arguments))
        except (ImportError, ConnectionError) as e:
            raise SlimError(f"{format} export needs something that is not installed here: {e}") from e
        except SlimError as e:
            raise SlimError(str(e).replace(str(copied), str(weights))) from e
        except OSError as e:
            raise SlimError(f"cannot write {target}: {why(e, target)}") from e
        except Exception as e:  # each format has errors of its own
            raise SlimError(f"Ultralytics' {format} export of {weights} failed: {type(e).__name__}: {e}") from e
        put(written, target)
    return target


@contextmanager
def _hushed() -> Iterator[None]:
    """Converters that are processes of their own (pnnx) tell their whole progress: not on this terminal."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def put(written: Path, target: Path) -> None:
    """Rename a file or a folder, in the place of an older one."""
    if target.is_dir():
        shutil.rmtree(target)
    shutil.move(written, target)


def file_mb(path: Path) -> float:
    """Megabytes (1e6 bytes) of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return round(sum(p.stat().st_size for p in files) / 1e6, 3)
