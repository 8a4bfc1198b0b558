"""From a part of its own map, the student rebuilds the teacher's (MGD, Yang et al., ECCV 2022, arXiv:2205.01529).

The paper sums squared errors, with 2e-5 as the weight; here it is their mean, so that a weight means the same at any
size: 2e-5 is 2e-5 * C * H * W, about 8 for 256 channels on 40 x 40 cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.errors import SlimError


class Mgd(nn.Module):
    """Mean squared error between the generator's map and the teacher's, averaged over levels.

    Args:
        adapter: see `Match`.
        normalize: see `Match`.
        masked: share of positions that the generator does not see; others are drawn for each batch.
    """

    weight = 10.0
    maps_alone = True

    def __init__(
        self, pair: Pair, *, adapter: bool | None = None, normalize: bool = True, masked: float = 0.65
    ) -> None:
        super().__init__()
        if not 0 <= masked <= 1:
            raise SlimError(f"distillation `mgd`: masked should be a share from 0 to 1, {masked} came; 0.65 is usual")
        self.masked = masked
        self.match = Match(pair, adapter, normalize)
        self.generators = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1))
            for c in self.match.widths
        )

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; not 0 where both agree, as the generator has to guess."""
        errors = []
        for generator, (s, t) in zip(self.generators, self.match(student.maps, teacher.maps), strict=True):
            seen = torch.rand_like(s[:, :1]) >= self.masked
            errors.append((generator(s * seen) - t).square().mean())
        return torch.stack(errors).mean()
