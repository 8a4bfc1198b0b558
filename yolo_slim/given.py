"""What a caller in Python hands in, made into what the stages take: a detector, a size, a path, batches of images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel as BaseSettings
from torch import Tensor, nn
from ultralytics.engine.model import Model
from ultralytics.nn.tasks import BaseModel
from ultralytics.utils.torch_utils import unwrap_model

from yolo_slim import checkpoint
from yolo_slim.channels import image_channels
from yolo_slim.config.hints import members
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

Given = nn.Module | str | os.PathLike[str]
"""A path to a checkpoint (or a model YAML), a YOLO object, or a module that takes images (B, C, H, W)."""

IMGSZ = 640
"""Pixels, where a detector does not say at which size it was trained."""

LARGEST = 2**15
"""Pixels, of a side."""

WANTED = "batches of images, tensors (B, C, H, W) in [0, 1]"
ROUNDING = 1e-2
"""By how much pixels may be beyond [0, 1]: resizing overshoots a little."""


def detector_from(given: Given) -> nn.Module:
    """The detector that was meant: from a checkpoint, or a copy of a YOLO object's own, in fp32 on the CPU.

    Detectors of Ultralytics come in eval mode; any other module comes as it is, if it is on the CPU in fp32 or fp64.

    Raises:
        SlimError: there is none, or one that cannot be slimmed.
    """
    if isinstance(given, (str, os.PathLike)):
        return checkpoint.load(path_of(given))
    name = "this detector"
    if isinstance(given, Model):
        name = f"YOLO({str(given.ckpt_path or given.model_name)!r})"
        if not isinstance(given.model, nn.Module):
            raise SlimError(f"{name} is an exported file: give the checkpoint (.pt) that it was exported from")
        given = given.model
    if not isinstance(given, nn.Module):
        hint = ": give its .model" if isinstance(getattr(given, "model", None), nn.Module) else ""
        raise SlimError(
            "expected a detector: a path to a checkpoint, an ultralytics.YOLO or a torch.nn.Module, got a "
            f"{type(given).__name__}{hint}"
        )
    wrapped = isinstance(given, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(given, "_orig_mod")
    module = unwrap_model(given) if wrapped else given
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        raise SlimError(f"{name} has no weights: it is on the meta device")
    return _of_ultralytics(module, name) if isinstance(module, BaseModel) else _in_full(module)


def _of_ultralytics(module: nn.Module, name: str) -> nn.Module:
    if checkpoint.is_detector(module) and not any(isinstance(m, nn.BatchNorm2d) for m in module.modules()):
        raise SlimError(
            f"{name} is fused: its batch norms are merged into the convolutions, as fuse() of a YOLO object does, "
            "so there is nothing to score or to recalibrate. Load the checkpoint again, or give its path"
        )
    args = getattr(module, "args", None) or {}
    return checkpoint.detector_of(
        {"model": duplicate(module).cpu(), "train_args": args if isinstance(args, dict) else vars(args)}, name
    )


def _in_full(module: nn.Module) -> nn.Module:
    numbers = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    if all(t.dtype in (torch.float32, torch.float64) and t.device.type == "cpu" for t in numbers):
        return module
    return duplicate(module).cpu().float()


def _shown(given: Any) -> str:
    """A short value as it is; of a network the name of its class says enough."""
    return "" if isinstance(given, (Model, nn.Module)) else f": {' '.join(repr(given).split())[:80]}"


def path_of(given: Any) -> Path:
    """Text, or whatever stands for a path, as a path.

    Raises:
        SlimError: it is neither.
    """
    if not isinstance(given, (str, os.PathLike)) or not isinstance(os.fspath(given), str):
        raise SlimError(f"expected a path as text or as a pathlib.Path, got a {type(given).__name__}{_shown(given)}")
    return Path(given)


def checkpoint_path(path: Path, *suffixes: str) -> Path:
    """The path, if a checkpoint may be called so.

    Raises:
        SlimError: it is no checkpoint's, or would be in a file.
    """
    if path.is_dir() or path.suffix not in (".pt", *suffixes):
        hint = f"{path / 'slim.pt'}" if path.is_dir() or not path.suffix else f"{path.with_suffix('.pt')}"
        raise SlimError(
            f"expected the path of a checkpoint, ending in .pt, such as {hint}, got {path}: other formats are exported "
            "from it, by `yolo-slim export` or YOLO('slim.pt').export(format='onnx')"
        )
    if file := next((folder for folder in path.parents if folder.exists() and not folder.is_dir()), None):
        raise SlimError(f"cannot write {path}: {file} is a file, not a folder. Choose another folder")
    return path


def plain(value: Any) -> Any:
    """numpy's numbers as Python's own, which settings are checked as."""
    return value.item() if isinstance(value, np.generic) else value


def chosen_of(settings: type[BaseSettings], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a call's arguments that are settings, as they would be typed.

    Args:
        settings: their class.
        arguments: of the call; None is left out where a setting takes none: it stands for the default there.
    """
    fields = settings.model_fields
    given = {name: arguments[name] for name in fields if name in arguments}
    return {
        name: os.fspath(value) if isinstance(value, os.PathLike) else plain(value)
        for name, value in given.items()
        if value is not None or type(None) in members(fields[name].annotation)
    }


def _stride(detector: nn.Module) -> int:
    """The largest, in pixels: sides of images are multiples of it; 1: it does not say."""
    stride = getattr(detector, "stride", None)
    return max(1, int(stride.max())) if isinstance(stride, Tensor) and stride.numel() else 1


def own_size(detector: nn.Module) -> int:
    """The side in pixels that a detector was trained at, as Ultralytics rounds it."""
    args = getattr(detector, "args", None) or {}
    said = (args if isinstance(args, dict) else vars(args)).get("imgsz")
    sides = [said] if isinstance(said, int) else said if isinstance(said, (list, tuple)) else []
    known = sides and all(_is_side(side) for side in sides)
    side, step = max(sides) if known else IMGSZ, max(32, _stride(detector))
    return -(-side // step) * step


def _is_side(side: Any) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and 0 < side <= LARGEST


def size_of(detector: nn.Module, imgsz: Any) -> int | tuple[int, int]:
    """Side or (height, width) in pixels that the detector can run at.

    Raises:
        SlimError: it cannot.
    """
    if imgsz is None:
        return own_size(detector)
    given = imgsz.tolist() if isinstance(imgsz, np.ndarray) else imgsz
    sides = list(map(plain, given)) if isinstance(given, (list, tuple)) else [plain(given)]
    if len(sides) not in (1, 2) or not all(_is_side(side) for side in sides):
        raise SlimError(
            f"expected imgsz to be a side in pixels, at most {LARGEST}, or (height, width), got {imgsz!r:.80}"
        )
    stride = _stride(detector)
    for side in sides:
        if side % stride:
            near = [n for n in (side // stride * stride, -(-side // stride) * stride) if n]
            raise SlimError(
                f"expected imgsz to be a multiple of {stride}, the detector's largest stride in pixels, got {side}: "
                f"take {' or '.join(map(str, near))}"
            )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def batches_of(calibration: Any, detector: nn.Module, imgsz: int) -> list[Tensor]:
    """The caller's batches, as the detector takes them; read once, so that an iterator will do.

    Raises:
        SlimError: they are none.
    """
    try:
        batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    except TypeError:
        raise SlimError(f"calibration: expected {WANTED}, got a {type(calibration).__name__}") from None
    if not batches:
        raise SlimError(f"calibration: expected {WANTED}, got none: leave it out to cut without images")
    wanted = image_channels(detector, imgsz)
    return [_batch(batch, i, wanted, _stride(detector)) for i, batch in enumerate(batches)]


def _batch(batch: Any, i: int, wanted: int, stride: int) -> Tensor:
    """One of the caller's batches, fp32 on the CPU; it reads `wanted` channels, and sides that `stride` divides."""
    expected = f"calibration: expected {WANTED}, but number {i} is"
    if not isinstance(batch, Tensor):
        hint = (
            "; images alone are wanted: batch['img'] / 255, where labels come with them"
            if isinstance(batch, (Mapping, list, tuple))
            else "; torch.from_numpy(batch) makes it one"
            if isinstance(batch, np.ndarray)
            else ""
        )
        raise SlimError(f"{expected} a {type(batch).__name__}{hint}")
    shape = tuple(batch.shape)
    if batch.ndim != 4 or 0 in shape:
        hint = "; image[None] is a batch of one" if batch.ndim == 3 else ""
        raise SlimError(f"{expected} of shape {shape}{hint}")
    if not batch.is_floating_point():
        raise SlimError(f"{expected} of {batch.dtype}: batch.float() / 255 makes it so, where it holds 0 to 255")
    if shape[1] != wanted:
        raise SlimError(
            f"{expected} of shape {shape}, images of {shape[1]} channels: this detector reads images of {wanted}"
        )
    if any(side % stride for side in shape[2:]):
        raise SlimError(f"{expected} of shape {shape}: the detector needs sides that are multiples of {stride}")
    batch = batch.detach().cpu().float()
    low, high = float(batch.min()), float(batch.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        hint = ": batch / 255 makes it so, where it holds 0 to 255" if high > 1 else ""
        raise SlimError(f"{expected} from {low:g} to {high:g}{hint}")
    return batch
