"""Names that no checkpoint of a detector has: found, and told of."""

from __future__ import annotations

import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

from yolo_slim.formats.names import helpers, objects

FUSED = (
    "is fused: its batch norms are merged into the convolutions, so there is nothing to score or to recalibrate. "
    "Use the checkpoint that training wrote (best.pt), not a fused or exported one"
)
FOREIGN = (
    "names {}, which is not part of Ultralytics' checkpoint format: refused, since loading it would run that code. "
    "Give a detector as the `ultralytics` package, or the train.py of ultralytics/yolov5, saves it"
)
GLOBAL = re.compile(rb"c([A-Za-z_][\w.]*)\n([A-Za-z_][\w.]*)\n")


def foreign(data: bytes) -> str | None:
    """The first name in these pickles that no checkpoint has."""
    found = (full(module.decode(), name.decode()) for module, name in GLOBAL.findall(data))
    return next((name for name in found if not known(name)), None)


def known(name: str) -> bool:
    """Whether some checkpoint of a detector has this name in it."""
    return name in objects() or name in helpers()


def full(module: str, name: str) -> str:
    """Python 2's names, which pickles of protocol 2 use, in Python 3."""
    if (module, name) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, name])
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def refusal(name: str, data: bytes) -> str:
    """Why a pickle with this name in it is refused."""
    top, _, last = name.rpartition(".")
    if top == "ultralytics.nn.tasks" and last.endswith("Model"):
        return f"holds a {last}: expected a detection model, {last.removesuffix('Model')} is not supported"
    if name == "builtins.getattr" and b"forward_fuse" in data:
        return FUSED
    return FOREIGN.format(name)
