"""Hints: the student's maps, through an adapter, should be the teacher's (FitNets, arXiv:1412.6550, 2.2).

The paper's half squared norm is taken here as a mean over elements, so that a weight means the same at any size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match
from yolo_slim.distill.view import Pair, Scene, View, in_fp32


class Hint(nn.Module):
    """Mean squared error between maps, averaged over levels.

    Args:
        adapter: see `Match`.
        normalize: see `Match`.
    """

    weight = 1.0
    maps_alone = True

    def __init__(self, pair: Pair, *, adapter: bool | None = None, normalize: bool = False) -> None:
        super().__init__()
        self.match = Match(pair, adapter, normalize)

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar."""
        return torch.stack([(s - t).square().mean() for s, t in self.match(student.maps, teacher.maps)]).mean()
