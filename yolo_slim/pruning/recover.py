"""Recovery without training: refit what reads removed channels, or absorb their constants; then recalibrate."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from torch import Tensor, nn

from yolo_slim.channels import Trace, absorb, input_means, reconstruct, silenced, small_image
from yolo_slim.config import Prune
from yolo_slim.console import progress
from yolo_slim.data.batches import first
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate
from yolo_slim.pruning.recalibrate import recalibrate


def recover(
    slim: nn.Module,
    detector: nn.Module,
    wiring: Trace,
    kept: np.ndarray,
    chosen: Prune,
    images: Iterable[Tensor],
    *,
    original: nn.Module | None = None,
    also: Collection[str] = (),
) -> nn.Module:
    """`slim`, or a copy of it that has been given back what can be given back without training.

    Least squares contains absorption (the intercept) and fits each layer to statistics that batch norm already holds:
    after it, neither absorption nor, unless asked for, recalibration follows.

    Args:
        slim: `detector` after the cut.
        detector: without the residual branches that go whole.
        wiring: of `detector`.
        kept: bool per channel.
        chosen: the `prune:` section.
        images: batches (B, C, H, W); none: nothing is measured.
        original: with the residual branches, where some go.
        also: convolutions that read what those branches added to.

    Raises:
        SlimError: a recovery that looks at images, and there are none.
    """
    if kept.all() and not also:
        return slim
    how = recovery(chosen, images)
    if how == "lstsq":
        slim = _refit(slim, original or detector, wiring, kept, also, chosen, images)
    elif how == "none" or kept.all():
        slim = duplicate(slim)
    else:
        slim = absorb(slim, detector, wiring, kept, _means(how, detector, wiring, kept, images))
    n = chosen.recalibrate if chosen.recalibrate is not None else 0 if how == "lstsq" else chosen.calib_images
    if images and n:
        recalibrate(slim, first(images, n))
    return slim


def recovery(chosen: Prune, images: Iterable[Tensor]) -> str:
    """What makes up for removed channels: lstsq, or absorption as measured, as beta says, or not at all (none).

    Raises:
        SlimError: it looks at images, and there are none.
    """
    if (chosen.reconstruct or ("lstsq" if images else "none")) == "lstsq":
        if not images:
            raise SlimError("prune.reconstruct=lstsq needs images: give data= (or calibration=)")
        return "lstsq"
    return absorption(chosen, images)


def absorption(chosen: Prune, images: Iterable[Tensor]) -> str:
    """Whether constants are absorbed as measured, as beta says, or not at all (none).

    Raises:
        SlimError: to be measured, and there are no images.
    """
    how = chosen.absorb or ("measured" if images else "beta")
    if how == "measured" and not images:
        raise SlimError("prune.absorb=measured needs images: give data= (or calibration=), or use absorb=beta")
    return how


def _refit(
    slim: nn.Module,
    original: nn.Module,
    wiring: Trace,
    kept: np.ndarray,
    also: Collection[str],
    chosen: Prune,
    images: Iterable[Tensor],
) -> nn.Module:
    next(iter(images), None)  # reading them has a bar of its own: before this one
    with progress("least squares, layer") as at:
        return reconstruct(
            slim,
            original,
            wiring,
            kept,
            images,
            also=also,
            seed=chosen.seed,
            step=at,
        )


def _means(
    how: str, detector: nn.Module, wiring: Trace, kept: np.ndarray, images: Iterable[Tensor]
) -> dict[str, Tensor]:
    """The constants that are absorbed."""
    if how == "measured":
        return input_means(detector, wiring, images)
    # With its scale at zero a removed channel is constant on any image.
    blank = next(detector.parameters()).new_zeros(1, *small_image(detector, wiring.image_channels, wiring.imgsz))
    return input_means(silenced(detector, wiring, kept), wiring, [blank])
