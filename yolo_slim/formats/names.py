"""What the pickle in a checkpoint may name, to the letter: all that detectors of Ultralytics 8 are stored with."""

from __future__ import annotations

import codecs
import inspect
import pathlib
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.nn import distill_model, modules, tasks
from ultralytics.utils import IterableSimpleNamespace, loss, tal

TORCH = (
    *("activation", "batchnorm", "channelshuffle", "container", "conv", "dropout", "flatten", "fold", "instancenorm"),
    *("linear", "normalization", "padding", "pixelshuffle", "pooling", "upsampling"),
)
"""Files of torch.nn.modules with what a detector may be built of."""

ULTRALYTICS = ("activation", "block", "conv", "head", "transformer")
"""The same of ultralytics.nn.modules."""

LOSSES = ("v8DetectionLoss", "E2EDetectLoss", "E2ELoss", "BboxLoss", "DFLoss")
"""What is left in a detector that was saved while it was trained."""

NOT_LAYERS = frozenset({"TorchVision", "LazyLinear", "ParameterList", "ParameterDict"})
"""Downloads a network, takes its shape from its first image, hold no layers."""

STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
"""Full name -> the numbers in it, of each kind of storage."""

SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
PATHS = tuple(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows"))
NAMESPACES = ("ultralytics.utils.IterableSimpleNamespace", "ultralytics.yolo.utils.IterableSimpleNamespace")


@cache
def layers() -> dict[str, type[nn.Module]]:
    """Full name -> class, of every layer that a detector may be made of."""
    found = {**dict(_classes("torch.nn.modules", TORCH)), **dict(_classes("ultralytics.nn.modules", ULTRALYTICS))}
    flat = {f"ultralytics.nn.modules.{name}": getattr(modules, name) for name in modules.__all__}  # before 8.0.60
    known = {*found.values()}
    return {
        **found,
        **{name: kind for name, kind in flat.items() if kind in known},
        "torch.nn.modules.loss.BCEWithLogitsLoss": nn.BCEWithLogitsLoss,
        "ultralytics.nn.modules.block.Silence": nn.Identity,  # YOLOv9e
    }


def _classes(package: str, files: tuple[str, ...]) -> Iterator[tuple[str, type[nn.Module]]]:
    for file in files:
        module = import_module(f"{package}.{file}")
        for name, kind in vars(module).items():
            own = inspect.isclass(kind) and issubclass(kind, nn.Module) and kind.__module__ == module.__name__
            if own and name not in NOT_LAYERS and not name.startswith(("_", "Lazy")):
                yield f"{module.__name__}.{name}", kind


@cache
def objects() -> dict[str, type]:
    """Full name -> class, of all that a pickle may make an empty one of and then fill: nothing is run on the way."""
    losses = {f"loss.{name}": getattr(loss, name) for name in LOSSES}
    training = {**losses, "loss.v10DetectLoss": loss.E2EDetectLoss, "tal.TaskAlignedAssigner": tal.TaskAlignedAssigner}
    return {
        **layers(),
        **{f"{home}.{name}": kind for home in HOMES for name, kind in training.items()},
        "ultralytics.nn.tasks.DetectionModel": tasks.DetectionModel,
        "ultralytics.nn.tasks.YOLOv10DetectionModel": tasks.DetectionModel,
        # What `distill_model` trains, in the middle of it. To CALL it would load the file that it is given.
        "ultralytics.nn.distill_model.DistillationModel": distill_model.DistillationModel,
        "ultralytics.nn.distill_model.FeatureHook": distill_model.FeatureHook,
    }


HOMES = ("ultralytics.utils", "ultralytics.yolo.utils")
"""Where Ultralytics keeps its losses, and where it kept them before 8.0.136."""


FLOATS, WHOLE = ("float16", "bfloat16", "float32", "float64"), ("uint8", "int8", "int16", "int32", "int64")
DTYPES = {f"torch.{name}": getattr(torch, name) for name in FLOATS + WHOLE}
"""What a training for INT8 notes of its tensors. Each is a value, and nothing calls it."""


@cache
def helpers() -> dict[str, Any]:
    """Full name -> what it stands for here, of all else; of a storage, the numbers in it."""
    scalar = np.float64(0).__reduce__()[0]
    path = type(pathlib.Path())
    return {
        **STORAGES,
        **DTYPES,
        **dict.fromkeys(NAMESPACES, IterableSimpleNamespace),
        **dict.fromkeys(SCALARS, scalar),
        **dict.fromkeys(PATHS, path),
        "_codecs.encode": codecs.encode,
        "builtins.set": set,
        "collections.OrderedDict": OrderedDict,
        "numpy.dtype": np.dtype,
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
        "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    }
