"""What a detector costs and what it is worth: parameters, FLOPs, latency, mAP, what it finds in an image."""

from yolo_slim.measure.accuracy import NOT_MEASURED, accuracy
from yolo_slim.measure.cost import Cost, cost
from yolo_slim.measure.detections import Box, detections
from yolo_slim.measure.latency import by_layer, chip, in_turn, latency, place, processor, runner, spread

__all__ = [
    "NOT_MEASURED",
    "Box",
    "Cost",
    "accuracy",
    "by_layer",
    "chip",
    "cost",
    "detections",
    "in_turn",
    "latency",
    "place",
    "processor",
    "runner",
    "spread",
]
