"""What a checkpoint of ours holds; it is written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from ultralytics import __version__ as ultralytics_version
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.layers import check_finite
from yolo_slim.mould import duplicate


def content_of(detector: nn.Module) -> dict[str, Any]:
    """A checkpoint as Ultralytics leaves it after a training, in fp16.

    Raises:
        SlimError: the detector has numbers that are none, or beyond fp16.
    """
    stored = in_fp16(detector)
    args = stored.args if isinstance(stored.args, dict) else vars(stored.args)
    stored.args = {k: v for k, v in args.items() if k in DEFAULT_CFG_DICT}
    return {
        "date": datetime.now(timezone.utc).isoformat(),
        "version": ultralytics_version,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "epoch": -1,
        "best_fitness": None,
        "model": stored,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": stored.args,
    }


def in_fp16(detector: nn.Module) -> Detector:
    """A copy as it is stored: on the CPU, in fp16, in eval mode, without gradients or a loss.

    Raises:
        SlimError: the detector has numbers that are none, or beyond fp16.
    """
    stored = cast(Detector, duplicate(detector)).cpu()
    _fit_fp16(stored)
    stored = stored.half().eval().requires_grad_(False)
    stored.criterion = None
    return stored


@torch.no_grad()
def _fit_fp16(detector: nn.Module) -> None:
    """A running variance beyond fp16 becomes its largest number, in place: it hardly changes what a norm divides by.

    Raises:
        SlimError: another tensor is beyond fp16, or is not finite.
    """
    most = torch.finfo(torch.float16).max
    try:
        check_finite(detector)
    except SlimError as e:
        raise SlimError(f"the detector {e}") from e
    for name, tensor in detector.state_dict().items():
        if name.endswith("running_var"):
            tensor.clamp_(max=most)
        elif tensor.is_floating_point() and tensor.numel() and tensor.abs().max() > most:
            raise SlimError(
                f"the detector cannot be saved: {name} holds {tensor.abs().max():.3g}, and fp16, in which detectors "
                f"are stored, ends at {most:.0f}. Train it with weight decay or a lower learning rate"
            )


def write_whole(ckpt: dict[str, Any], path: Path, dump: Callable[[dict[str, Any], Any], None] | None = None) -> None:
    """Save to a temporary name and rename: the file is either the old one or all of the new one, power cuts included.

    Raises:
        SlimError: the disk is full or cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            (dump or torch.save)(ckpt, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _keep_name(path.parent)
    except (OSError, RuntimeError) as e:
        raise SlimError(f"cannot write {path}: {_why_unwritten(e)}") from e
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _keep_name(folder: Path) -> None:
    """Have the disk take a renaming in, where its system lets folders be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _why_unwritten(error: OSError | RuntimeError) -> str:
    number = next((e.errno for e in (error, error.__context__) if isinstance(e, OSError)), None)
    why = os.strerror(number) if number else str(error).partition("\n")[0]
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{why}. Nothing was changed; free some space and run it again"
    return f"{why}. Nothing was changed"
