"""Least squares in which some weights stay zero: each row of a layer is solved on what is left of it."""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_slim.channels.moments import Moments


@torch.no_grad()
def fit_on(moments: Moments, weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (Co, a) that are zero outside a mask, and intercept (Co,), as near as such can be to `Moments.fit`.

    Args:
        moments: of what the layer reads (a) against what it is to give (Co).
        weight: (Co, a), where it starts and stays as far as the samples do not say otherwise.
        mask: (Co, a) bool.
    """
    mask = mask.to(weight.device)
    weights = weight.double() * mask
    equations, pull = moments.normal(weights)  # (a, a), (a, Co)
    free: tuple[Tensor, Tensor] | None = None
    supports, of_row = torch.unique(mask, dim=0, return_inverse=True)
    for number, on in enumerate(supports):  # one solution for all rows that keep the same
        rows = of_row == number
        here, right = pull[:, rows], torch.zeros_like(pull[:, rows])
        if 2 * int(on.sum()) <= len(on):
            right[on] = _solved(equations[on][:, on], here[on])
        else:  # little goes: from the solution without a mask, by Optimal Brain Surgeon's correction
            free = free or _free(equations, pull)
            inverse, best = free[0], free[1][:, rows]
            right = best - inverse[:, ~on] @ _solved(inverse[~on][:, ~on], best[~on])
            right[~on] = 0
        weights[rows] += right.T
    return weights, moments.intercept(weights)


def fit_groups(moments: Moments, weight: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights (Co, a / groups) and intercept (Co,) of a layer in groups, each of which reads inputs of its own.

    Args:
        moments: of all that the layer reads (a) against what it is to give (Co).
        weight: (Co, a / groups), where it starts.
        mask: like it, bool: what is not zero for good; None: all of it.
    """
    groups = len(moments.x) // weight.shape[1]
    mask = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.to(weight.device)
    own, on = (torch.block_diag(*each.chunk(groups)).bool() for each in (torch.ones_like(mask), mask))  # (Co, a)
    fitted, intercept = fit_on(moments, torch.block_diag(*weight.chunk(groups)), on)
    return fitted[own].view(weight.shape), intercept


def _free(equations: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Their inverse, and their solution."""
    inverse = torch.linalg.inv(equations)
    return inverse, torch.linalg.solve(equations, pull)


def _solved(equations: Tensor, right: Tensor) -> Tensor:
    """Of symmetric equations."""
    factor, failed = torch.linalg.cholesky_ex(equations)
    return torch.linalg.solve(equations, right) if failed else torch.cholesky_solve(right, factor)
