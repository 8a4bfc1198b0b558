"""What a loss sees: what two detectors say of a batch, and where in which images they say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class View:
    """What a detector says of a batch of B images, at A positions."""

    maps: Sequence[Tensor]
    """Per level (B, C, H, W): what enters Detect, or what named layers put out."""
    boxes: Tensor
    """(B, 4 * bins, A): logits of the distances left, top, right, bottom in strides; with one bin the distances."""
    scores: Tensor
    """(B, K, A): logits of K classes, each a sigmoid of its own."""


@dataclass(frozen=True)
class Scene:
    """Where the positions are, level after level and row after row, and what is in the images."""

    points: Tensor
    """(A, 2): x, y in pixels."""
    strides: Tensor
    """(A,): pixels."""
    boxes: Tensor
    """(N, 4): true boxes of the whole batch, xyxy in pixels."""
    classes: Tensor
    """(N,): of the true boxes."""
    images: Tensor
    """(N,): the image of each true box, an index into the batch."""
    size: tuple[int, int]
    """(height, width) of the images in pixels."""


@dataclass(frozen=True)
class Pair:
    """Student and teacher, as far as losses must know them when they are made."""

    student: Sequence[int]
    """Channels of the student's maps."""
    teacher: Sequence[int]
    """Channels of the teacher's maps."""
    same: Sequence[Tensor] | None
    """Per level (Cs,): the teacher's channel that each channel of the student is; None: not cut from this teacher."""
    classes: int
    """Of the student."""
    bins: int
    """Of the student's distances."""
    teacher_classes: int | None = None
    """None: as many as the student's."""
    teacher_bins: int | None = None
    """None: as many as the student's."""
    names: Sequence[str] = ()
    """Of the student's classes; (): not known."""
    teacher_names: Sequence[str] = ()
    """Of the teacher's."""


def in_fp32(forward: Callable[[Any, View, View, Scene], Tensor]) -> Callable[[nn.Module, View, View, Scene], Tensor]:
    """A loss of fp32 views, whatever autocast says, from which no gradient goes to the teacher.

    Squares of features and of distances overflow fp16, and under autocast convolutions, products and RoIAlign would
    go back to it.
    """

    @wraps(forward)
    def wrapped(self: nn.Module, student: View, teacher: View, scene: Scene) -> Tensor:
        with torch.autocast(student.scores.device.type, enabled=False):
            scene = replace(
                scene, points=scene.points.float(), strides=scene.strides.float(), boxes=scene.boxes.float()
            )
            return forward(self, _each(Tensor.float, student), _each(lambda t: t.detach().float(), teacher), scene)

    return wrapped


def _each(change: Callable[[Tensor], Tensor], view: View) -> View:
    return View([change(m) for m in view.maps], change(view.boxes), change(view.scores))
