"""How far apart two detectors are in what they say of the same images: no label is asked."""

from __future__ import annotations

import torch
from torch import Tensor
from ultralytics.utils.metrics import bbox_iou

from yolo_slim.measure.loss import Answers

MOST = 512
"""Positions of an image that are compared, those of the best scores: the others say nothing, ten thousand times over,
and would take most of the time."""
EPS = 1e-12


def disagreement(ours: Answers, theirs: Answers, most: int = MOST) -> tuple[Tensor, Tensor]:
    """What it costs to hold `ours` for `theirs`: of the scores, and of the boxes; 0 where they are the same.

    Scores: sum w KL(theirs || ours) / sum w over positions, each class a Bernoulli variable of its own, where w is the
    root of the best score that either has there: an object made up counts as one that is missed. Boxes: 1 - CIoU (Zheng
    et al., AAAI 2020, arXiv:1911.08287, 3), weighted by their best scores; a scalar 0 of heads that give none.

    Args:
        ours: scores (B, K, A), boxes (B, 4, A) or None; gradients go to them alone.
        theirs: of the same images, without gradients.
        most: positions of an image that are compared at most.
    """
    expected = theirs.scores.detach()
    sure = torch.maximum(expected.amax(1), ours.scores.detach().amax(1))  # [B, A]
    sure, at = sure.topk(min(most, sure.shape[1]), dim=1)
    p, q = _at(expected, at), _at(ours.scores, at)
    # Not torch's binary_cross_entropy, which ends the process of a GPU where a score is no number.
    gaps = (p * (p.log() - q.log()) + (1 - p) * (torch.log1p(-p) - torch.log1p(-q))).sum(1)
    weights = sure.sqrt()
    scores = (weights * gaps).sum() / (weights.sum() + EPS)
    if ours.boxes is None or theirs.boxes is None:
        return scores, scores.new_zeros(())
    mine, wanted = (_at(boxes, at).transpose(1, 2) for boxes in (ours.boxes, theirs.boxes.detach()))  # [B, most, 4]
    overlap = bbox_iou(mine, wanted, xywh=True, CIoU=True)[..., 0]
    best = p.amax(1)
    return scores, (best * (1 - overlap)).sum() / (best.sum() + EPS)


def _at(values: Tensor, at: Tensor) -> Tensor:
    """Values (B, n, A) at positions (B, m): (B, n, m)."""
    return values.gather(2, at[:, None].expand(-1, values.shape[1], -1))
