"""Attention transfer: where the energy of a map lies (Zagoruyko & Komodakis, ICLR 2017, arXiv:1612.03928, 3.1).

Any number of channels makes one map of attention, so that there is nothing to adapt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Beside
from yolo_slim.distill.view import Pair, Scene, View, in_fp32


class Attention(nn.Module):
    """Mean over positions of (Qs - Qt)^2, averaged over levels; Q = the mean of squares over channels, of norm 1.

    The authors' weight of 1000 belongs to a mean over positions, as each Q^2 is a share of 1. A student that was cut
    is compared with its own channels in the teacher.
    """

    weight = 1000.0
    maps_alone = True

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.beside = Beside(pair)

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar."""
        pairs = self.beside(student.maps, teacher.maps)
        return torch.stack([(attention(s) - attention(t)).square().mean() for s, t in pairs]).mean()


def attention(features: Tensor) -> Tensor:
    """Of maps (B, C, H, W), one vector of norm 1 an image, (B, H*W); zeros where the map is nothing but zeros."""
    return nn.functional.normalize(features.square().mean(1).flatten(1), eps=1e-6)
