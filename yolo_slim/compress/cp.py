"""A kernel as a sum of rank-one terms: 1 x 1, then kh x 1 and 1 x kw of each channel alone, then 1 x 1.

(Lebedev et al. 2014, arXiv:1412.6553.) Alternating least squares from a start that is exact at full rank; no draw.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from yolo_slim.channels.groups import Ints
from yolo_slim.compress.factors import Chain, root_of, steps_of, symmetric, unwhitened

SWEEPS = 40
ENOUGH = 1e-4
"""Of the energy: a sweep that gains less is the last."""
NEAR = 1e-7
"""Pull of a step towards where it stands, against the mean of its normal equations: terms that cancel do not grow."""
MOST = 6
"""Ranks that are tried of a layer."""


class Cp:
    """W[o, i, y, x] = sum over r of out[o, r] in[i, r] down[y, r] across[x, r], whitened as `Tucker2` is."""

    moments: ClassVar[str] = "channels"
    steps: ClassVar[tuple[str, ...]] = ("", "h", "w", "")

    def __init__(self, weight: Tensor, gram: Tensor | None) -> None:
        self.shape = tuple(weight.shape)
        self.root = root_of(gram, weight)
        self.weight = torch.einsum("oihw,ij->ojhw", weight, self.root)
        self.found: dict[int, list[Tensor]] = {}

    def ranks(self, multiple: int) -> Ints:
        """Up to what makes every term of the start: k x k times the narrower side."""
        co, ci, kh, kw = self.shape
        return steps_of(min(co, ci) * kh * kw, multiple)[:, None]

    def counts(self, ranks: Ints) -> Ints:
        co, ci, kh, kw = self.shape
        return ranks * np.array([ci, kh, kw, co])

    def energies(self, ranks: Ints, enough: float | None = None) -> np.ndarray:
        """Of some ranks, since each is a problem of its own; any other counts as the next of these below, at first 0.

        Where it is known what is enough: of the lowest rank that keeps it, found by bisection.
        """
        whole = float(self.weight.square().sum())
        if not whole:
            return np.ones(len(ranks))
        if enough is None:
            tried = np.unique(np.linspace(0, len(ranks) - 1, min(MOST, len(ranks))).round().astype(int)).tolist()
        else:
            tried = [self._lowest(ranks, enough, whole)]
        kept = np.zeros(len(ranks))
        for i in tried:
            gap = self.weight - torch.einsum("or,ir,hr,wr->oihw", *self.terms(int(ranks[i, 0])))
            kept[i:] = max(kept[i], 1 - float(gap.square().sum()) / whole)
        return kept

    def _lowest(self, ranks: Ints, enough: float, whole: float) -> int:
        """Which rank is the first that keeps enough; the last, where none does."""
        low, high = 0, len(ranks) - 1
        while low < high:
            middle = (low + high) // 2
            _, error = alternate(self.weight, start(self.weight, int(ranks[middle, 0])), (1 - enough) * whole)
            low, high = (low, middle) if error <= (1 - enough) * whole else (middle + 1, high)
        return low

    def terms(self, rank: int) -> list[Tensor]:
        """(Co, r), (Ci, r), (kh, r), (kw, r)."""
        if rank not in self.found:
            self.found[rank] = alternate(self.weight, start(self.weight, rank))[0]
        return self.found[rank]

    def chain(self, rank: Ints) -> Chain:
        out, into, down, across = self.terms(int(rank[0]))
        parts = (
            unwhitened(into, self.root)[:, :, None, None],
            down.T[:, None, :, None],
            across.T[:, None, None, :],
            out[:, :, None, None],
        )
        return list(zip(self.steps, parts, strict=True))


def start(weight: Tensor, rank: int) -> list[Tensor]:
    """The `rank` strongest terms of the SVDs of all slices (Co, Ci), once the two short axes are rotated to their own.

    Exact with all of them. Terms beyond those that there are, are zero.
    """
    ups = [symmetric(side @ side.T)[1] for side in (weight.permute(d, 0, 1, 5 - d).flatten(1) for d in (2, 3))]
    slices = torch.einsum("oihw,ha,wb->aboi", weight, *ups)
    u, s, vh = torch.linalg.svd(slices.flatten(0, 1), full_matrices=False)  # [kh kw, ...]
    best = s.flatten().argsort(descending=True, stable=True)[:rank]
    at, term = best // s.shape[1], best % s.shape[1]
    y, x = at // weight.shape[3], at % weight.shape[3]
    size = s[at, term] ** 0.25
    parts = [u[at, :, term].T, vh[at, term].T, ups[0][:, y], ups[1][:, x]]
    short = rank - len(best)
    return [torch.nn.functional.pad(part * size, (0, short)) for part in parts]


def alternate(weight: Tensor, parts: list[Tensor], enough: float = 0.0) -> tuple[list[Tensor], float]:
    """Each factor in turn by least squares, the others held, so that the error never rises; and that error, squared.

    Args:
        weight: (Co, Ci, kh, kw).
        parts: what it begins with, as `start` gives it.
        enough: no sweep more, once the error is as small.
    """
    out, into, down, across = parts
    (co, ci), hw = weight.shape[:2], weight.shape[2:]
    by_in, by_out = weight.permute(1, 2, 3, 0).reshape(-1, co), weight.permute(0, 2, 3, 1).reshape(-1, ci)
    whole = last = float(weight.square().sum())
    for _ in range(SWEEPS):
        both = (down[:, None] * across).flatten(0, 1)  # [kh kw, r]
        right = ((by_in @ out).view(ci, *both.shape) * both).sum(1)
        into = _solved(right, (out, down, across), into)
        half = (by_out @ into).view(co, *both.shape)
        out = _solved((half * both).sum(1), (into, down, across), out)
        rest = (half * out[:, None]).sum(0).unflatten(0, hw)  # [kh, kw, r]
        down = _solved((rest * across).sum(1), (into, out, across), down)
        right = (rest * down[:, None]).sum(0)
        across = _solved(right, (into, out, down), across)
        # |W - X|^2 = |W|^2 - 2 <W, X> + |X|^2, all from what is small.
        norm = torch.stack([part.T @ part for part in (out, into, down, across)]).prod(0).sum()
        error = float(whole - 2 * (right * across).sum() + norm)
        if error <= enough or last - error < ENOUGH * whole:
            break
        last = error
    return [out, into, down, across], error


def _solved(right: Tensor, others: tuple[Tensor, ...], now: Tensor) -> Tensor:
    """X of least |W - X KR(others)'|^2 + near |X - now|^2, where `right` is W KR(others)."""
    normal = torch.stack([other.T @ other for other in others]).prod(0)
    near = NEAR * normal.diagonal().mean().clamp(min=1e-30)
    normal = normal + near * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    return torch.linalg.solve(normal, (right + near * now).T).T
