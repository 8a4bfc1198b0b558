"""What removing one channel saves: scores divided by it say which channels are worth their cost."""

from __future__ import annotations

import numpy as np

from yolo_slim.channels import Costs, Trace


def savings(trace: Trace, per_cost: str) -> dict[str, float]:
    """What the first channel of each group saves, all other channels in place: group name -> amount.

    memory: positions of the maps that its producers write (Liu et al. 2021, arXiv:2108.00708, 3.3); flops: FLOPs;
    params: parameters; none: 1.
    """
    if per_cost == "none":
        return {group.name: 1.0 for group in trace.groups}
    costs = Costs(trace)
    if per_cost == "memory":
        saved = costs.positions @ costs.outputs[:, :-1]
    else:
        whole = getattr(costs.of(costs.full), per_cost)
        one_less = costs.full - np.eye(len(costs.full), dtype=int)
        saved = np.array([whole - getattr(costs.of(keeps), per_cost) for keeps in one_less])
    return {group.name: float(amount) for group, amount in zip(trace.groups, saved, strict=True)}
