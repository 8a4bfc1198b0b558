"""A channel should rise and fall with the teacher's, at any scale (PKD, Cao et al., NeurIPS 2022, arXiv:2207.02039).

Half the squared error of standardised channels is 1 - r, with r Pearson's correlation, if the standard deviation is
the biased one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.distill.workers import over_workers, shared


class Pkd(nn.Module):
    """1 - r of each channel over images and positions, averaged over channels, then over levels.

    The paper has no adapter where channels are as many: `adapter: false`.

    Args:
        adapter: see `Match`.
    """

    weight = 1.0
    maps_alone = True

    def __init__(self, pair: Pair, *, adapter: bool | None = None) -> None:
        super().__init__()
        self.match = Match(pair, adapter, normalize=False)

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar in [0, 2]."""
        return torch.stack([(1 - _correlation(s, t)).mean() for s, t in self.match(student.maps, teacher.maps)]).mean()


def _correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson's r of each channel, (C,): 0 where the student's is constant, 1 where the teacher's is."""
    s, t = (x.transpose(0, 1).flatten(1) for x in (student, teacher))  # (C, B*H*W)
    # Of all workers' images. Means are constants here: deviations from a mean do not pull at it, as they sum to 0.
    mean_s, mean_t = over_workers(torch.stack([s.mean(1), t.mean(1)]))
    s, t = s - mean_s[:, None], t - mean_t[:, None]
    var_s, var_t, covariance = shared(torch.stack([s.square().mean(1), t.square().mean(1), (s * t).mean(1)]))
    varies_s, varies_t = _varies(var_s, mean_s), _varies(var_t, mean_t)
    # A constant channel has no direction to be told: it gets a value, and no gradient, which would be 1 / 0.
    both = varies_s & varies_t
    r = covariance * torch.where(both, var_s, 1).rsqrt() * torch.where(both, var_t, 1).rsqrt()
    return torch.where(both, r, torch.where(varies_t, 0.0, 1.0))


def _varies(variance: Tensor, mean: Tensor) -> Tensor:
    """Whether a channel is more than a constant in half precision."""
    return variance > 1e-6 * mean.square() + 1e-12
