"""Ranking: seen from any object, the others should be near in the teacher's order (DarkRank, Chen et al., AAAI 2018,
arXiv:1707.01220).

The paper ranks the images of a batch; a detector's batch has objects: the true boxes, cut out of each map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Beside
from yolo_slim.distill.positions import TINY
from yolo_slim.distill.rois import pool, true_rois
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.distill.workers import over_workers


class DarkRank(nn.Module):
    """-log P(the teacher's order | student), the hard form, averaged over objects as the one that looks.

    An object's embedding is the mean of each map over its box, side by side, of norm 1; its score for another one is
    -alpha * distance^beta. Distances stay within a detector, so that there is nothing to adapt. Of several workers,
    each ranks the objects of its own images.

    Args:
        alpha: of the score.
        beta: of the score.
        length: places of the order that count, from the nearest on; all others compete for them.
    """

    weight = 0.1
    maps_alone = True

    def __init__(self, pair: Pair, *, alpha: float = 3.0, beta: float = 3.0, length: int = 4) -> None:
        super().__init__()
        self.beside = Beside(pair)
        self.alpha, self.beta, self.length = alpha, beta, length

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; 0 with fewer than 3 true boxes, which have one order. Not 0 where both agree, unless surely."""
        pairs = self.beside(student.maps, teacher.maps)
        rois = true_rois(scene)
        pooled = [[pool(m, rois, scene).mean((2, 3)) for m in maps] for maps in zip(*pairs, strict=True)]
        s, t = (self._scores(torch.cat(parts, 1)) for parts in pooled)
        number = over_workers(rois.new_tensor(len(rois)))
        return unlikelihood(s, t, self.length).sum() / number.clamp(min=TINY)

    def _scores(self, embeddings: Tensor) -> Tensor:
        """Of each object (N, C) for each other one, (N, N - 1)."""
        unit = nn.functional.normalize(embeddings, eps=TINY)
        n = len(unit)
        others = torch.arange(max(n - 1, 0), device=unit.device).repeat(n, 1)
        others = others + (others >= torch.arange(n, device=unit.device)[:, None])
        squares = (2 - 2 * unit @ unit.mT).gather(1, others)
        return -self.alpha * squares.clamp(min=TINY) ** (self.beta / 2)


def unlikelihood(student: Tensor, teacher: Tensor, length: int) -> Tensor:
    """-log of the probability that a draw by the student's scores (N, M) begins in the order of the teacher's, (N,)."""
    ordered = student.gather(1, teacher.argsort(dim=1, descending=True, stable=True))
    rest = ordered.flip(1).logcumsumexp(1).flip(1)  # of this place and all behind it
    return (rest - ordered)[:, :length].sum(1)
