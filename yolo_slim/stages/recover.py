"""Recovery without training: refit what reads removed channels, or absorb their constants; then recalibrate."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from yolo_slim.channels import Trace, absorb, input_means, reconstruct, silenced
from yolo_slim.config import Prune
from yolo_slim.errors import SlimError
from yolo_slim.training.calibrate import first, recalibrate


def recover(
    slim: nn.Module,
    detector: nn.Module,
    wiring: Trace,
    kept: np.ndarray,
    chosen: Prune,
    imgsz: int,
    images: Iterable[Tensor],
) -> nn.Module:
    """`slim`, or a copy of it that has been given back what can be given back without training.

    Least squares contains absorption (the intercept) and fits each layer to statistics that batch norm already holds:
    after it, neither absorption nor, unless asked for, recalibration follows.

    Raises:
        SlimError: a recovery that looks at images, and there are none.
    """
    if kept.all():
        return slim
    refit = chosen.reconstruct or ("lstsq" if images else "none")
    if refit == "lstsq":
        if not images:
            raise SlimError("prune.reconstruct=lstsq needs images: give data= (or calibration=)")
        slim = _refit(slim, detector, wiring, kept, chosen, images)
    else:
        slim = _absorb(slim, detector, wiring, kept, chosen, imgsz, images)
    n = chosen.recalibrate if chosen.recalibrate is not None else 0 if refit == "lstsq" else chosen.calib_images
    if images and n:
        recalibrate(slim, first(images, n))
    return slim


def _refit(
    slim: nn.Module, detector: nn.Module, wiring: Trace, kept: np.ndarray, chosen: Prune, images: Iterable[Tensor]
) -> nn.Module:
    next(iter(images), None)  # reading them has a bar of its own: before this one
    columns = TextColumn("least squares, layer"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=None)
        return reconstruct(
            slim,
            detector,
            wiring,
            kept,
            images,
            seed=chosen.seed,
            step=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _absorb(
    slim: nn.Module,
    detector: nn.Module,
    wiring: Trace,
    kept: np.ndarray,
    chosen: Prune,
    imgsz: int,
    images: Iterable[Tensor],
) -> nn.Module:
    how = chosen.absorb or ("measured" if images else "beta")
    if how == "none":
        return copy.deepcopy(slim)
    if how == "measured":
        if not images:
            raise SlimError("prune.absorb=measured needs images: give data= (or calibration=), or use absorb=beta")
        means = input_means(detector, wiring, images)
    else:  # with its scale at zero a removed channel is constant on any image
        first_conv = next(m for m in detector.modules() if isinstance(m, nn.Conv2d))
        blank = first_conv.weight.new_zeros(1, first_conv.in_channels, imgsz, imgsz)
        means = input_means(silenced(detector, wiring, kept), wiring, [blank])
    return absorb(slim, detector, wiring, kept, means)
