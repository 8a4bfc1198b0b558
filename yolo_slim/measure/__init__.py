"""What a detector costs and what it is worth: parameters, FLOPs, latency, mAP, what it finds in an image."""

from yolo_slim.measure.accuracy import NOT_MEASURED, accuracy
from yolo_slim.measure.cost import Cost, cost
from yolo_slim.measure.detections import Box, detections
from yolo_slim.measure.latency import IN_A_ROW, THREADS, by_layer, chip, interleaved, place, processor, runner, spread

__all__ = [
    "IN_A_ROW",
    "NOT_MEASURED",
    "THREADS",
    "Box",
    "Cost",
    "accuracy",
    "by_layer",
    "chip",
    "cost",
    "detections",
    "interleaved",
    "place",
    "processor",
    "runner",
    "spread",
]
