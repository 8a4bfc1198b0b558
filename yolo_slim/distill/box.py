"""Box distillation: the student's box should be the teacher's, where the teacher is sure (Mehta & Ozturk).

The paper (arXiv:1805.06361) compares coordinates; this is one minus the complete IoU (Zheng et al., arXiv:1911.08287).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from yolo_slim.distill.positions import TINY, confidence, distances, weighted_mean
from yolo_slim.distill.view import Pair, Scene, View, in_fp32

FLOOR = 1e-4
"""Least side of a box in strides: a detector may say none, or a negative one."""


class Box(nn.Module):
    """sum w (1 - CIoU) / sum w of the boxes meant at each position; w = the teacher's largest class probability."""

    weight = 7.5  # as Ultralytics' own on the same measure

    def __init__(self, pair: Pair) -> None:
        super().__init__()

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; 0 where the teacher sees nothing at all."""
        return weighted_mean(1 - complete_iou(distances(student), distances(teacher)), confidence(teacher))


def complete_iou(one: Tensor, two: Tensor) -> Tensor:
    """CIoU of boxes about the same points, given by their distances left, top, right, bottom: (B, 4, A) -> (B, A).

    IoU - |c1 - c2|^2 / diagonal^2 - a v, with v the squared difference of the angles of the diagonals, times
    4 / pi^2, and a = v / (1 - IoU + v) as a constant.
    """
    (left_top1, right_bottom1), (left_top2, right_bottom2) = one.chunk(2, 1), two.chunk(2, 1)  # each (B, 2, A)
    sides1 = (left_top1 + right_bottom1).clamp(min=FLOOR)
    sides2 = (left_top2 + right_bottom2).clamp(min=FLOOR)
    both = torch.minimum(left_top1, left_top2) + torch.minimum(right_bottom1, right_bottom2)
    hull = torch.maximum(left_top1, left_top2) + torch.maximum(right_bottom1, right_bottom2)
    shared = both.clamp(min=FLOOR).prod(1)
    iou = shared / (sides1.prod(1) + sides2.prod(1) - shared)
    apart = ((right_bottom1 - left_top1) - (right_bottom2 - left_top2)).square().sum(1) / 4
    apart = apart / hull.clamp(min=FLOOR).square().sum(1)
    v = 4 / math.pi**2 * ((sides1[:, 0] / sides1[:, 1]).atan() - (sides2[:, 0] / sides2[:, 1]).atan()).square()
    a = (v / (1 - iou + v + TINY)).detach()
    return iou - apart - a * v
