"""Files for devices, and the proof that each agrees with PyTorch."""

from yolo_slim.deploy.card import card_in
from yolo_slim.deploy.compare import Exported, difference, with_nms
from yolo_slim.deploy.elsewhere import elsewhere
from yolo_slim.deploy.exporter import ROUNDED, export_file, file_mb, how_to_install, missing, suffix, taken
from yolo_slim.deploy.profile import by_layer
from yolo_slim.deploy.quantize import float_layers, missing_int8, quantize
from yolo_slim.deploy.runtimes import RUNTIMES, Runtime, opened, present, runtime_of, version_of

__all__ = [
    "ROUNDED",
    "RUNTIMES",
    "Exported",
    "Runtime",
    "by_layer",
    "card_in",
    "difference",
    "elsewhere",
    "export_file",
    "file_mb",
    "float_layers",
    "how_to_install",
    "missing",
    "missing_int8",
    "opened",
    "present",
    "quantize",
    "runtime_of",
    "suffix",
    "taken",
    "version_of",
    "with_nms",
]
