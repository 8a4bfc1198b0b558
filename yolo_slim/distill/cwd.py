"""Where a channel looks, as a distribution over positions (CWD, Shu et al., ICCV 2021, arXiv:2011.13256)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match
from yolo_slim.distill.soften import divergence, positive
from yolo_slim.distill.view import Pair, Scene, View, in_fp32


class Cwd(nn.Module):
    """T^2 / C sum over channels of KL(softmax(t / T) || softmax(s / T)) over positions, averaged over levels.

    A shift of a channel changes nothing, a scale does.

    Args:
        adapter: see `Match`.
        temperature: T.
    """

    weight = 1.0
    maps_alone = True

    def __init__(self, pair: Pair, *, adapter: bool | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        self.match = Match(pair, adapter, normalize=False)
        self.temperature = positive("cwd", temperature)

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar."""
        gaps = [
            divergence(s.flatten(2), t.flatten(2), self.temperature, 2).mean()
            for s, t in self.match(student.maps, teacher.maps)
        ]
        return torch.stack(gaps).mean()
