"""The names in pickles of the YOLOv5 repository, and the classes that stand for them here: none of its code is run."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from torch import nn
from ultralytics.nn import modules

from yolo_slim.formats.calls import ARRAY, ARRAYS, CALLS
from yolo_slim.formats.names import helpers, layers
from yolo_slim.formats.strangers import FUSED
from yolo_slim.formats.vocabulary import Vocabulary
from yolo_slim.formats.yolov5.layers import C3SPP, AnchorDetect, Contract, CrossConv, CrossCSP, Expand
from yolo_slim.formats.yolov5.model import AnchorModel

SHARED = (
    *("Conv", "DWConv", "Focus", "Bottleneck", "BottleneckCSP", "C3", "C3TR", "C3Ghost", "C3x", "SPP", "SPPF"),
    *("GhostConv", "GhostBottleneck", "TransformerLayer", "TransformerBlock", "Concat"),
)
"""Layers that Ultralytics has under the same names, with the same parts."""

CLASSES: dict[str, type[nn.Module]] = {
    "models.yolo.Model": AnchorModel,
    "models.yolo.DetectionModel": AnchorModel,
    "models.yolo.Detect": AnchorDetect,
    **{f"models.common.{name}": getattr(modules, name) for name in SHARED},
    "models.common.C3SPP": C3SPP,
    "models.common.CrossConv": CrossConv,
    "models.common.Contract": Contract,
    "models.common.Expand": Expand,
    "models.experimental.C3": CrossCSP,
    "models.experimental.CrossConv": CrossConv,
    "models.experimental.GhostConv": modules.GhostConv,
    "models.experimental.GhostBottleneck": modules.GhostBottleneck,
}
"""Name -> class. A file is written with the first name of a class: `models.yolo.Model` is known to every release."""

PACKAGE = "yolov5."
"""What stands before these names in files of the package `yolov5`."""

READ_HERE = re.compile(rb"c(?:yolov5\.)?models\.yolo\n\w+\n")
OTHER_CODE = re.compile(r"(?:yolov5\.)?(?:models|utils)\.")


@cache
def words() -> Vocabulary:
    """Those, PyTorch's own, and NumPy's arrays."""
    own = {f"{home}{name}": kind for name, kind in CLASSES.items() for home in ("", PACKAGE)}
    torchs = {name: kind for name, kind in layers().items() if name.startswith("torch.")}
    reconstruct = np.zeros(1).__reduce__()[0]
    arrays = {ARRAY: np.ndarray, **dict.fromkeys(ARRAYS, reconstruct)}
    return Vocabulary({**torchs, **own}, {**CALLS, **ARRAYS}, {**helpers(), **arrays}, _refusal)


def _refusal(name: str, data: bytes) -> str:
    top, _, last = name.rpartition(".")
    if top.removeprefix(PACKAGE) == "models.yolo" and last.endswith("Model"):
        return f"holds a {last}: expected a detection model, {last.removesuffix('Model')} is not supported"
    if name == "builtins.getattr" and b"forward_fuse" in data:
        return FUSED
    if OTHER_CODE.match(name):
        return (
            f"names {name}, which is no layer of ultralytics/yolov5 that is read here: refused, since loading it would "
            "run that code. Give a detector of layers that are: "
            f"{', '.join(dict.fromkeys(key.rpartition('.')[2] for key in CLASSES))}"
        )
    return (
        f"names {name}, which is not part of ultralytics/yolov5's checkpoint format: refused, since loading it would "
        "run that code. Give a detector as the train.py of that repository saves it"
    )
