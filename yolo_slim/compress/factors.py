"""Kernels (Co, Ci, kh, kw) as products of smaller ones: which ranks there are, what they keep, what they cost.

A factorisation is a chain of convolutions. `steps` says of each which axes of the old layer's stride, padding and
dilation it takes: "h", "w", "hw", or none of them "". Whitened by the second moments of what the layer reads, the
energy that a rank keeps is that of the layer's output, not of its weights.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from yolo_slim.channels.groups import Ints
from yolo_slim.channels.moments import damp

Chain: TypeAlias = list[tuple[str, Tensor]]
"""Convolutions in a row: of each the axes of stride, padding and dilation that it takes, and its weights, in fp64."""

RIDGE = 1e-3
"""Of the mean second moment, given to every direction: full rank stays exact where the images show nothing."""


class Factors(Protocol):
    """One way of factoring one kernel (Co, Ci, kh, kw)."""

    moments: ClassVar[str]  # which second moments of its input it is whitened by, see `second_moments.KINDS`
    steps: ClassVar[tuple[str, ...]]

    def __init__(self, weight: Tensor, gram: Tensor | None) -> None:
        """`weight` in fp64; `gram`: second moments of its kind, None: all inputs count alike."""

    def ranks(self, multiple: int) -> Ints:
        """All there are, (n, 1) or (n, 2): multiples, and the full ones."""

    def counts(self, ranks: Ints) -> Ints:
        """(n, steps): weights of each step; 0: the step falls away."""

    def energies(self, ranks: Ints, enough: float | None = None) -> np.ndarray:
        """(n,): shares of the energy that are kept, up to 1; `enough`: at which share it is looked at no further."""

    def chain(self, rank: Ints) -> Chain:
        """The steps of one rank, each with its weights."""


def symmetric(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of positive semi-definite matrices, the largest first, none below zero, and their vectors."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(-1).clamp(min=0), vectors.flip(-1)


def steps_of(full: int, multiple: int) -> Ints:
    """Multiples up to what is full, and that."""
    return np.unique(np.append(np.arange(multiple, full, multiple), full))


def damped(gram: Tensor) -> Tensor:
    """Second moments in which every direction has a say."""
    gram = gram.double().clone()
    damp(gram, RIDGE)
    return gram


class _Matrix:
    """W = U (U' W) with U the leading eigenvectors of W A W', A the second moments: the best of a rank for E |W x|^2.

    (Zhang et al. 2016, Accelerating very deep convolutional networks, arXiv:1505.06798, 3.1, without an intercept.) The
    energy lost is the tail of the eigenvalues; without A they are the squares of W's singular values.
    """

    def __init__(self, weight: Tensor, gram: Tensor | None) -> None:
        self.shape = tuple(weight.shape)
        self.matrix = self.view(weight)
        seen = self.matrix if gram is None else self.matrix @ damped(gram)
        self.values, self.vectors = symmetric(seen @ self.matrix.T)

    def view(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def ranks(self, multiple: int) -> Ints:
        return steps_of(min(self.matrix.shape), multiple)[:, None]

    def counts(self, ranks: Ints) -> Ints:
        return ranks * np.array([self.matrix.shape[1], self.matrix.shape[0]])

    def energies(self, ranks: Ints, enough: float | None = None) -> np.ndarray:
        kept = self.values.cumsum(0).cpu().numpy()[ranks[:, 0] - 1]
        return kept / (float(self.values.sum()) or 1.0) if kept[-1] else np.ones(len(ranks))

    def halves(self, rank: Ints) -> tuple[Tensor, Tensor]:
        """(r, inputs) and (outputs, r)."""
        u = self.vectors[:, : int(rank[0])]
        return u.T @ self.matrix, u


class Svd(_Matrix):
    """k x k to r channels, then 1 x 1: of a 1 x 1 layer, (Co x Ci) = (Co x r) (r x Ci)."""

    moments: ClassVar[str] = "patch"
    steps: ClassVar[tuple[str, ...]] = ("hw", "")

    def view(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)

    def chain(self, rank: Ints) -> Chain:
        first, last = self.halves(rank)
        return list(zip(self.steps, (first.reshape(-1, *self.shape[1:]), last[:, :, None, None]), strict=True))


class SpatialSvd(_Matrix):
    """kh x 1 to r channels, then 1 x kw (Jaderberg et al. 2014, arXiv:1405.3866): (Co kw) x (Ci kh) of rank r.

    Whitened as if the columns of a patch said nothing of one another.
    """

    moments: ClassVar[str] = "columns"
    steps: ClassVar[tuple[str, ...]] = ("h", "w")

    def view(self, weight: Tensor) -> Tensor:
        return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)

    def chain(self, rank: Ints) -> Chain:
        co, ci, kh, kw = self.shape
        first, last = self.halves(rank)
        last = last.reshape(co, kw, -1).permute(0, 2, 1)[:, :, None]
        return list(zip(self.steps, (first.reshape(-1, ci, kh, 1), last), strict=True))


class Tucker2:
    """1 x 1 to R3 channels, k x k to R4, then 1 x 1 (Kim et al. 2015, arXiv:1511.06530), by the higher-order SVD.

    The vectors of either side are orthogonal, so the energy kept is that of the core, and all pairs of ranks are read
    off one table. A side of full rank needs no layer of its own. Whitened as if the positions of a patch said nothing
    of one another.
    """

    moments: ClassVar[str] = "channels"
    steps: ClassVar[tuple[str, ...]] = ("", "hw", "")

    def __init__(self, weight: Tensor, gram: Tensor | None) -> None:
        co, ci = weight.shape[:2]
        self.shape = tuple(weight.shape)
        self.root = root_of(gram, weight)
        seen = torch.einsum("oihw,ij->ojhw", weight, self.root)
        into, out = seen.transpose(0, 1).reshape(ci, -1), seen.reshape(co, -1)
        self.into, self.out = (symmetric(side @ side.T)[1] for side in (into, out))
        self.core = torch.einsum("oihw,ia,ob->bahw", seen, self.into, self.out)
        self.weight = weight

    def ranks(self, multiple: int) -> Ints:
        r3, r4 = (steps_of(n, multiple) for n in (self.shape[1], self.shape[0]))
        return np.stack(np.meshgrid(r3, r4, indexing="ij"), -1).reshape(-1, 2)

    def counts(self, ranks: Ints) -> Ints:
        (co, ci, kh, kw), (r3, r4) = self.shape, ranks.T
        return np.stack([ci * r3 * (r3 < ci), r3 * r4 * kh * kw, r4 * co * (r4 < co)], 1)

    def energies(self, ranks: Ints, enough: float | None = None) -> np.ndarray:
        table = self.core.square().sum((2, 3)).cumsum(0).cumsum(1).cpu().numpy()  # [Co, Ci]
        return table[ranks[:, 1] - 1, ranks[:, 0] - 1] / table[-1, -1] if table[-1, -1] else np.ones(len(ranks))

    def chain(self, rank: Ints) -> Chain:
        (co, ci, _, _), (r3, r4) = self.shape, map(int, rank)
        core, first, last = self.core[:r4, :r3], unwhitened(self.into[:, :r3], self.root), self.out[:, :r4]
        if r3 == ci:
            core = torch.einsum("bahw,ai->bihw", core, first)
        if r4 == co:
            core = torch.einsum("bahw,ob->oahw", core, last)
        parts = [(r3 < ci, first[:, :, None, None]), (True, core), (r4 < co, last[:, :, None, None])]
        return [(step, part) for step, (there, part) in zip(self.steps, parts, strict=True) if there]


def root_of(gram: Tensor | None, weight: Tensor) -> Tensor:
    """L with L L' the second moments (Ci, Ci) of the input's channels; the unit matrix where they are not known."""
    if gram is None:
        return torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return torch.linalg.cholesky(damped(gram))


def unwhitened(vectors: Tensor, root: Tensor) -> Tensor:
    """(r, Ci) that make of inputs what `vectors` (Ci, r) make of whitened ones: vectors' L^-1."""
    return torch.linalg.solve_triangular(root, vectors.T, upper=False, left=False)


def balanced(chain: Chain) -> Chain:
    """The same product, where what makes a channel and what reads it have norms alike: fp16 has room for both.

    A channel that nothing makes or nothing reads is left as it is. Weights are in fp64.
    """
    weights = [weight.clone() for _, weight in chain]
    for made, read in pairwise(weights):
        into, groups = read.shape[1], len(made) // read.shape[1]
        norms = made.flatten(1).norm(dim=1), dense(read, len(made)).transpose(0, 1).flatten(1).norm(dim=1)
        scale = torch.where((norms[0] > 0) & (norms[1] > 0), (norms[1] / norms[0]).sqrt(), 1.0)
        made.mul_(scale[:, None, None, None])
        read.div_(scale.view(groups, into).repeat_interleave(len(read) // groups, 0)[:, :, None, None])
    return [(step, weight) for (step, _), weight in zip(chain, weights, strict=True)]


def product(chain: Chain, width: int) -> Tensor:
    """The kernel (Co, Ci, kh, kw) that a chain of convolutions amounts to; `width`: Ci."""
    whole = dense(chain[0][1], width)
    for _, weight in chain[1:]:
        weight = dense(weight, len(whole))
        (kh, kw), (h, w) = whole.shape[2:], weight.shape[2:]
        grown = whole.new_zeros(len(weight), width, kh + h - 1, kw + w - 1)
        for y in range(h):
            for x in range(w):
                grown[:, :, y : y + kh, x : x + kw] += torch.einsum("or,rihw->oihw", weight[:, :, y, x], whole)
        whole = grown
    return whole


def dense(weight: Tensor, width: int) -> Tensor:
    """The weights (Co, width, kh, kw) of a convolution in groups, which has (Co, width / groups, kh, kw)."""
    groups = width // weight.shape[1]
    if groups == 1:
        return weight
    whole = weight.new_zeros(len(weight), width, *weight.shape[2:])
    for into, out in zip(*(torch.arange(n).chunk(groups) for n in (width, len(weight))), strict=True):
        whole[out[:, None], into] = weight[out]
    return whole
