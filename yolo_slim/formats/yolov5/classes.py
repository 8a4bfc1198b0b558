"""A detector with anchors for other classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from torch import nn

from yolo_slim.formats.classes import SURE, named, renewed
from yolo_slim.formats.yolov5.layers import AnchorDetect
from yolo_slim.formats.yolov5.model import AnchorModel

OF_OLD = ("class_weights", "hyp")
"""What a file says of the training for its own classes; gains of the loss are scaled to their number."""
BOX = 5
"""Numbers of an anchor that are of no class: x, y, w, h, objectness."""


def scores_anew(detector: AnchorModel, names: Mapping[int, str]) -> None:
    """Let a detector tell these classes apart; boxes and objectness stay, and what the file held is forgotten."""
    head, count = cast(AnchorDetect, detector.model[-1]), len(names)
    logit = math.log(0.6 / (count - 0.6)) if count > 1 else SURE
    for i, conv in enumerate(head.m):
        head.m[i] = renewed(cast(nn.Conv2d, conv), head.na, BOX, count, logit)
    head.no = BOX + count
    named(detector, names)
    detector.source = {**detector.source, "entries": {}}
    for name in OF_OLD:
        vars(detector).pop(name, None)
