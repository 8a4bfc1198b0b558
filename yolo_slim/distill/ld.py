"""Not only where an edge is, but how sure of it: localization distillation (Zheng et al., CVPR 2022, arXiv:2102.12252).

Heads with a distribution over distances (DFL) tell it. The authors' code averages over bins and sums over positions;
this sums over bins, as the divergence does, and averages over positions, so that their weight is not the one here.
"""

from __future__ import annotations

from torch import Tensor, nn

from yolo_slim.distill.positions import confidence, edges, truth_at, weighted_mean
from yolo_slim.distill.soften import divergence, positive
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.errors import SlimError


class Ld(nn.Module):
    """sum w T^2 KL(teacher || student) / sum w, averaged over four edges; w = the teacher's largest class probability.

    Args:
        temperature: T.
        valuable: weight of a second such mean over the valuable region: positions in a true box that the bins can
            describe, as far as the teacher is not sure of a class there, w = 1 - its largest probability. The paper
            finds its region by the overlap of anchors, which these heads do not have.
    """

    weight = 0.5

    def __init__(self, pair: Pair, *, temperature: float = 10.0, valuable: float = 0.0) -> None:
        super().__init__()
        theirs = pair.bins if pair.teacher_bins is None else pair.teacher_bins
        if pair.bins < 2 or theirs != pair.bins:
            raise SlimError(
                f"distillation `ld` compares distributions over distances, as many bins on both sides: the student "
                f"has {pair.bins} a distance, the teacher {theirs} (1: plain distances); take `box`"
            )
        self.temperature = positive("ld", temperature)
        self.valuable = valuable

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; 0 where the teacher sees nothing at all, and nothing is there."""
        gaps = divergence(edges(student), edges(teacher), self.temperature, 2).mean(1)  # (B, A)
        sure = confidence(teacher)
        loss = weighted_mean(gaps, sure)
        if self.valuable:
            inside, away = truth_at(scene, len(gaps))
            inside &= away.amax(1) < edges(teacher).shape[2] - 1
            loss = loss + self.valuable * weighted_mean(gaps, inside * (1 - sure))
        return loss
