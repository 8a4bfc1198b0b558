"""The proof that every cut owes: masked and cut detector agree, and the cut one is wired as planned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace, masked, relative_difference, small_image, trace
from yolo_slim.channels.groups import same_wiring
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

TOLERANCE = 1e-5


def prove(detector: nn.Module, slim: nn.Module, wiring: Trace, kept: np.ndarray) -> float:
    """The masked detector and the cut one must agree, and the cut one must be wired as the plan says.

    Returns:
        the relative difference, in fp64 on a random image, a small one: whether a channel is missing or at another
        one's place does not depend on the size.

    Raises:
        SlimError: they do not; nothing may be written then.
    """
    mute = masked(detector, wiring, kept).double().cpu()
    difference = relative_difference(mute, _double(slim), _noise(detector, wiring))
    if not difference < TOLERANCE:
        raise SlimError(
            f"the cut changed the detector: masked and cut outputs differ by {difference:.1e} "
            f"(allowed {TOLERANCE:.0e}). Nothing was written. This is a bug in yolo-slim: please report it"
        )
    if not same_wiring(wiring, kept, trace(slim, wiring.imgsz)):
        raise SlimError("the cut detector is not wired as planned. This is a bug in yolo-slim; please report it")
    return difference


def agree(detector: nn.Module, slim: nn.Module, wiring: Trace) -> bool:
    """Whether two detectors give the same on a random image."""
    return relative_difference(_double(detector), _double(slim), _noise(detector, wiring)) < TOLERANCE


def _noise(detector: nn.Module, wiring: Trace) -> Tensor:
    image = small_image(detector, wiring.image_channels, wiring.imgsz)
    return torch.rand(1, *image, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _double(detector: nn.Module) -> nn.Module:
    return duplicate(detector).double().cpu()
