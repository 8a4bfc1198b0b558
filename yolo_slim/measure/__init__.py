"""What a detector costs and what it is worth: parameters, FLOPs, latency, mAP."""

from yolo_slim.measure.accuracy import accuracy
from yolo_slim.measure.cost import Cost, cost
from yolo_slim.measure.latency import latency

__all__ = ["Cost", "accuracy", "cost", "latency"]
