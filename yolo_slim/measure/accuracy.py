"""mAP by Ultralytics' own validator, with one setting for every row of every table."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn
from ultralytics.models.yolo.detect import DetectionValidator

from yolo_slim.errors import SlimError


def accuracy(
    detector: str | Path | nn.Module, data: str, imgsz: int, split: str, device: str = "cpu"
) -> dict[str, float]:
    """Validate on a split: map50 and map50_95 in [0, 1].

    Args:
        detector: a checkpoint, or a module that takes images (B, 3, H, W) and has `names`.
        data: an Ultralytics data-set YAML.
        imgsz: image side in pixels; every image is padded to a square, as files with a fixed input need it.
        split: of the data set.
        device: to run on.

    Raises:
        SlimError: the split cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Ultralytics drops apostrophes from names of weights, and looks some names up elsewhere.
        alias = Path(folder) / "weights.pt"
        module = detector if isinstance(detector, nn.Module) else None
        if module is None:
            alias.symlink_to(Path(detector).resolve())
        args = {
            "task": "detect",
            "mode": "val",
            "model": str(alias),
            "data": data,
            "imgsz": imgsz,
            "split": split,
            "device": device,
            "batch": 16,
            "plots": False,
            "verbose": False,
        }
        validator = DetectionValidator(save_dir=Path(folder), args=args)
        try:
            validator(model=module)
        except (FileNotFoundError, SyntaxError) as e:
            raise SlimError(f"cannot validate on '{split}' of {data}: {e}") from e
        box = validator.metrics.box
        return {"map50": float(box.map50), "map50_95": float(box.map)}
