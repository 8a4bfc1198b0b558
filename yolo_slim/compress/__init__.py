"""Methods beside channel pruning that make a detector smaller: one file and one entry each."""

from yolo_slim.compress.cluster import Cluster
from yolo_slim.compress.method import Hold, Material, Method, Plan
from yolo_slim.compress.quantize import Quantize

METHODS: dict[str, type[Method]] = {
    "cluster": Cluster,
    "quantize": Quantize,
}
"""Name -> method. One of your own is put in here."""

__all__ = ["METHODS", "Hold", "Material", "Method", "Plan"]
