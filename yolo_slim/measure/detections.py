"""What a detector finds in images, as Ultralytics' own `predict` finds it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np
from ultralytics.models.yolo.detect import DetectionPredictor

from yolo_slim.measure.accuracy import aliased

SCORE = 0.25
"""Boxes below this are left out: Ultralytics' own threshold for `predict`."""


class Box(TypedDict):
    """One detection."""

    name: str  # of the class
    score: float
    xyxy: list[float]  # in pixels of the image


def detections(weights: str | Path, images: Iterable[np.ndarray], imgsz: int, device: str = "cpu") -> list[list[Box]]:
    """Every image's boxes, the surest first.

    Args:
        weights: a checkpoint.
        images: (H, W, 3), BGR, of any size.
        imgsz: side of the square that they are fitted into.
        device: Ultralytics' name for it.
    """
    with aliased(weights) as alias:
        args = {"task": "detect", "mode": "predict", "imgsz": imgsz, "device": device, "conf": SCORE}
        args |= {"project": str(alias.parent), "verbose": False, "save": False}
        predictor = DetectionPredictor(overrides=args)
        predictor.setup_model(str(alias), verbose=False)
        return [_boxes(predictor(image)[0]) for image in images]


def _boxes(result: object) -> list[Box]:
    found = result.boxes.cpu().numpy()
    each = zip(found.cls, found.conf, found.xyxy, strict=True)
    return [
        {"name": result.names[int(k)], "score": round(float(score), 3), "xyxy": [round(float(v), 1) for v in xyxy]}
        for k, score, xyxy in each
    ]
