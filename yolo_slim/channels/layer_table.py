"""What a detector of any widths takes, from what its layers took in a few detectors of other widths.

A convolution of i inputs and o outputs takes a + b i + c o + d i o, with widths rounded up to the block that the
runtime works in. The terms are fitted layer by layer, none below zero, so that no layer gets cheaper with width;
whatever else runs (concatenation, pooling, the head's decoding) is told from the widths that convolutions make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from yolo_slim.channels.costs import Costs
from yolo_slim.channels.groups import Trace

BLOCKS = (1, 4, 8, 16, 32)
"""Widths of a runtime's blocks that a fit tries."""

RUNTIME = ""
"""The name of what no convolution accounts for."""


@dataclass(frozen=True)
class LayerTable:
    """Costs of layers, in the unit of the samples they were fitted to."""

    block: int
    layers: Mapping[str, tuple[float, float, float, float]]  # convolution -> terms of 1, i, o, i * o
    rest: tuple[float, float]  # terms of 1, and of all elements that convolutions make

    def over(self, costs: Costs) -> np.ndarray:
        """(convolutions of the trace, 4) terms; a layer that the table does not know costs nothing."""
        return np.array([self.layers.get(name, (0.0,) * 4) for name in costs.names]).reshape(-1, 4)

    def many(self, costs: Costs, keeps: np.ndarray) -> np.ndarray:
        """Of M plans at once: (M, groups) widths -> (M,)."""
        shapes = costs.shapes(keeps)
        elements = shapes[1] @ costs.positions
        return (_terms(*shapes, self.block) * self.over(costs)).sum((1, 2)) + self.rest[0] + self.rest[1] * elements

    def by_layer(self, costs: Costs, keeps: np.ndarray) -> dict[str, float]:
        """Of one plan, convolution by convolution."""
        each = (_terms(*costs.shapes(keeps[None]), self.block)[0] * self.over(costs)).sum(1)
        return dict(zip(costs.names, each.tolist(), strict=True))


def _terms(into: np.ndarray, out: np.ndarray, block: int) -> np.ndarray:
    """(..., 4) of widths in blocks."""
    i, o = (np.ceil(w / block - 1e-9) * block for w in (into, out))
    return np.stack([np.ones_like(i), i, o, i * o], axis=-1)


def fit_layers(trace: Trace, keeps: np.ndarray, samples: Sequence[Mapping[str, float]]) -> LayerTable:
    """The table that tells the samples best.

    Args:
        trace: of the whole detector.
        keeps: (M, groups) widths of the detectors that were measured.
        samples: of each of them, convolution -> cost; under RUNTIME, of everything else.
    """
    costs = Costs(trace)
    into, out = costs.shapes(keeps)
    seen = np.array([[sample.get(name, 0.0) for name in costs.names] for sample in samples])  # [M, convs]
    tables = [_fitted(_terms(into, out, block), seen) for block in BLOCKS]
    best = int(np.argmin([misses for _, misses in tables]))
    elements = out @ costs.positions
    other = np.array([sample.get(RUNTIME, 0.0) for sample in samples])
    rest, _ = nnls(np.stack([np.ones_like(elements), elements / elements.max()], axis=1), other)
    layers = {name: tuple(map(float, row)) for name, row in zip(costs.names, tables[best][0], strict=True)}
    return LayerTable(BLOCKS[best], layers, (float(rest[0]), float(rest[1] / elements.max())))


def _fitted(terms: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, float]:
    """(convs, 4) terms for samples (M, convs) of features (M, convs, 4), and by how much they miss in all."""
    scale = np.maximum(terms.max(0), 1e-12)  # [convs, 4]
    found = [nnls(terms[:, j] / scale[j], seen[:, j]) for j in range(seen.shape[1])]
    return np.array([x for x, _ in found]).reshape(-1, 4) / scale, float(np.sum([miss**2 for _, miss in found]))
