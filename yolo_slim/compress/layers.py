"""Which layers a method may change: by default all but the first and those that predict."""

from __future__ import annotations

from yolo_slim.channels import Trace
from yolo_slim.channels.groups import FIXED, Conv


def eligible(trace: Trace, *, first: bool = False, predictions: bool = False) -> list[Conv]:
    """Convolutions in the order they run.

    Args:
        trace: of the detector.
        first: those that read the image as well.
        predictions: those whose outputs the head decodes as well.
    """
    return [
        conv
        for conv in trace.convs.values()
        if (first or not reads_image(conv, trace)) and (predictions or not predicts(conv))
    ]


def predicts(conv: Conv) -> bool:
    """Whether nothing of its output has a batch norm or may be removed: what the head decodes."""
    return conv.norm is None and bool((conv.outputs == FIXED).all())


def reads_image(conv: Conv, trace: Trace) -> bool:
    """Whether it reads the image, or what was cut out of it (`Focus`)."""
    return bool((conv.inputs == FIXED).all()) and len(conv.inputs) % trace.image_channels == 0
