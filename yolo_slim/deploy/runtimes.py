"""The runtimes that exported files are run in: one object each, with all that is to be known of it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolo_slim.config import choices
from yolo_slim.config.choices import Registry
from yolo_slim.deploy import engines
from yolo_slim.deploy.engines import Run
from yolo_slim.deploy.exporter import how_to_install, missing
from yolo_slim.deploy.profile import Nodes, in_onnxruntime, in_openvino
from yolo_slim.errors import SlimError


@dataclass(frozen=True)
class Runtime:
    """How a runtime is had, what it opens, and how it tells what its operators take."""

    format: str  # of Ultralytics' exporter
    module: str  # to be installed
    open: Callable[[Path, int], Run]  # (file, threads)
    layers: Callable[[Path, int, np.ndarray, int], Nodes] | None = None  # (file, threads, images, runs)


RUNTIMES: Registry[Runtime] = Registry(
    {
        "onnxruntime": Runtime("onnx", "onnxruntime", engines.onnxruntime, in_onnxruntime),
        "openvino": Runtime("openvino", "openvino", engines.openvino, in_openvino),
        "torchscript": Runtime("torchscript", "torch", engines.torchscript),
        "ncnn": Runtime("ncnn", "ncnn", engines.ncnn),
        "opencv": Runtime("onnx", "cv2", engines.opencv),
        "litert": Runtime("litert", "ai_edge_litert", engines.litert),
    },
    (choices.RUNTIMES, lambda runtime: True),
    (choices.TIMED_BY_LAYER, lambda runtime: runtime.layers is not None),
)
"""Name -> runtime, of those a file on the disk is opened in; the first of a format is its own.

One of your own is put in here, and `bench.runtimes`, and with `layers` also `latency.runtime`, take its name.
"""


def runtime_of(format: str) -> str:
    """The runtime that files of a format are made for; for one that is not here, the format's own name."""
    return next((name for name, runtime in RUNTIMES.items() if runtime.format == format), format)


def present() -> list[str]:
    """The runtimes that are installed here, and with them what makes their files."""
    return [
        name
        for name, runtime in RUNTIMES.items()
        if importlib.util.find_spec(runtime.module) and not missing([runtime.format])
    ]


def version_of(runtime: str) -> str:
    """The version that is installed.

    Raises:
        SlimError: the runtime is not installed.
    """
    return importlib.import_module(_installed(runtime).module).__version__


def opened(file: Path, runtime: str, threads: int) -> Run:
    """A file, ready to be run.

    Args:
        file: as the exporter wrote it, a folder for some formats.
        runtime: a key of RUNTIMES, or another format of Ultralytics' exporter.
        threads: that the runtime may use.

    Raises:
        SlimError: the runtime is not installed, or cannot read the file.
    """
    chosen = _installed(runtime)
    try:
        return chosen.open(file, threads)
    except Exception as e:  # each has errors of its own
        raise SlimError(f"{runtime} cannot read {file}: {type(e).__name__}: {e}") from e


def _installed(runtime: str) -> Runtime:
    chosen = RUNTIMES.get(runtime, Runtime(runtime, "ultralytics", engines.ultralytics))
    if importlib.util.find_spec(chosen.module) is None:
        raise SlimError(f"{runtime} is not installed: {how_to_install([chosen.format])}")
    return chosen
