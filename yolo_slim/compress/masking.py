"""Which weights go: units in order of their scores, as many as are wanted, and none of a layer's last ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_slim.compress.patterns import Units, runs


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
    """Which weights stay, (Co, a) bool, if this share of all is to be zero, units compared over all of these layers.

    Zeros are as many as wanted, rounded down: less by what is left before the first unit that is too large, and where
    nothing but the dearest unit of each layer is left, which always stays. Of equal scores, the first in the detector
    goes. What is zero for good stays so.
    """
    alive = torch.cat([layer.alive.flatten() for layer in layers.values()])
    free = alive > 0
    free[_dearest(list(layers.values()))] = False
    order = _scores(layers).argsort(stable=True)
    order = order[free[order]]
    return _without(layers, order[alive[order].cumsum(0) <= _wanted(layers, sparsity)])


def _scores(layers: Mapping[str, Layer]) -> Tensor:
    """Of all units, one layer after another."""
    return torch.cat([layer.scores.flatten() for layer in layers.values()])


def _wanted(layers: Mapping[str, Layer], sparsity: float) -> int:
    """How many weights have to go, beside those that have gone."""
    total = sum(layer.weights for layer in layers.values())
    gone = total - sum(int(layer.alive.sum()) for layer in layers.values())
    return max(int(sparsity * total + 1e-9) - gone, 0)


def _dearest(layers: list[Layer]) -> list[int]:
    """Of each layer that is not empty, the last unit to go, as a place among all units."""
    found, start = [], 0
    for layer in layers:
        there = layer.alive.flatten() > 0
        if there.any():
            scores = layer.scores.flatten().masked_fill(~there, -torch.inf)
            found.append(start + int(torch.nonzero(there & (scores == scores.max()))[-1]))
        start += layer.scores.numel()
    return found


def choose_of_m(
    layers: Mapping[str, Layer], shapes: Mapping[str, torch.Size], n: int, m: int, sparsity: float = 1.0
) -> dict[str, Tensor]:
    """The same, if of `m` consecutive input channels, at each output and position, the `n` of the highest scores stay.

    Args:
        layers: in single weights.
        shapes: of the weights.
        n, m: of the pattern.
        sparsity: share of all weights that may be zero yet: of those that go, the lowest scores go first.
    """
    going = []
    for name, layer in layers.items():
        sets = runs(shapes[name][1], shapes[name][2:].numel(), m)
        blocks = layer.scores.masked_fill(layer.alive == 0, -torch.inf)[:, sets]  # [Co, J, M]
        goes = torch.zeros_like(blocks, dtype=torch.bool)
        goes.scatter_(2, blocks.argsort(dim=2, stable=True)[:, :, : m - n], True)
        flat = torch.zeros_like(layer.alive, dtype=torch.bool)
        flat[:, sets.flatten()] = goes.flatten(1)
        going.append((flat & (layer.alive > 0)).flatten())
    order = _scores(layers).argsort(stable=True)
    order = order[torch.cat(going)[order]]
    return _without(layers, order[: _wanted(layers, sparsity)])


def _without(layers: Mapping[str, Layer], going: Tensor) -> dict[str, Tensor]:
    """What stays, (Co, a) bool of each layer, if units go: places among all of them."""
    stays = torch.cat([(layer.alive > 0).flatten() for layer in layers.values()])
    stays[going] = False
    parts = stays.split([layer.alive.numel() for layer in layers.values()])
    return {
        name: layer.units.spread(part.reshape(layer.alive.shape))
        for (name, layer), part in zip(layers.items(), parts, strict=True)
    }
