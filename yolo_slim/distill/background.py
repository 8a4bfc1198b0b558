"""Class distillation that takes background more seriously (Chen et al., NIPS 2017, 3.2).

In the paper, mistakes of background for an object weigh more. Its softmax has a class for background; sigmoids have
none: a position is background where the teacher is sure of no class. `binary` says what objects are, this one also
where there are none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.binary import check_same_classes
from yolo_slim.distill.positions import confidence, weighted_mean
from yolo_slim.distill.soften import binary_divergence, positive
from yolo_slim.distill.view import Pair, Scene, View, in_fp32


class Background(nn.Module):
    """T^2 sum w KL(teacher || student) / (K sum w) over all positions and classes.

    Args:
        temperature: T.
        background: w where the teacher sees background; 1 elsewhere.
        threshold: background is where all of the teacher's probabilities are lower.
    """

    weight = 30.0

    def __init__(
        self, pair: Pair, *, temperature: float = 1.0, background: float = 1.5, threshold: float = 0.25
    ) -> None:
        super().__init__()
        check_same_classes("background", pair)
        self.temperature = positive("background", temperature)
        self.background, self.threshold = background, threshold

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar."""
        gaps = binary_divergence(student.scores, teacher.scores, self.temperature).mean(1)  # (B, A)
        return weighted_mean(gaps, torch.where(confidence(teacher) < self.threshold, self.background, 1.0))
