"""mAP by Ultralytics' own validator, with one setting for every row of every table."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ultralytics.models.yolo.detect import DetectionValidator

from yolo_slim.errors import SlimError


def accuracy(weights: str | Path, data: str, imgsz: int, split: str, device: str = "cpu") -> dict[str, float]:
    """Validate a checkpoint (or an exported file) on a split: map50 and map50_95 in [0, 1].

    Raises:
        SlimError: the split cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Ultralytics drops apostrophes from names of weights, and looks some names up elsewhere.
        alias = Path(folder) / f"weights{Path(weights).suffix}"
        alias.symlink_to(Path(weights).resolve())
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
            validator()
        except (FileNotFoundError, SyntaxError) as e:
            raise SlimError(f"cannot validate on '{split}' of {data}: {e}") from e
        box = validator.metrics.box
        return {"map50": float(box.map50), "map50_95": float(box.map)}
