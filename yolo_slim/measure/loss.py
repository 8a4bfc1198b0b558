"""Losses of a detector that is not being trained: Ultralytics', on labels, and one that needs none."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.cfg import get_cfg

from yolo_slim.formats.detector import Detector
from yolo_slim.heads import classes_of, raw

BOX = 5.0
"""Weight of where boxes are, against which class they are of."""
LEAST = 1e-6
"""A score counts as no closer to 0 or 1 than this: of float32 there is no less."""


def detection_loss(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Ultralytics' training loss of one labelled batch, a mean over its images."""
    detector = cast(Detector, network)
    args, criterion = detector.args, getattr(detector, "criterion", None)
    # The loss reads its gains there; a criterion made before may hold others.
    detector.args = get_cfg(overrides=args if isinstance(args, dict) else vars(args))
    detector.criterion = None
    try:
        return detector.loss(batch)[0].sum() / len(batch["img"])
    finally:
        detector.args, detector.criterion = args, criterion


def drawn_loss(detector: nn.Module, images: Tensor, draw: torch.Generator) -> Tensor:
    """How unlikely a detector finds an answer that is drawn from its own: its gradients tell what its answers hang on.

    At each position and for each class a target is drawn with the probability that the detector gives it, and each box
    is moved by a Gaussian in units of its size. The gradients of the log-likelihood of such draws have the Fisher
    information as their covariance, which around the trained detector is the curvature of the distance between what it
    says and what it said (Martens, JMLR 2020, arXiv:1412.1193, 9.2; that of labels, the "empirical" one, is another:
    Kunstner et al., NeurIPS 2019, arXiv:1905.12558). No label is read, and every class is there that the detector
    thinks of. A position weighs as the root of its best score: nearly all say nothing, and together they would drown
    those that do.

    Args:
        detector: in eval mode.
        images: (B, C, H, W) in [0, 1].
        draw: of the targets; on the CPU.

    Returns:
        a mean over images.
    """
    scores, boxes = answers(detector, images)
    told = scores.detach()
    sure = told.amax(1, keepdim=True)  # [B, 1, A]
    drawn = torch.rand(told.shape, generator=draw).to(told) < told
    loss = (sure.sqrt() * F.binary_cross_entropy(scores, drawn.to(scores), reduction="none")).sum()
    if boxes is not None:
        size = boxes[:, 2:].detach().clamp(min=1).repeat(1, 2, 1)
        noise = torch.randn(boxes.shape, generator=draw).to(boxes)
        # Weighted once more by the score: where no object is, it does not matter where its box would be.
        loss = loss + BOX * (sure**0.75 * noise * boxes / size).sum()
    return loss / len(images)


class Answers(NamedTuple):
    """What a detector says of B images at A positions."""

    scores: Tensor
    """(B, K, A), in (0, 1)."""
    boxes: Tensor | None
    """(B, 4, A), x y w h in pixels; None: of heads that keep their best ones alone."""


def answers(detector: nn.Module, images: Tensor) -> Answers:
    """What a detector in eval mode says of images (B, C, H, W), with gradients, before any is suppressed."""
    output = detector(images)
    rows = output[0] if isinstance(output, (tuple, list)) else output
    if rows.shape[1] == 4 + classes_of(cast(Detector, detector)):
        rows = _in_full(rows)
        return Answers(rows[:, 4:].clamp(LEAST, 1 - LEAST), rows[:, :4])
    return Answers(_in_full(raw(output)["scores"]).sigmoid().clamp(LEAST, 1 - LEAST), None)


def _in_full(values: Tensor) -> Tensor:
    """In float32 at least: in half precision nothing is as close to 1 as LEAST."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
