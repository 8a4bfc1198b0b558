"""The kinds of files that detectors come in: one entry a family, chosen by what a file holds, not by its name.

To add one, write its functions and put its entry before Ultralytics' in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from yolo_slim.errors import SlimError
from yolo_slim.formats.classes import scores_anew
from yolo_slim.formats.darknet import storing as darknet
from yolo_slim.formats.darknet.modules import DarknetModel
from yolo_slim.formats.darknet.saving import save as save_darknet
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.door import MODELS, check_detector, check_entries
from yolo_slim.formats.unpickle import unpickled
from yolo_slim.formats.writing import content_of
from yolo_slim.formats.yolov5 import storing as yolov5
from yolo_slim.formats.yolov5.classes import scores_anew as anchor_scores_anew
from yolo_slim.formats.yolov5.model import AnchorModel


@dataclass(frozen=True)
class Family:
    """How one kind of detectors is read and written. What refuses, does so with a SlimError that begins with a verb."""

    name: str
    model: type[nn.Module]
    """Of what class its detectors are here."""
    reads: Callable[[Path], bool]
    """Whether a file is one of its kind; never raises."""
    read: Callable[..., dict[str, Any]]
    """A checkpoint's dict, its entries looked at: detectors under 'model' or 'ema', as the file has them. Takes the
    path, and in families of several files that of the weights."""
    admit: Callable[[Any, dict[str, Any]], Detector]
    """Look at a detector of such a dict, before anything is done with it; the same, or one made anew of it."""
    arguments: Callable[[dict[str, Any]], dict[str, Any]]
    """Ultralytics' arguments, as far as such a dict tells how the detector was trained."""
    content: Callable[[Any], dict[str, Any]]
    """The dict of a finished detector's file, in fp16."""
    dump: Callable[[dict[str, Any], IO[bytes] | str | Path], None]
    """As torch.save, so that `read` reads it again; in the middle of a training as well."""
    rebuilds: bool
    """Whether a detector can be built again from its YAML."""
    trained: str = "YOLO(...).train(trainer=yolo_slim.SlimTrainer, ...)"
    """How a slim one is trained, for those who try the trainer that it came from."""
    files: tuple[str, Callable[[Any, Path, dict[str, Any] | None], tuple[Path, ...]]] | None = None
    """How the name ends of files that are no checkpoints, and what writes a detector with its card so; all written."""
    parts: Callable[[Path, Path | None], list[Path]] | None = None
    """The files that a detector is read from, by the path and that of the weights; None: one file is all there is."""
    card: Callable[[Path], dict[str, Any] | None] | None = None
    """The model card of a file that may lie beside it, None: it holds its own; None: files hold them."""
    anew: Callable[[Any, Mapping[int, str]], None] | None = None
    """Let a detector tell other classes apart, by their numbers and names; None: that is not done here."""
    cites: bool = False
    """Whether what it refuses begins with a file's name already: with several files it knows best which."""


def _read(path: Path) -> dict[str, Any]:
    ckpt = unpickled(path)
    check_entries(ckpt)
    return ckpt


def _admit(detector: Detector, ckpt: dict[str, Any]) -> Detector:
    check_detector(detector)
    return detector


ULTRALYTICS = Family(
    name="Ultralytics",
    model=Detector,
    reads=lambda path: True,
    read=_read,
    admit=_admit,
    arguments=lambda ckpt: ckpt.get("train_args") or {},
    content=content_of,
    dump=lambda ckpt, file: torch.save(ckpt, file),  # as it is then: trainers put another in its place
    rebuilds=True,
    anew=scores_anew,
)
YOLOV5 = Family(
    name="ultralytics/yolov5",
    model=AnchorModel,
    reads=yolov5.reads,
    read=yolov5.read,
    admit=yolov5.admit,
    arguments=yolov5.arguments,
    content=yolov5.content_of,
    dump=yolov5.dump,
    rebuilds=False,
    trained="yolo_slim.SlimTrainer(overrides=dict(model='slim.pt', data='my.yaml', epochs=20)).train()",
    anew=anchor_scores_anew,
)

DARKNET = Family(
    name="Darknet",
    model=DarknetModel,
    reads=darknet.reads,
    read=darknet.read,
    admit=darknet.admit,
    arguments=lambda ckpt: ckpt.get("train_args") or {},
    content=darknet.content_of,
    dump=ULTRALYTICS.dump,
    rebuilds=False,
    files=(".cfg", save_darknet),
    parts=darknet.parts,
    card=darknet.card,
    cites=True,
)

FAMILIES: tuple[Family, ...] = (YOLOV5, DARKNET, ULTRALYTICS)
"""In the order in which they are asked; the last reads all others' files, or says what is wrong with them."""


def family_at(path: Path) -> Family:
    """Which of them a file is of."""
    return next(family for family in FAMILIES if family.reads(path))


def family_of(detector: Any) -> Family | None:
    """Which of them a detector is of; None: it is no detector of theirs."""
    return next((family for family in FAMILIES if type(detector) is family.model), None)


def known_family(detector: nn.Module, where: str) -> Family:
    """The same.

    Raises:
        SlimError: none; `where` it was found.
    """
    if (family := family_of(detector)) is None:
        task = type(detector).__name__.removesuffix("Model")
        raise SlimError(
            f"expected a detection model in {where}, got {type(detector).__name__}: {task} is not supported"
        )
    return family


def family_in(ckpt: dict[str, Any]) -> Family:
    """Of which of them the detectors in a checkpoint's dict are."""
    found = (family_of(ckpt.get(key)) for key in MODELS)
    return next((family for family in found if family), ULTRALYTICS)


def for_classes(detector: Detector, names: Mapping[int, str]) -> Detector:
    """The detector, which from now on tells these classes apart: what says them starts afresh, all else is kept.

    Raises:
        SlimError: its family cannot have that done.
    """
    family = known_family(detector, "what is transferred")
    if family.anew is None:
        raise SlimError(
            f"a detector of {family.name} is not given other classes here: train it for them there, and give what "
            "comes out of that"
        )
    family.anew(detector, names)
    return detector
