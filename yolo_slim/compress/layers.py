"""Which layers a method may change: by default all but the first and those that predict."""

from __future__ import annotations

from yolo_slim.channels import Trace
from yolo_slim.channels.groups import FIXED, Conv


def eligible(trace: Trace, *, first: bool = False, predictions: bool = False) -> list[Conv]:
    """Convolutions in the order they run.

    Args:
        trace: of the detector.
        first: those that read the image as well.
        predictions: those that predict as well: without a batch norm, of a width that must stay.
    """
    whole = {name for group in trace.groups if group.reason for name in group.producers}
    return [
        conv
        for conv in trace.convs.values()
        if (first or not reads_image(conv, trace)) and (predictions or conv.norm is not None or conv.name not in whole)
    ]


def reads_image(conv: Conv, trace: Trace) -> bool:
    """Whether it reads the image, or what was cut out of it (`Focus`)."""
    return bool((conv.inputs == FIXED).all()) and len(conv.inputs) % trace.image_channels == 0
