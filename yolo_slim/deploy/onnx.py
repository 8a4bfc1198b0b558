"""ONNX through Ultralytics' exporter, run in onnxruntime, compared number by number."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics import YOLO

from yolo_slim.errors import SlimError


def export_onnx(weights: Path, target: Path, imgsz: int, batch: int = 1) -> Path:
    """Export a checkpoint to `target`, whole or not at all.

    Raises:
        SlimError: the optional packages are missing, or Ultralytics' exporter fails.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxslim") if importlib.util.find_spec(name) is None]
    if missing:
        raise SlimError(f"export needs {', '.join(missing)}: pip install yolo-slim[export]")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copied = Path(folder) / "slim.pt"
        copied.symlink_to(weights.resolve())
        try:
            written = Path(YOLO(copied).export(format="onnx", imgsz=imgsz, device="cpu", batch=batch))
        except OSError as e:
            raise SlimError(f"cannot write {target}: {e.strerror or e}. Free some space and run it again") from e
        except Exception as e:
            raise SlimError(f"Ultralytics' ONNX export of {weights} failed: {type(e).__name__}: {e}") from e
        written.replace(target)
    return target


@torch.inference_mode()
def compare_onnx(detector: nn.Module, file: Path, batches: Iterable[Tensor]) -> float:
    """Largest difference between onnxruntime and PyTorch over images (1, 3, H, W).

    Boxes are compared relative to the largest coordinate, scores as they are (they are at most 1).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    detector = copy.deepcopy(detector).float().cpu().eval()
    worst = 0.0
    for image in batches:
        expected = detector(image)
        expected = (expected[0] if isinstance(expected, tuple) else expected).numpy()  # [1, 4 + K, N]
        got = session.run(None, {name: image.numpy()})[0]
        boxes, scores = (np.abs(got[:, s] - expected[:, s]).max() for s in (slice(4), slice(4, None)))
        # np.max, unlike max, lets NaN through: it must not pass for agreement
        worst = float(np.max([worst, boxes / np.abs(expected[:, :4]).max(), scores]))
    return worst
