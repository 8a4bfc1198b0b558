"""Methods beside channel pruning that make a detector smaller: one file and one entry each."""

from yolo_slim.called import also_called
from yolo_slim.compress.cluster import Cluster
from yolo_slim.compress.compact import Compact
from yolo_slim.compress.grow import Grow
from yolo_slim.compress.low_rank import LowRank
from yolo_slim.compress.method import Hold, Material, Method, Plan
from yolo_slim.compress.quantize import Quantize
from yolo_slim.compress.weights import Weights
from yolo_slim.config.choices import COMPRESSIONS, Registry

METHODS: Registry[type[Method]] = Registry(
    {
        "weights": Weights,
        "low_rank": LowRank,
        "compact": Compact,
        "grow": Grow,
        "quantize": Quantize,
        "cluster": Cluster,
    },
    (COMPRESSIONS, lambda method: True),
)
"""Name -> method. One of your own is put in here."""

__all__ = ["METHODS", "Hold", "Material", "Method", "Plan"]

also_called(__name__)
