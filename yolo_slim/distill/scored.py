"""Mimicry weighted by how sure the teacher is of an object at a position: background has many cells and little to say.

Weights as in output distillation scaled by objectness (Mehta & Ozturk, arXiv:1805.06361), on features. Heads without
objectness have their largest class probability.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match
from yolo_slim.distill.positions import confidence_on, weighted_mean
from yolo_slim.distill.view import Pair, Scene, View, in_fp32


class Scored(nn.Module):
    """sum w (s - t)^2 / (C sum w) of each level, averaged over levels; w = the teacher's largest class probability.

    Args:
        adapter: see `Match`.
        normalize: see `Match`.
    """

    weight = 1.0

    def __init__(self, pair: Pair, *, adapter: bool | None = None, normalize: bool = True) -> None:
        super().__init__()
        self.match = Match(pair, adapter, normalize)

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; 0 where the teacher sees nothing at all."""
        errors = [
            weighted_mean(
                (s - t).square().mean(1, keepdim=True), confidence_on((t.shape[2], t.shape[3]), teacher, scene)
            )
            for s, t in self.match(student.maps, teacher.maps)
        ]
        return torch.stack(errors).mean()
