"""What a unit of weights is worth: by its size, by its share of its layer, or by what its layer would say without it.

All take the weights of a layer (Co, a), zero where they are so for good, its units, and how many weights of each unit
are left (U, J); they give (U, J) scores, the lowest of which go first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Conv, Trace
from yolo_slim.channels.moments import RIDGE, Moments, damp, look
from yolo_slim.compress.patterns import Units
from yolo_slim.errors import SlimError

POINTS = 64
"""Output positions drawn in each image for a layer's covariance."""

MEMORY = 2 << 30
"""Bytes of covariances to hold at most; with fewer, images are looked at more often. One layer may take more."""


def magnitude(weight: Tensor, units: Units, alive: Tensor) -> Tensor:
    """Root of the mean square over a unit: its L2 norm, divided by the root of its size."""
    return (units.sums(weight.square()) / alive.clamp(min=1)).sqrt()


def lamp(weight: Tensor, units: Units, alive: Tensor) -> Tensor:
    """A unit's square over the squares of all that are not smaller (Lee et al., LAMP, arXiv:2010.07611, Eq. 2).

    The largest of a layer scores 1; scores of different layers compare.
    """
    squares = units.sums(weight.double().square())
    ascending, order = squares.flatten().sort(stable=True)
    larger = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(ascending)
    scores[order] = torch.where(larger > 0, ascending / larger.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return scores.reshape(squares.shape)


def chance(units: Units, weight: Tensor, seed: list[int]) -> Tensor:
    """Uniform in [0, 1)."""
    shape = len(weight) // units.rows, len(units.columns)
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def surgeon(weight: Tensor, units: Units, alive: Tensor, covariance: Tensor, worth: Tensor) -> Tensor:
    """v_o w_oS' ([A^-1]_SS)^-1 w_oS over a unit's rows o and its columns S, per weight.

    By how much the squared error of what a layer says grows if the unit goes and the rest of its row is refitted
    (Hassibi & Stork, Optimal Brain Surgeon, NIPS 1992, Eq. 5; of a layer by itself: Dong et al., arXiv:1705.07565;
    Frantar & Alistarh, SparseGPT, arXiv:2301.00774). A (a, a) is the covariance of its inputs: an intercept is refitted
    as well. v (Co,) is what an error of each output is worth, so that outputs and layers compare.
    """
    weight = weight.double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    if units.columns.shape[1] == 1:
        costs = (weight.square() / inverse.diagonal())[:, units.columns[:, 0]]
    else:
        blocks = inverse[units.columns[:, :, None], units.columns[:, None, :]]  # [J, q, q]
        w = weight[:, units.columns].permute(1, 2, 0)  # [J, q, Co]
        costs = (w * torch.linalg.solve(blocks, w)).sum(1).T
    costs = costs * worth.double()[:, None]
    return costs.reshape(-1, units.rows, costs.shape[1]).sum(1) / alive.clamp(min=1)


def curvature(weight: Tensor, units: Units, alive: Tensor, covariance: Tensor, worth: Tensor) -> Tensor:
    """`surgeon` for each square of `magnitude`: what a unit costs by its size, as long as its direction is the same.

    Of single weights, which have none, it is so for good: v_o / [A^-1]_jj.
    """
    squares = magnitude(weight.double(), units, alive).square()
    return surgeon(weight, units, alive, covariance, worth) / squares.clamp(min=torch.finfo(torch.float64).tiny)


def worth(detector: nn.Module, wiring: Trace, conv: Conv) -> Tensor:
    """(Co,): the squared gain of the batch norm behind each output, times the positions of an image.

    So errors are in units of what the next layers read, and a map counts for as much as it has places.
    """
    gain = torch.ones(len(conv.outputs))
    if conv.norm is not None:
        norm = wiring.norms[conv.norm].layer(detector)
        gain = norm.running_var.detach().float().add(norm.eps).rsqrt().cpu()
        gain = gain if norm.weight is None else gain * norm.weight.detach().float().cpu()
    return conv.positions * gain.square()


def covariances(
    detector: nn.Module, convs: Iterable[Conv], images: Iterable[Tensor], seed: int, memory: int = MEMORY
) -> Iterator[tuple[str, Tensor]]:
    """Damped covariances (a, a) of what dense convolutions read, one after another; none of those that never run.

    Args:
        detector: left alone.
        convs: of it.
        images: batches (B, C, H, W), read once for as many layers as there is memory for.
        seed: of the positions.
        memory: bytes.

    Raises:
        SlimError: there are no images, or a layer reads what is not finite.
    """
    waiting = [(conv.name, 8 * conv.layer(detector).weight[0].numel() ** 2) for conv in convs]
    while waiting:
        count = 1
        while count < len(waiting) and sum(size for _, size in waiting[: count + 1]) <= memory:
            count += 1
        found = _watched(detector, [name for name, _ in waiting[:count]], images, seed)
        waiting = waiting[count:]
        for name in [*found]:
            moments = found.pop(name)
            if not moments.finite():
                raise SlimError(
                    f"weights.criterion=obs: what {name} reads is not finite, or too large. Are the images in [0, 1], "
                    "and all weights of the detector finite?"
                )
            covariance = moments.covariance()
            damp(covariance, RIDGE)
            yield name, covariance.cpu()


def _watched(detector: nn.Module, names: list[str], images: Iterable[Tensor], seed: int) -> dict[str, Moments]:
    """One pass over the images: moments of what these convolutions read."""
    moments = {name: Moments() for name in names}
    if not look(detector, names, images, lambda name, x: moments[name].add(x, x[:, :0]), points=POINTS, seed=seed):
        raise SlimError(
            "weights.criterion=obs looks at images, and there are none: give data=, or choose criterion=magnitude or "
            "lamp, which look at the weights alone"
        )
    return {name: sums for name, sums in moments.items() if sums.n}
