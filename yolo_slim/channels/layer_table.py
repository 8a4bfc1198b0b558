"""What a detector of any widths takes, from what its layers took in a few detectors of other widths.

A convolution of i inputs and o outputs takes a + b i + c o + d i o, with widths rounded up to the block that the
runtime works in, and more of each where a width is no multiple of what the runtime's fast kernels ask for. The terms
are fitted layer by layer, none below zero. Whatever else runs (concatenation, pooling, the head's decoding) is told
from the widths that convolutions make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from yolo_slim.channels.costs import Costs
from yolo_slim.channels.groups import Trace

BLOCKS = (1, 4, 8, 16, 32)
"""Widths of a runtime's blocks that a fit tries."""

ALIGNMENTS = (1, 4, 8, 16)
"""Multiples that a runtime's fast kernels may ask for; 1: it takes any width."""

REST = ""
"""The name of what no convolution accounts for."""


@dataclass(frozen=True)
class LayerTable:
    """Costs of layers, in the unit of the samples they were fitted to."""

    block: int
    align: int
    layers: Mapping[str, tuple[float, ...]]  # convolution -> terms of `_terms`
    rest: tuple[float, ...]  # terms of `_between`

    def __repr__(self) -> str:
        return f"<LayerTable: {len(self.layers)} convolutions, blocks of {self.block}>"

    def many(self, costs: Costs, keeps: np.ndarray) -> np.ndarray:
        """Of M plans at once: (M, groups) widths -> (M,)."""
        into, out = costs.shapes(keeps)
        own = self._each(costs, into, out).sum(1)
        return own + _between(out, costs.positions, self.align) @ np.array(self.rest)

    def by_layer(self, costs: Costs, keeps: np.ndarray) -> dict[str, float]:
        """Of one plan, convolution by convolution."""
        each = self._each(costs, *costs.shapes(keeps[None]))[0]
        return dict(zip(costs.names, each.tolist(), strict=True))

    def _each(self, costs: Costs, into: np.ndarray, out: np.ndarray) -> np.ndarray:
        """(M, convolutions); a layer that the table does not know costs nothing."""
        terms = _terms(into, out, self.block, self.align)
        known = np.array([self.layers.get(name, (0.0,) * terms.shape[-1]) for name in costs.names])
        return (terms * known).sum(-1)


def fit_layers(trace: Trace, keeps: np.ndarray, samples: Sequence[Mapping[str, float]]) -> LayerTable:
    """The table that tells the samples best.

    Args:
        trace: of the whole detector.
        keeps: (M, groups) widths of the detectors that were measured; the first is the whole detector.
        samples: of each of them, convolution -> cost; under REST, of everything else.
    """
    costs = Costs(trace)
    into, out = costs.shapes(keeps)
    seen = np.array([[sample.get(name, 0.0) for name in [*costs.names, REST]] for sample in samples])  # [M, convs + 1]
    share = 1 / np.maximum(seen.sum(1, keepdims=True), 1e-12)  # errors count as shares of a detector's time
    share[0] *= len(samples) ** 0.5  # every share is one of the first, the whole detector's
    best, least = None, np.inf
    for block, align in product(BLOCKS, ALIGNMENTS):
        terms = _terms(into, out, block, align) * share[..., None]
        fits = [_fitted(terms[:, j], (seen * share)[:, j]) for j in range(len(costs.names))]
        rest, miss = _fitted(_between(out, costs.positions, align) * share, (seen * share)[:, -1])
        misses = sum(m for _, m in fits) + miss
        if misses < least - 1e-9 * np.square(seen * share).sum():  # where two fit alike, the simpler
            layers = {name: tuple(found.tolist()) for name, (found, _) in zip(costs.names, fits, strict=True)}
            best, least = LayerTable(block, align, layers, tuple(rest.tolist())), misses
    assert best is not None
    return best


def _terms(into: np.ndarray, out: np.ndarray, block: int, align: int) -> np.ndarray:
    """(..., 7): 1, i, o and i o in blocks, and the last three again where a width is not aligned."""
    i, o = (np.ceil(w / block - 1e-9) * block for w in (into, out))
    off_i, off_o = (np.rint(w) % align != 0 for w in (into, out))
    return np.stack([np.ones_like(i), i, o, i * o, off_i * i, off_o * o, (off_i | off_o) * i * o], axis=-1)


def _between(out: np.ndarray, positions: np.ndarray, align: int) -> np.ndarray:
    """(M, 3): 1, all elements that convolutions make, and those of widths that are not aligned."""
    off = np.rint(out) % align != 0
    return np.stack([np.ones(len(out)), out @ positions, (out * off) @ positions], axis=-1)


def _fitted(terms: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of terms (M, T), none below zero, for samples (M,), and the squared error that they leave."""
    scale = np.maximum(terms.max(0), 1e-12)
    from scipy.optimize import nnls  # only now: most commands measure no layers

    found, miss = nnls(terms / scale, seen)
    return found / scale, float(miss**2)
