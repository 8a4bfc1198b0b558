"""Which weights go: units in order of their scores, as many as are wanted, and none of a layer's last ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_slim.compress.patterns import Units, runs

NEVER = float("inf")
"""On the way of a weight that stays."""


@dataclass(frozen=True)
class Layer:
    """A convolution's weights as a choice sees them."""

    units: Units
    scores: Tensor  # (U, J), the lowest goes first
    alive: Tensor  # (U, J), how many weights of each unit are not zero for good

    @property
    def weights(self) -> int:
        """How many it has."""
        return self.units.rows * len(self.scores) * self.units.columns.numel()


def choose(layers: Mapping[str, Layer], sparsity: float) -> dict[str, Tensor]:
    """The way of each weight, (Co, a), if this share of all is to be zero, units compared over all of these layers.

    The way is the share of the weights that go that have gone once this one has: the mask of any moment follows from
    it, and the masks of all moments are nested. 0: zero from the beginning; `NEVER`: stays. Zeros are as many as
    wanted, rounded down: less by what is left before the first unit that is too large, and where nothing but the
    dearest unit of each layer is left, which always stays. Of equal scores, the first in the detector goes.
    """
    names = list(layers)
    alive = torch.cat([layers[name].alive.flatten() for name in names])
    wanted = int(sparsity * sum(layer.weights for layer in layers.values()) + 1e-9)
    wanted -= sum(layers[name].weights - int(layers[name].alive.sum()) for name in names)
    order = torch.cat([layers[name].scores.flatten() for name in names]).argsort(stable=True)
    free = alive > 0
    free[_dearest([layers[name] for name in names])] = False
    order = order[free[order]]
    gone = alive[order].cumsum(0)
    return _ways(layers, order[gone <= wanted], gone[gone <= wanted])


def _dearest(layers: list[Layer]) -> list[int]:
    """Of each layer that is not empty, the last unit to go, as a place among all units."""
    found, start = [], 0
    for layer in layers:
        there = layer.alive.flatten() > 0
        if there.any():
            scores = layer.scores.flatten().masked_fill(~there, -NEVER)
            found.append(start + int(torch.nonzero(there & (scores == scores.max()))[-1]))
        start += layer.scores.numel()
    return found


def choose_of_m(layers: Mapping[str, Layer], shapes: Mapping[str, torch.Size], n: int, m: int) -> dict[str, Tensor]:
    """The same, if of `m` consecutive input channels, at each output and position, the `n` of the highest scores stay.

    Args:
        layers: in single weights; all compared with one another in the order in which they go.
        shapes: of the weights.
        n, m: of the pattern.
    """
    going = []
    for name, layer in layers.items():
        sets = runs(shapes[name][1], shapes[name][2:].numel(), m)
        blocks = layer.scores.masked_fill(layer.alive == 0, -NEVER)[:, sets]  # [Co, J, M]
        goes = torch.zeros_like(blocks, dtype=torch.bool)
        goes.scatter_(2, blocks.argsort(dim=2, stable=True)[:, :, : m - n], True)
        flat = torch.zeros_like(layer.alive, dtype=torch.bool)
        flat[:, sets.flatten()] = goes.flatten(1)
        going.append((flat & (layer.alive > 0)).flatten())
    order = torch.cat([layer.scores.flatten() for layer in layers.values()]).argsort(stable=True)
    order = order[torch.cat(going)[order]]
    return _ways(layers, order, torch.arange(1, len(order) + 1))


def _ways(layers: Mapping[str, Layer], going: Tensor, gone: Tensor) -> dict[str, Tensor]:
    """Of units, as places among all of them in the order they go, and how many weights have gone with each."""
    way = torch.cat([torch.where(layer.alive > 0, NEVER, 0.0).flatten() for layer in layers.values()])
    if len(gone):
        way[going] = (gone.double() / int(gone[-1])).float()
    found, start = {}, 0
    for name, layer in layers.items():
        count = layer.scores.numel()
        found[name] = layer.units.spread(way[start : start + count].reshape(layer.scores.shape))
        start += count
    return found
