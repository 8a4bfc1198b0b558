"""Regression bounded by the teacher: towards the truth, until it is met as well as by the teacher (Chen et al., NIPS
2017, 3.3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.positions import confidence, distances, edges, truth_at, weighted_mean
from yolo_slim.distill.view import Pair, Scene, View, in_fp32


class Bounded(nn.Module):
    """sum w e / sum w over the positions of objects; e = |R_s - y|^2 where that is above |R_t - y|^2 - margin, else 0.

    R and y are distances to four sides in strides, w is the teacher's largest class probability. The positions of
    objects are those in a true box whose distances the student's bins can describe. The paper's are the positives of
    an assignment: in a box, the teacher's classes tell which positions were trained to say where it is.

    Args:
        margin: in strides squared; above 0 the student should do better than the teacher.
    """

    weight = 0.5  # the paper's nu

    def __init__(self, pair: Pair, *, margin: float = 0.0) -> None:
        super().__init__()
        self.margin = margin

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; 0 without true boxes, or where the teacher sees none."""
        inside, truth = truth_at(scene, len(student.boxes))
        bins = edges(student).shape[2]
        if bins > 1:
            inside = inside & (truth.amax(1) < bins - 1)
        mine, theirs = ((distances(view) - truth).square().sum(1) for view in (student, teacher))
        return weighted_mean(bounded(mine, theirs, self.margin), inside * confidence(teacher))


def bounded(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Errors of the student that are more than the teacher's less the margin, 0 for the others."""
    return torch.where(student + margin > teacher, student, 0)
