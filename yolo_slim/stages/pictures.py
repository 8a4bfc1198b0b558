"""Images of the report's split with what the first and the last detector find in them, the most changed first."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ultralytics.utils.patches import imread

import yolo_slim.report as report
from yolo_slim import checkpoint
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.data import dataset_info
from yolo_slim.data.facts import images_of
from yolo_slim.measure import detections
from yolo_slim.runs.rows import split_of

LOOKED_AT, SHOWN, SIDE = 100, 12, 480
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 80]


def pictures(config: Complete, before: Path, after: Path) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """Look at up to LOOKED_AT images of the split; the SHOWN that changed most, as small JPEGs.

    Returns:
        for report.json: `looked_at`, `of`, `shown` (see `report.picture`; `file` is now the small one, relative to the
        report); and these files. None where the images are no ordinary colour pictures.
    """
    files, info = _files(config)
    if info.get("channels", 3) != 3:
        return None, {}
    every = files[:: ceil(len(files) / LOOKED_AT)]
    console.print(f"looking for what changed in {len(every)} images")
    loaded = map(checkpoint.load, (before, after))
    both = [detections(detector, map(_read, every), config.imgsz, config.device) for detector in loaded]
    each = zip(every, *both, strict=True)
    shown = report.most_changed((report.picture(file, _read(file).shape[:2], *found) for file, *found in each), SHOWN)
    small = {f"images/{i:02d}.jpg": _small(_read(picture["file"])) for i, picture in enumerate(shown)}
    shown = [{**picture, "file": file} for picture, file in zip(shown, small, strict=True)]
    return {"looked_at": len(every), "of": len(files), "shown": shown}, small


def _files(config: Complete) -> tuple[list[str], dict[str, Any]]:
    """The readable images of the split, and the data set's own words."""
    info, split = dataset_info(config.dataset), split_of(config)
    return sorted(images_of(info, split, config.imgsz).im_files), info


def _read(file: str) -> np.ndarray:
    image = imread(file, cv2.IMREAD_COLOR)  # as Ultralytics reads it, turned as the camera was held
    assert image is not None, "those that cannot be read are not among them"
    return image


def _small(image: np.ndarray) -> bytes:
    scale = min(1.0, SIDE / max(image.shape[:2]))
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", resized, QUALITY)[1].tobytes()
