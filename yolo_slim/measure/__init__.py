"""What a detector costs and what it is worth: parameters, FLOPs, latency, mAP, what it finds in an image."""

from yolo_slim.measure.accuracy import accuracy
from yolo_slim.measure.cost import Cost, cost
from yolo_slim.measure.detections import Box, detections
from yolo_slim.measure.latency import latency

__all__ = ["Box", "Cost", "accuracy", "cost", "detections", "latency"]
