"""Checkpoints of the YOLOv5 repository, read and written: its names stand in them, its code is not needed for it."""

from __future__ import annotations

import copy
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_slim.errors import SlimError
from yolo_slim.formats.archive import in_pickle
from yolo_slim.formats.door import MODELS, check_entries
from yolo_slim.formats.unpickle import unpickled
from yolo_slim.formats.writing import in_fp16
from yolo_slim.formats.yolov5.door import check_detector
from yolo_slim.formats.yolov5.model import AnchorModel
from yolo_slim.formats.yolov5.words import CLASSES, READ_HERE, words

OURS = frozenset({"args", "criterion", "pt_path", "source", "task"})
"""What a detector has here, and in no file of the repository."""
BULKY = frozenset({*MODELS, "optimizer", "scaler"})
"""What a training goes on from; it stands as None in a finished file."""
TRAINED_HERE = "train_args"
"""The entry that only our own trainer writes: the others beside it are Ultralytics', not of the file it began with."""


def reads(path: Path) -> bool:
    """Whether a file is a checkpoint whose pickle names the repository's `models.yolo`."""
    return in_pickle(path, READ_HERE)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's dict; its modules are not looked at yet.

    Raises:
        SlimError: it is damaged, or does more than a detector's checkpoint does.
    """
    ckpt = unpickled(path, words())
    if isinstance(ckpt, dict):
        for key, value in ckpt.items():
            if isinstance(value, np.ndarray) and value.size == 1:  # best_fitness
                ckpt[key] = value.item()
        if isinstance(ckpt.get("ema"), tuple) and ckpt["ema"]:  # with its updates, for a while between v4 and v5
            ckpt["ema"] = ckpt["ema"][0]
    check_entries(ckpt)
    return ckpt


def admit(detector: AnchorModel, ckpt: dict[str, Any]) -> AnchorModel:
    """Look a detector over, and let it remember what its file held besides.

    Raises:
        SlimError: it is not what it seems.
    """
    listed = isinstance(getattr(detector, "names", None), (list, tuple))
    check_detector(detector)
    if vars(detector).get("source") is None:
        entries = {} if TRAINED_HERE in ckpt else {k: None if k in BULKY else v for k, v in ckpt.items()}
        detector.source = {"entries": entries, "listed": listed}
    return detector


def arguments(ckpt: dict[str, Any]) -> dict[str, Any]:
    """What is known of its training, in Ultralytics' words."""
    if isinstance(ckpt.get(TRAINED_HERE), dict):
        return ckpt[TRAINED_HERE]
    options = ckpt.get("opt")
    side = options.get("imgsz") if isinstance(options, dict) else None
    return {"imgsz": side} if type(side) is int and side > 0 else {}


def content_of(detector: AnchorModel) -> dict[str, Any]:
    """A checkpoint as the repository leaves it after a training, in fp16, with all that its source held.

    Raises:
        SlimError: the detector has numbers that are none, or beyond fp16.
    """
    stored: Any = in_fp16(detector)  # from here on as its file has it
    source = vars(stored).get("source") or {"entries": {}, "listed": False}
    side = _side(vars(stored).get("args"))
    for name in OURS:
        vars(stored).pop(name, None)
    stored.names = list(stored.names.values()) if source["listed"] else dict(stored.names)
    _unused(stored.model[-1])
    entries = copy.deepcopy(source["entries"])
    said = arguments(entries).get("imgsz", DEFAULT_CFG_DICT["imgsz"]) if entries else None
    entries = entries or {"epoch": -1, "best_fitness": None, "model": None, "ema": None, "updates": None,
                          "optimizer": None}  # fmt: skip
    if side and side != said:  # it was trained here since
        told = entries.get("opt")
        entries["opt"] = {**(told if isinstance(told, dict) else {}), "imgsz": side}
    return {**entries, "model": stored}


def _side(args: Any) -> int | None:
    """Of the images that a detector was trained on here; what its file held of that is not about it any more."""
    side = args.get("imgsz") if isinstance(args, dict) else getattr(args, "imgsz", None)
    return side if type(side) is int and side > 0 else None


def _unused(head: Any) -> None:
    """A head as it is before its first image: its grids are made then, whatever its release."""
    vars(head).pop("strides", None)
    head.export = False  # v2 has no such value of the class
    for name in ("grid", "anchor_grid"):
        if name in vars(head):
            setattr(head, name, [torch.zeros(1)] * head.nl)


NAMES = {kind: name for name, kind in reversed(CLASSES.items())}
"""Class -> the name that it is written by."""


class _Pickler(pickle._Pickler):
    """Python's own, in which classes go by the names that they have in the repository."""

    write: Callable[[bytes], Any]
    memoize: Callable[[Any], None]

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """A class or a function, by its name."""
        known = NAMES.get(obj) if isinstance(obj, type) else None
        if known is None:
            super().save_global(obj, name)  # type: ignore[misc]  # it is there
            return
        module, _, last = known.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{last}\n".encode("ascii"))
        self.memoize(obj)


PICKLING = types.SimpleNamespace(__name__=__name__, Pickler=_Pickler)
"""What `torch.save` takes in place of the module `pickle`."""


def dump(ckpt: dict[str, Any], file: IO[bytes] | str | Path) -> None:
    """As torch.save, under the repository's names."""
    for key in MODELS:
        if (detector := ckpt.get(key)) is not None and (other := _stranger(detector)):
            raise SlimError(
                f"a detector of ultralytics/yolov5 cannot hold a {other}: that repository has no such layer"
            )
    torch.save(ckpt, file, pickle_module=PICKLING, pickle_protocol=2)


def _stranger(detector: nn.Module) -> str | None:
    """The first layer that a file of the repository cannot name."""
    kinds = {type(module) for module in detector.modules()}
    others = (k for k in kinds if k not in NAMES and not k.__module__.startswith("torch."))
    return next((f"{k.__module__}.{k.__qualname__}" for k in others), None)
