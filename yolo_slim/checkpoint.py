"""How detectors are stored: the only file that knows.

What is read is checked first (`formats`), and nothing is asked of the network. What is written loads where the detector
came from, without this package: with stock `ultralytics.YOLO(path)`, or in a checkout of ultralytics/yolov5.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from ultralytics.utils.checks import check_yolov5u_filename
from ultralytics.utils.torch_utils import restore_qat

from yolo_slim.errors import SlimError
from yolo_slim.formats.arguments import arguments_of
from yolo_slim.formats.building import build, check_local, check_there
from yolo_slim.formats.cards import card_of
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.families import ULTRALYTICS, family_at, family_in, family_of, known_family
from yolo_slim.formats.layers import check_finite, clamp_overflow
from yolo_slim.formats.notes import is_slim as is_slim
from yolo_slim.formats.notes import mark_grown as mark_grown
from yolo_slim.formats.notes import mark_slim as mark_slim
from yolo_slim.formats.writing import write_whole

CARD = "yolo_slim"
"""The entry of a checkpoint that holds its model card. Ultralytics leaves it alone."""


def load(path: str | Path, weights: str | None = None) -> Detector:
    """Read a detector: fp32, eval mode, every parameter trainable.

    Args:
        path: a checkpoint `.pt` of Ultralytics or of ultralytics/yolov5, a Darknet `.cfg` with its weights beside
            it, or a model `.yaml` for an untrained detector.
        weights: of a Darknet cfg, where they do not lie beside it.

    Raises:
        SlimError: the file is missing, damaged, does more than store a detector, or holds one that is not what it
            seems, that is fused or made for another task.
    """
    if str(path).endswith((".yaml", ".yml")) and not weights:
        return build(str(path))
    detector = detector_of(read(path, weights), path)
    detector.pt_path = str(path)
    return detector


def read(path: str | Path, weights: str | None = None) -> dict[str, Any]:
    """The checkpoint's dict. Nothing in it was run, and nothing was looked up on its word.

    Raises:
        SlimError: missing, damaged, or doing more than a detector's checkpoint does.
    """
    check_there(path)
    path = Path(path)
    family = family_at(path)
    if weights:
        if not family.parts or family.parts(path, path) == [path]:
            raise SlimError(f"weights={weights} belongs to a Darknet .cfg, which has its numbers apart: leave it out")
        check_local(weights)
        return family.read(path, Path(weights))
    if family is ULTRALYTICS and path.suffix != ".pt":
        packed = "; unpack it first" if path.suffix in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz") else ""
        packed = "; unpack it with yolo-slim unpack first" if path.suffix == ".yslim" else packed
        packed = "; give the .cfg that describes them" if path.suffix == ".weights" else packed
        raise SlimError(
            f"expected a checkpoint ending in .pt, a Darknet .cfg with its .weights, or a model .yaml, got {path}"
            f"{packed}"
        )
    if family.cites:
        return family.read(path)
    with _about(path):
        return family.read(path)


def parts(path: str | Path, weights: str | None = None) -> list[Path]:
    """The files that a detector is read from: of a Darknet cfg its weights too."""
    path, family = Path(path), family_at(Path(path))
    return family.parts(path, Path(weights) if weights else None) if family.parts else [path]


def says_size(ckpt: dict[str, Any]) -> bool:
    """Whether a checkpoint says which side its detector's images had in training; Ultralytics' default stands for it
    else."""
    return "imgsz" in family_in(ckpt).arguments(ckpt)


def is_stored(path: str | Path) -> bool:
    """Whether a file holds a trained detector, as far as its name, or what it begins with, tells."""
    return Path(path).suffix == ".pt" or family_at(Path(path)) is not ULTRALYTICS


@contextmanager
def _about(path: str | Path) -> Iterator[None]:
    """What is refused in a file begins with its name."""
    try:
        yield
    except SlimError as e:
        raise SlimError(f"{path} {e}") from e


def detector_of(ckpt: dict[str, Any], path: str | Path) -> Detector:
    """The detector in a checkpoint, in fp32; the average of the weights where there is one, as Ultralytics does.

    Raises:
        SlimError: none in it, one that is not what it seems, or one we cannot slim.
    """
    average = ckpt.get("ema")
    found = ckpt.get("model") if average is None else average
    if not isinstance(found, nn.Module):
        raise SlimError(f"{path} holds no detector under 'model' or 'ema', only {', '.join(map(str, list(ckpt)[:6]))}")
    family = known_family(found, str(path))
    with _about(path):
        detector = family.admit(found, ckpt)
        clamp_overflow(detector)
        check_finite(detector.float())
        detector.args = arguments_of(family.arguments(ckpt))
    detector.task = "detect"
    detector.criterion = None
    return detector.eval().requires_grad_(True)


@contextmanager
def reading_for_ultralytics() -> Iterator[None]:
    """Inside, Ultralytics' trainer and exporter read checkpoints as they are read here: checked, and from this disk."""
    with (
        patch("ultralytics.engine.model.load_checkpoint", _loaded),
        patch("ultralytics.engine.trainer.load_checkpoint", _loaded),
        patch("ultralytics.nn.distill_model.load_checkpoint", _loaded),
        patch("ultralytics.utils.torch_utils.torch_load", lambda path, **_: read(path)),
    ):
        yield


def _loaded(
    weight: str | Path, device: torch.device | str | None = None, inplace: bool = True, fuse: bool = False
) -> tuple[Detector, dict[str, Any]]:
    """Ultralytics' `load_checkpoint`, but that nothing is fused."""
    ckpt = read(weight)
    detector = detector_of(ckpt, weight)
    detector.pt_path = str(weight)
    if ckpt.get("modelopt"):  # of a training for INT8: it goes on with the ranges that it has learned
        restore_qat(detector, ckpt["modelopt"])
    return detector.to(device) if device else detector, ckpt


def save(detector: nn.Module, path: str | Path, **extra: Any) -> Path:
    """Write a detector as its family writes a finished training: fp16, no optimizer, whole or not at all.

    Args:
        detector: as `load` returns it; left alone. It becomes a file of the kind that it came from.
        path: ends in `.pt`, or as files of its family do (Darknet: `.cfg`, with the weights beside it).
        extra: further plain entries of the checkpoint's dict.

    Raises:
        SlimError: a name that Ultralytics would look up as another file, or a disk that cannot take it.
    """
    path = Path(path)
    family = known_family(detector, "what is to be saved")
    if family is ULTRALYTICS and check_yolov5u_filename(path.name, verbose=False) != path.name:
        raise SlimError(f"{path.name} would be looked up by Ultralytics under another name: choose a name like slim.pt")
    if family.files and path.suffix == family.files[0]:
        family.files[1](detector, path, extra.get(CARD))
        return path
    write({**family.content(detector), **extra}, path)
    return path


def suffixes(detector: nn.Module) -> tuple[str, ...]:
    """How files of its family end that are no checkpoints."""
    family = family_of(detector)
    return (family.files[0],) if family and family.files else ()


def beside(path: Path) -> dict[str, Path]:
    """Write what a checkpoint holds as files of its family, beside it: `darknet.cfg` -> where; {}: it is one itself.

    Raises:
        SlimError: the disk is full or cannot be written.
    """
    family = family_at(path)
    if not family.files:
        return {}
    ckpt, (suffix, write) = read(path), family.files
    written = write(detector_of(ckpt, path), path.with_suffix(suffix), ckpt.get(CARD))
    return {f"{family.name.lower()}{file.suffix}": file for file in written}


def write(ckpt: dict[str, Any], path: Path) -> None:
    """Write a checkpoint's dict as files of its family are, whole or not at all.

    Raises:
        SlimError: the disk is full or cannot be written.
    """
    write_whole(ckpt, path, family_in(ckpt).dump)


@contextmanager
def saving_for_ultralytics(seen: dict[str, Any] | None = None, **more: Any) -> Iterator[None]:
    """Inside, Ultralytics' `torch.save` writes a detector as its family does, with further entries.

    Args:
        seen: what is saved is noted here, if it is given.
        more: entries of every checkpoint that is saved.
    """
    save = torch.save

    def of_its_family(ckpt: dict[str, Any], where: Any, **how: Any) -> None:
        if seen is not None:
            seen.update(ckpt, **more)
        with patch.object(torch, "save", save):
            family_in(ckpt).dump({**ckpt, **more}, where)

    with patch.object(torch, "save", of_its_family):
        yield


def card(path: str | Path) -> dict[str, Any]:
    """The model card in a checkpoint: where it comes from, and each step on the way; empty: it has none.

    Raises:
        SlimError: it has one that is none.
    """
    path, content = Path(path), b""
    family = family_at(path)
    if family.card and (beside_it := family.card(path)) is not None:
        return beside_it
    with suppress(OSError):  # `read` says why
        content = path.read_bytes() if path.is_file() else b""
    return copy.deepcopy(_card(path, hashlib.sha256(content).hexdigest()))


@functools.lru_cache(maxsize=16)
def _card(path: Path, content: str) -> dict[str, Any]:
    """Read once for the same bytes: each stage asks for the card of what it began with."""
    found = read(path).get(CARD)
    with _about(path):
        return card_of(found)


def inscribe(path: Path, card: dict[str, Any]) -> None:
    """Write a card of plain values into a checkpoint, which stays as it is otherwise."""
    write({**read(path), CARD: card}, path)


def file_bytes(detector: nn.Module) -> int:
    """How large a file `save` would write."""
    family, file = known_family(detector, "what is to be saved"), io.BytesIO()
    family.dump(family.content(detector), file)
    return file.tell()


def is_detector(module: Any) -> bool:
    """Whether it is a detector of a family that is read here."""
    return family_of(module) is not None
