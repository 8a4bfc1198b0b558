"""Make trained YOLOv3 and YOLOv5 detectors smaller and faster with little or no loss of mAP.

Shape letters: B batch, C channels, H height, W width, N boxes, K classes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {  # imported when first asked for: the command line answers --help without torch
    "load": "yolo_slim.python",
    "save": "yolo_slim.python",
    "trace": "yolo_slim.python",
    "prune": "yolo_slim.python",
    "cost": "yolo_slim.python",
    "finetune": "yolo_slim.commands",
    "sweep": "yolo_slim.commands",
    "export": "yolo_slim.commands",
    "bench": "yolo_slim.commands",
    "report": "yolo_slim.report",  # a package that is called as well, as is `compress`
    "compress": "yolo_slim.compress",
    "SlimTrainer": "yolo_slim.training.trainer",
    "SlimError": "yolo_slim.errors",
}
__all__ = [
    "SlimError",
    "SlimTrainer",
    "bench",
    "compress",
    "cost",
    "export",
    "finetune",
    "load",
    "prune",
    "report",
    "save",
    "sweep",
    "trace",
]

if TYPE_CHECKING:
    from yolo_slim.commands import bench, export, finetune, report, sweep
    from yolo_slim.compression import compress
    from yolo_slim.errors import SlimError
    from yolo_slim.python import cost, load, prune, save, trace
    from yolo_slim.training.trainer import SlimTrainer


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'yolo_slim' has no attribute {name!r}")
    home = import_module(_HOME[name])
    return home if home.__name__ == f"{__name__}.{name}" else getattr(home, name)
