"""Exported files in the runtimes they are made for: numbers in, numbers out, with as many threads as stated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_slim.errors import SlimError

Run = Callable[[np.ndarray], list[np.ndarray]]
"""Images (B, 3, H, W) in [0, 1], float32 -> what the file gives out, in its order."""


class Runtime(NamedTuple):
    """How one runtime is had."""

    format: str  # of Ultralytics' exporter
    module: str  # to be installed
    open: Callable[[Path, int], Run]


def onnxruntime(file: Path, threads: int) -> Run:
    """An .onnx file in onnxruntime, on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def openvino(file: Path, threads: int) -> Run:
    """An .xml file (or the folder Ultralytics puts it into, or an .onnx file) in OpenVINO, on the CPU."""
    request = openvino_model(file, threads).create_infer_request()
    return lambda images: [np.array(v) for v in request.infer([images]).values()]


def openvino_model(file: Path, threads: int, **settings: Any) -> Any:
    """Compiled for the CPU in float32, for one request at a time."""
    import openvino as ov

    found = next(iter(sorted(file.glob("*.xml"))), file) if file.is_dir() else file
    fixed = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return ov.Core().compile_model(str(found), "CPU", {**fixed, **settings})


RUNTIMES = {
    "onnxruntime": Runtime("onnx", "onnxruntime", onnxruntime),
    "openvino": Runtime("openvino", "openvino", openvino),
}
"""Name -> runtime, of those a file on the disk is opened in."""


def present() -> list[str]:
    """The runtimes that are installed here."""
    return [name for name, runtime in RUNTIMES.items() if importlib.util.find_spec(runtime.module)]


def opened(file: Path, runtime: str, threads: int) -> Run:
    """A file, ready to be run.

    Raises:
        SlimError: the runtime is not installed, or cannot read the file.
    """
    chosen = RUNTIMES[runtime]
    if importlib.util.find_spec(chosen.module) is None:
        raise SlimError(f"{runtime} is not installed: pip install yolo-slim[export]")
    try:
        return chosen.open(file, threads)
    except Exception as e:  # each has errors of its own
        raise SlimError(f"{runtime} cannot read {file}: {type(e).__name__}: {e}") from e
