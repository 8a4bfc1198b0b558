"""A detector of the YOLOv5 repository as Ultralytics' trainer, validator and exporter take one."""

from __future__ import annotations

from typing import Any

from yolo_slim.formats.detector import Detector
from yolo_slim.formats.yolov5.loss import AnchorLoss


class AnchorModel(Detector):
    """Made of what its file holds, never built from its YAML: eps, activations and widths are those of the file.

    Attributes:
        source: what its file held beside it (`entries`, in their order), and whether `names` was a list (`listed`).
    """

    source: dict[str, Any]

    def init_criterion(self) -> AnchorLoss:
        """The anchor loss."""
        return AnchorLoss(self)
