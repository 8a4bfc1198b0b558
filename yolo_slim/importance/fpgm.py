"""How near a filter is to the others of its layer (He et al., FPGM, CVPR 2019, arXiv:1811.00250, 3.4).

The filter nearest to the geometric median is the one that the others replace best, and goes first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace
from yolo_slim.importance.combine import Rows, scored
from yolo_slim.importance.evidence import Evidence
from yolo_slim.importance.magnitude import of_filters


@scored(normalize="mean")
def fpgm(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """sum_j ||F_i - F_j||_2 over the filters of a layer (Eq. 4).

    One row a group: the sum over its producers, each divided by its own mean, so that all weigh alike; times the mean
    of those means, which leaves a single producer its distances. A producer whose filters are all the same says
    nothing. With `evidence.mix_norm` s, of the first channels to go in a layer the share s goes by L2 norm instead: the
    paper's FPGM-mix (30 % by distance and 10 % by norm) is s = 0.25 at a ratio of 0.4.
    """
    found = of_filters(detector, trace, evidence, lambda filters: _mixed(filters.double(), evidence.mix_norm))
    for name, rows in found.items():
        means = rows.mean(1, keepdims=True)
        found[name] = (rows / np.where(means > 0, means, 1)).sum(0, keepdims=True) * means.mean()
    return found


def _mixed(filters: Tensor, share: float) -> Tensor:
    distances = torch.cdist(filters, filters).sum(1)
    if not share:
        return distances
    turns = [iter(scores.argsort(stable=True).tolist()) for scores in (distances, filters.norm(dim=1))]
    goes: dict[int, None] = {}  # filters in the order they go
    for step in range(len(filters)):
        by_norm = int(share * (step + 1) + 1e-9) > int(share * step + 1e-9)
        goes[next(i for i in turns[by_norm] if i not in goes)] = None
    # The order is the mixture's, the values are the distances': the k-th to go gets the k-th smallest.
    mixed = torch.empty_like(distances)
    mixed[list(goes)] = distances.sort().values
    return mixed
