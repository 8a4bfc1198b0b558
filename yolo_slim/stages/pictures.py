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
from yolo_slim.formats.detector import Detector
from yolo_slim.measure import detections
from yolo_slim.runs.rows import split_of

LOOKED_AT, SHOWN, SIDE = 100, 12, 480
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 80]


def pictures(config: Complete, before: Path, after: Path) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """Look at up to LOOKED_AT images of the split; the SHOWN that changed most, as small JPEGs.

    Returns:
        for report.json: `looked_at`, `of`, `counted` (see `report.counted`), `shown` (see `report.picture`; `file` is
        now the small one, relative to the report); and these files. None where the images are no ordinary colour
        pictures.
    """
    loaded = [checkpoint.load(path) for path in (before, after)]
    labels, info = _labels(config, loaded[0])
    if info.get("channels", 3) != 3:
        return None, {}
    known = any(len(of["cls"]) for of in labels)
    every = labels[:: ceil(len(labels) / LOOKED_AT)]
    console.print(f"looking for what changed in {len(every)} images")
    files = [of["im_file"] for of in every]
    both = [detections(each, map(_read, files), config.imgsz, config.device, report.LEAST) for each in loaded]
    sizes = [_read(file).shape[:2] for file in files]
    truth = [_objects(of, hw, loaded[0].names) if known else None for of, hw in zip(every, sizes, strict=True)]
    all_of = [report.picture(*each) for each in zip(files, sizes, *both, truth, strict=True)]
    shown = report.most_changed(all_of, SHOWN)
    small = {f"images/{i:02d}.jpg": _small(_read(picture["file"])) for i, picture in enumerate(shown)}
    shown = [{**picture, "file": file} for picture, file in zip(shown, small, strict=True)]
    told = {"looked_at": len(every), "of": len(labels), "counted": report.counted(all_of)}
    return {**told, "shown": shown}, small


def _labels(config: Complete, detector: Detector) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The readable images of the split with their labels, as the detector knows classes; and the data set's words."""
    single, split = len(detector.names) == 1, split_of(config)  # as the validator has it
    info = dataset_info(config.dataset, split, single_cls=single)
    found = images_of(info, split, config.imgsz, single_cls=single).labels
    return sorted(found, key=lambda of: of["im_file"]), info


def _objects(label: dict[str, Any], hw: tuple[int, int], names: dict[int, str]) -> list[dict[str, Any]]:
    """The objects of an image: labels are shares of its sides, cxcywh."""
    centres, sides = np.split(np.asarray(label["bboxes"], float).reshape(-1, 4) * (*hw[::-1], *hw[::-1]), 2, axis=1)
    xyxy = np.concatenate([centres - sides / 2, centres + sides / 2], 1).round(1).tolist()
    classes = np.asarray(label["cls"], int).ravel().tolist()
    return [{"id": k, "name": str(names[k]), "xyxy": box} for k, box in zip(classes, xyxy, strict=True)]


def _read(file: str) -> np.ndarray:
    image = imread(file, cv2.IMREAD_COLOR)  # as Ultralytics reads it, turned as the camera was held
    assert image is not None, "those that cannot be read are not among them"
    return image


def _small(image: np.ndarray) -> bytes:
    scale = min(1.0, SIDE / max(image.shape[:2]))
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", resized, QUALITY)[1].tobytes()
