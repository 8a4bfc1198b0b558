"""The flow from map to map: inner products of channels of one with channels of the next (FSP, Yim et al., CVPR 2017).

The paper sums over the entries of the product; here it is their mean, so that a weight means the same at any width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.errors import SlimError


class Fsp(nn.Module):
    """Mean over entries of (Gs - Gt)^2, averaged over pairs of consecutive maps.

    Args:
        adapter: see `Match`.
        normalize: see `Match`.
    """

    weight = 1.0
    maps_alone = True

    def __init__(self, pair: Pair, *, adapter: bool | None = None, normalize: bool = True) -> None:
        super().__init__()
        if len(pair.student) < 2:
            raise SlimError(
                f"distillation `fsp` compares a map with the next, {len(pair.student)} came; name two layers or more"
            )
        self.match = Match(pair, adapter, normalize)

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar."""
        maps = self.match(student.maps, teacher.maps)
        flows = [(flow(s1, s2), flow(t1, t2)) for (s1, t1), (s2, t2) in pairwise(maps)]
        return torch.stack([(s - t).square().mean() for s, t in flows]).mean()


def flow(one: Tensor, two: Tensor) -> Tensor:
    """G = sum over positions of one_i * two_j / (H W), (B, C1, C2); the larger map is max-pooled to the smaller."""
    hw = (min(one.shape[2], two.shape[2]), min(one.shape[3], two.shape[3]))
    one, two = (nn.functional.adaptive_max_pool2d(x, hw).flatten(2) for x in (one, two))
    return one @ two.mT / (hw[0] * hw[1])
