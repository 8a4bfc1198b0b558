"""Mimicry where boxes are: features of the same boxes should be alike (Li, Jin, Yan, CVPR 2017).

The paper's boxes are the proposals of a second stage. A detector of one stage has none: true boxes and those that
the teacher is sure of stand for them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match
from yolo_slim.distill.positions import TINY
from yolo_slim.distill.rois import confident_rois, home, pool, true_rois
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.distill.workers import over_workers


class Region(nn.Module):
    """1 / (2 N) sum over N boxes of the mean squared error of their features.

    A box is pooled on one map, the one whose stride fits its size.

    Args:
        adapter: see `Match`.
        normalize: see `Match`.
        confidence: the teacher's boxes with more than this probability take part; 1: true boxes alone.
        overlap: IoU beyond which the teacher's less sure box of a class goes.
    """

    weight = 3.0

    def __init__(
        self,
        pair: Pair,
        *,
        adapter: bool | None = None,
        normalize: bool = True,
        confidence: float = 0.3,
        overlap: float = 0.5,
    ) -> None:
        super().__init__()
        self.match = Match(pair, adapter, normalize)
        self.confidence, self.overlap = confidence, overlap

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; 0 without boxes."""
        rois = torch.cat([true_rois(scene), confident_rois(teacher, scene, self.confidence, self.overlap)])
        homes = home(rois, teacher.maps, scene)
        errors = []
        for i, (s, t) in enumerate(self.match(student.maps, teacher.maps)):
            mine = rois[homes == i]
            errors.append((pool(s, mine, scene) - pool(t, mine, scene)).square().mean((1, 2, 3)).sum())
        number = over_workers(rois.new_tensor(len(rois)))
        return torch.stack(errors).sum() / (2 * number.clamp(min=TINY))
