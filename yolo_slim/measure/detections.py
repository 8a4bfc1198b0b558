"""What a detector finds in images, as Ultralytics' own `predict` finds it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
from torch import nn
from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionPredictor

from yolo_slim.measure.scores import CONFIDENCE
from yolo_slim.scratch import Scratch


class Box(TypedDict):
    """One detection."""

    id: int  # of the class
    name: str  # of the class; others may have the same
    score: float
    xyxy: list[float]  # in pixels of the image


def detections(
    detector: nn.Module, images: Iterable[np.ndarray], imgsz: int, device: str = "cpu", confidence: float = CONFIDENCE
) -> list[list[Box]]:
    """Every image's boxes, the surest first.

    Args:
        detector: left as it is.
        images: (H, W, 3), BGR, of any size.
        imgsz: side of the square that they are fitted into.
        device: Ultralytics' name for it.
        confidence: boxes of a lower score are left out.
    """
    with Scratch() as folder:
        args = {"task": "detect", "mode": "predict", "imgsz": imgsz, "device": device, "conf": confidence}
        predictor = DetectionPredictor(overrides={**args, "project": folder, "verbose": False, "save": False})
        predictor.setup_model(detector, verbose=False)
        return [_boxes(predictor(image)[0]) for image in images]


def _boxes(result: Results) -> list[Box]:
    assert result.boxes is not None, "a detector's result has them, if none"
    found = result.boxes.cpu().numpy()
    return [
        {
            "id": int(k),
            "name": str(result.names[int(k)]),
            "score": round(float(score), 3),
            "xyxy": [round(float(v), 1) for v in xyxy],
        }
        for k, score, xyxy in zip(found.cls, found.conf, found.xyxy, strict=True)
    ]
