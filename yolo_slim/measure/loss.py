"""Ultralytics' training loss, of a detector that is not being trained."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from ultralytics.cfg import get_cfg

from yolo_slim.formats.detector import Detector


def detection_loss(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Ultralytics' training loss of one labelled batch, a mean over its images."""
    detector = cast(Detector, network)
    args, criterion = detector.args, getattr(detector, "criterion", None)
    # The loss reads its gains there; a criterion made before may hold others.
    detector.args = get_cfg(overrides=args if isinstance(args, dict) else vars(args))
    detector.criterion = None
    try:
        return detector.loss(batch)[0].sum() / len(batch["img"])
    finally:
        detector.args, detector.criterion = args, criterion
