"""mAP by Ultralytics' own validator, with one setting for every row of every table."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import remove_colorstr
from ultralytics.utils.metrics import DetMetrics

from yolo_slim.errors import SlimError, no_images


def accuracy(
    detector: str | Path | nn.Module, data: str, imgsz: int, split: str, device: str = "cpu", *, per_class: bool = False
) -> dict[str, Any]:
    """Validate on a split: map50 and map50_95 in [0, 1].

    Args:
        detector: a checkpoint, or a module that takes images (B, C, H, W) and has `names`.
        data: an Ultralytics data-set YAML.
        imgsz: image side in pixels; every image is padded to a square, as files with a fixed input need it.
        split: of the data set.
        device: to run on.
        per_class: also return `per_class`: name of the class -> its AP50-95, for each class that has labels there.

    Raises:
        SlimError: the split cannot be read.
    """
    module = detector if isinstance(detector, nn.Module) else None
    with aliased(detector if module is None else None) as alias:
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
        validator = DetectionValidator(save_dir=alias.parent, args=args)
        try:
            validator(model=module)
        except (FileNotFoundError, SyntaxError, RuntimeError) as e:
            if isinstance(e, RuntimeError) and not no_images(e):
                raise
            raise SlimError(f"cannot validate on '{split}' of {data}: {remove_colorstr(str(e))}") from e
    box = validator.metrics.box
    found = {"map50": float(box.map50), "map50_95": float(box.map)}
    return {**found, "per_class": _per_class(validator.metrics)} if per_class else found


def _per_class(metrics: DetMetrics) -> dict[str, float]:
    """A class without labels has no AP; one that was never found has 0."""
    labelled = [] if metrics.nt_per_class is None else metrics.nt_per_class.nonzero()[0]
    ap = dict(zip(map(int, metrics.box.ap_class_index), map(float, metrics.box.ap), strict=True))
    return {metrics.names[int(k)]: ap.get(int(k), 0.0) for k in labelled}


@contextlib.contextmanager
def aliased(weights: str | Path | None) -> Iterator[Path]:
    """The file, if there is one, under a name that Ultralytics takes as it is, in a folder of its own.

    Ultralytics drops apostrophes from names of weights, and looks some names up elsewhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        alias = Path(folder) / "weights.pt"
        if weights:
            alias.symlink_to(Path(weights).resolve())
        yield alias
