"""How detectors are stored: the only file that knows.

What is read is checked first (`formats`), and nothing is asked of the network. What is written loads with stock
`ultralytics.YOLO(path)` on a machine without this package.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from ultralytics.cfg import check_cfg
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.checks import check_yolov5u_filename
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES
from ultralytics.utils.torch_utils import restore_qat

from yolo_slim.errors import SlimError
from yolo_slim.formats.cards import card_of
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.door import check_detector, check_entries
from yolo_slim.formats.layers import check_finite
from yolo_slim.formats.model_yaml import check_description, described, own_activation, rehearse
from yolo_slim.formats.unpickle import unpickled
from yolo_slim.formats.writing import content_of, write_whole

CARD = "yolo_slim"
"""The entry of a checkpoint that holds its model card. Ultralytics leaves it alone."""

STOCK_TRAINER_STOP = (
    "this detector is slim, and the stock trainer would rebuild it at full width: "
    "train it with YOLO(...).train(trainer=yolo_slim.SlimTrainer, ...)"
)
"""Stands where a model YAML names its first layer, so that the stock trainer stops and says so."""


def load(path: str | Path) -> Detector:
    """Read a detector: fp32, eval mode, every parameter trainable.

    Args:
        path: an Ultralytics detection checkpoint `.pt`, or a model `.yaml` for an untrained detector.

    Raises:
        SlimError: the file is missing, damaged, does more than store a detector, or holds one that is not what it
            seems, that is fused or made for another task.
    """
    if str(path).endswith((".yaml", ".yml")):
        return build(str(path))
    detector = detector_of(read(path), path)
    detector.pt_path = str(path)
    return detector


def build(model_yaml: str, classes: int | None = None) -> Detector:
    """An untrained detector from a model YAML, such as `yolov5n.yaml`; `classes`: another number than it says.

    Raises:
        SlimError: there is none, or it describes no detector.
    """
    try:
        found = description(model_yaml)
        channels = found.get("channels", found.get("ch", 3))  # Ultralytics would take 3 for granted
        with own_activation():
            detector = Detector(found, ch=channels, nc=classes, verbose=False)
    except SlimError:
        raise
    except Exception as e:
        raise SlimError(f"cannot build a detector from {model_yaml}: {type(e).__name__}: {e}") from e
    detector.args = {**DEFAULT_CFG_DICT, "model": model_yaml}
    return detector.eval()


def description(model: str | dict[str, Any], channels: int | None = None) -> dict[str, Any]:
    """What a model YAML says, or one that was read before: nothing in it is evaluated, and it can be built and run.

    Raises:
        SlimError: there is none, or it describes no detector.
    """
    named = model if isinstance(model, str) else model.get("yaml_file", "a description")
    try:
        if isinstance(model, str):
            here(model)
            found = described(model)
        else:
            check_description(found := model)
        rehearse(found, channels or found.get("channels", found.get("ch", 3)))
    except SlimError as e:
        raise SlimError(f"cannot build a detector from {named}: it {e}") from e
    return found


def here(path: str | Path) -> None:
    """Refuse what is no path of this machine: nothing is downloaded.

    Raises:
        SlimError: what to do instead.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE):
        raise SlimError(f"{path} is an address, and nothing is downloaded here: download it, and give the file's path")


def read(path: str | Path) -> dict[str, Any]:
    """The checkpoint's dict. Nothing in it was run, and nothing was looked up on its word.

    Raises:
        SlimError: missing, damaged, or doing more than a detector's checkpoint does.
    """
    here(path)
    path = Path(path)
    try:
        if not path.is_file():
            raise SlimError(_not_there(path))
    except OSError as e:  # a name that is too long, say
        raise SlimError(f"no checkpoint at {path!s:.100}: {e.strerror or e}") from e
    if path.suffix != ".pt":
        packed = "; unpack it first" if path.suffix in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz") else ""
        raise SlimError(f"expected an Ultralytics checkpoint ending in .pt or a model .yaml, got {path}{packed}")
    with _about(path):
        ckpt = unpickled(path)
        check_entries(ckpt)
    return ckpt


def _not_there(path: Path) -> str:
    if path.exists():
        return f"expected a checkpoint at {path}, found a {'folder' if path.is_dir() else 'file of another kind'}"
    near = sorted(p.name for p in path.parent.glob("*.pt"))[:5] if path.parent.is_dir() else []
    hint = f"; in that folder: {', '.join(near)}" if near else ""
    if path.name in GITHUB_ASSETS_NAMES:
        hint += f". Nothing is downloaded here: {path.name} is among https://github.com/ultralytics/assets/releases"
    return f"no checkpoint at {path}{hint}"


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
    detector = ckpt.get("model") if average is None else average
    if not isinstance(detector, nn.Module):
        raise SlimError(f"{path} holds no detector under 'model' or 'ema', only {', '.join(map(str, list(ckpt)[:6]))}")
    if type(detector) is not Detector:
        task = type(detector).__name__.removesuffix("Model")
        raise SlimError(f"expected a detection model in {path}, got {type(detector).__name__}: {task} is not supported")
    with _about(path):
        check_detector(detector)
        _clamp_overflow(detector)
        check_finite(detector.float())
        detector.args = _arguments(ckpt.get("train_args") or {})
    detector.task = "detect"
    detector.criterion = None
    return detector.eval().requires_grad_(True)


def _clamp_overflow(detector: nn.Module) -> None:
    """A running variance that fp16 could not hold, as Ultralytics leaves it: its largest number, as `save` has it."""
    for name, tensor in detector.named_buffers():
        if name.endswith("running_var") and tensor.dtype == torch.float16:
            tensor.clamp_(max=torch.finfo(torch.float16).max)


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Ultralytics' arguments as a training had them; today's default for a number that is out of today's bounds."""
    found = dict(DEFAULT_CFG_DICT)
    for key, value in given.items():
        if key not in found:
            continue
        one = {key: value}
        try:
            check_cfg(one, hard=False)  # in place: "0.1" becomes a number
        except (TypeError, ValueError) as e:
            if value is not None and not isinstance(value, (bool, int, float)):
                raise SlimError(f"has a train_args.{key} that is none: {' '.join(str(e).split())[:200]}") from e
        else:
            found |= one
    return found


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
    """Write a detector as Ultralytics writes a finished training: fp16, no optimizer, whole or not at all.

    Args:
        detector: as `load` returns it; left alone.
        path: ends in `.pt`.
        extra: further plain entries of the checkpoint's dict.

    Raises:
        SlimError: a name that Ultralytics would look up as another file, or a disk that cannot take it.
    """
    path = Path(path)
    if check_yolov5u_filename(path.name, verbose=False) != path.name:
        raise SlimError(f"{path.name} would be looked up by Ultralytics under another name: choose a name like slim.pt")
    write_whole({**content_of(detector), **extra}, path)
    return path


def card(path: str | Path) -> dict[str, Any]:
    """The model card in a checkpoint: where it comes from, and each step on the way; empty: it has none.

    Raises:
        SlimError: it has one that is none.
    """
    path, content = Path(path), b""
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
    write_whole({**read(path), CARD: card}, path)


def file_bytes(detector: nn.Module) -> int:
    """How large a file `save` would write."""
    file = io.BytesIO()
    torch.save(content_of(detector), file)
    return file.tell()


def mark_slim(detector: Detector, kept: dict[str, list[int]]) -> None:
    """Note in the detector that its widths are not its YAML's, so that the stock trainer stops instead of regrowing it.

    `detector.yaml` keeps the full description under `slim`, with the cut: convolution -> outputs kept, of `full`;
    none are kept of the convolutions of a residual branch that was taken out.
    Cutting a second time keeps the indices of each cut in order.
    """
    full = detector.yaml.get("slim", {}).get("full") or {k: detector.yaml[k] for k in ("backbone", "head")}
    cuts = [*detector.yaml.get("slim", {}).get("cuts", []), kept]
    detector.yaml = {
        **detector.yaml,
        "backbone": [[-1, 1, STOCK_TRAINER_STOP, []]],
        "slim": {"full": full, "cuts": cuts},
    }


def is_slim(detector: nn.Module) -> bool:
    """Whether `mark_slim` was here."""
    return "slim" in (getattr(detector, "yaml", None) or {})
