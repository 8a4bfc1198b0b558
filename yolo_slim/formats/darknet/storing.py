"""Darknet's detectors as checkpoints: what the stages of a run hand on, and a training goes on from."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from yolo_slim.formats import darknet
from yolo_slim.formats.archive import in_pickle
from yolo_slim.formats.darknet import modules
from yolo_slim.formats.darknet.modules import DarknetModel
from yolo_slim.formats.darknet.reading import weights_beside
from yolo_slim.formats.darknet.saving import slim_text
from yolo_slim.formats.door import check_entries
from yolo_slim.formats.modules import check_modules
from yolo_slim.formats.unpickle import unpickled
from yolo_slim.formats.vocabulary import Vocabulary, ultralytics
from yolo_slim.formats.writing import content_of as ultralytics_content

PARTS = (modules.DarknetModel, modules.DarknetHead, modules.Sum, modules.Part, modules.EdgePool)
"""What a pickled detector names, besides torch's and Ultralytics' layers."""
READ_HERE = re.compile(re.escape(f"{modules.__name__}\nDarknetModel\n").encode())


def reads(path: Path) -> bool:
    """Whether a file is a Darknet cfg, or a checkpoint whose pickle names the modules of one."""
    return darknet.reads(path) or in_pickle(path, READ_HERE)


@cache
def words() -> Vocabulary:
    """Those of Ultralytics' checkpoints, and the parts."""
    known = ultralytics()
    own = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in PARTS}
    return Vocabulary({**known.objects, **own}, known.calls, known.helpers, known.refusal)


def read(path: Path, weights: Path | None = None) -> dict[str, Any]:
    """A checkpoint's dict; of a cfg, one with its detector, its card, and the side of the images that it was made for.

    Args:
        path: a cfg or a checkpoint.
        weights: of the cfg; None: those beside it.

    Raises:
        SlimError: it is damaged, says what is not supported, or does more than a detector's file does.
    """
    if darknet.reads(path):
        detector = darknet.load(path, weights)
        return {"model": detector, "train_args": {"imgsz": detector.args["imgsz"]}}
    ckpt = unpickled(path, words())
    check_entries(ckpt)
    return ckpt


def parts(path: Path, weights: Path | None) -> list[Path]:
    """The files that a detector is read from.

    Raises:
        SlimError: a cfg without weights beside it.
    """
    return [path, weights or weights_beside(path)] if darknet.reads(path) else [path]


def card(path: Path) -> dict[str, Any] | None:
    """The card beside a cfg; None: a checkpoint, which holds its own.

    Raises:
        SlimError: there is one that is none.
    """
    return darknet.card(path) if darknet.reads(path) else None


def admit(detector: nn.Module, ckpt: dict[str, Any]) -> DarknetModel:
    """The same detector, of modules that were made here.

    Raises:
        SlimError: it is not what it seems.
    """
    check_modules(detector)
    return darknet.restored(detector)


def content_of(detector: DarknetModel) -> dict[str, Any]:
    """A checkpoint as Ultralytics leaves it after a training, but in fp32: weights of Darknet are, and nothing is lost.

    Raises:
        SlimError: the detector has numbers that are none, or beyond fp16, in which a training keeps them; or layers
            that its cfg cannot say, so that nothing would read the file again.
    """
    slim_text(detector)
    content = ultralytics_content(detector)
    stored = content["model"].float()
    stored.load_state_dict(detector.state_dict())
    return {**content, "model": stored}
