"""Methods beside channel pruning that make a detector smaller: one file and one entry each."""

from yolo_slim.config.choices import COMPRESSIONS, Registry
from yolo_slim.compress.grow import Grow
from yolo_slim.compress.method import Hold, Material, Method, Plan

METHODS: Registry[type[Method]] = Registry({"grow": Grow}, (COMPRESSIONS, lambda method: True))
"""Name -> method. One of your own is put in here."""

__all__ = ["METHODS", "Hold", "Material", "Method", "Plan"]
