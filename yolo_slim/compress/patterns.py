"""Which weights of a convolution go together: the units of a pattern.

A unit is some outputs times some columns of the weights, written (Co, a) as `weight.flatten(1)`: a column is one input
channel at one position of the kernel. Granularities after Mao et al., arXiv:1705.08922; shapes after Wen et al.,
arXiv:1608.03665; stripes after Meng et al., arXiv:2009.14410; N of M after Mishra et al., arXiv:2104.08378.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

PATTERNS = ("unstructured", "kernel", "vector", "shape", "stripe", "block:RxC", "N:M")


@dataclass(frozen=True)
class Units:
    """The units of one convolution: U = Co / rows groups of outputs times J sets of columns."""

    rows: int  # outputs in a unit
    columns: Tensor  # (J, q): the columns of each set

    @property
    def size(self) -> int:
        """Weights of a unit."""
        return self.rows * self.columns.shape[1]

    def sums(self, values: Tensor) -> Tensor:
        """(U, J) sums over the units of what each weight has, (Co, a)."""
        sets = values[:, self.columns.flatten()].reshape(len(values), *self.columns.shape).sum(2)
        return sets.reshape(-1, self.rows, sets.shape[1]).sum(1)

    def spread(self, values: Tensor) -> Tensor:
        """(Co, a): what its unit has, (U, J), for each weight."""
        rows = values.repeat_interleave(self.rows, 0)
        out = torch.empty(len(rows), self.columns.numel(), dtype=values.dtype)
        out[:, self.columns.flatten()] = rows.repeat_interleave(self.columns.shape[1], 1)
        return out


def units(pattern: str, shape: torch.Size) -> Units | str:
    """Those of a weight (Co, Ci, kh, kw), or why it has none: words that go on from its name.

    Args:
        pattern: kernel is `W[o,c,:,:]`, vector a row of it `W[o,c,m,:]`, stripe `W[o,:,m,k]`, shape `W[:,c,m,k]`,
            block:RxC R outputs times C inputs at one position of the kernel; of N:M, the single weights.
        shape: of the weight; Ci is that of one group.
    """
    outputs, inputs, height, width = shape
    columns = torch.arange(inputs * height * width).reshape(inputs, height, width)
    if of := n_of_m(pattern):
        if inputs % of[1]:
            return f"reads {inputs} channels, which {of[1]} does not divide"
        return Units(1, columns.reshape(-1, 1))
    if size := block(pattern):
        rows, deep = size
        if outputs % rows or inputs % deep:
            return f"has {outputs} x {inputs} channels, which blocks of {rows} x {deep} do not fill"
        sets = columns.reshape(inputs // deep, deep, height, width).permute(0, 2, 3, 1)
        return Units(rows, sets.reshape(-1, deep))
    if pattern == "stripe":
        if height * width == 1:
            return "has kernels of 1x1: a stripe of these is a whole filter"
        return Units(1, columns.permute(1, 2, 0).reshape(-1, inputs))
    rows = outputs if pattern == "shape" else 1
    wide = {"kernel": height * width, "vector": width}.get(pattern, 1)
    return Units(rows, columns.reshape(-1, wide))


def runs(inputs: int, kernel: int, m: int) -> Tensor:
    """(J, M): the columns of `m` consecutive input channels at each position of a kernel of `kernel` weights."""
    columns = torch.arange(inputs * kernel).reshape(inputs // m, m, kernel)
    return columns.transpose(1, 2).reshape(-1, m)


def n_of_m(pattern: str) -> tuple[int, int] | None:
    """(N, M) of "N:M": N of M consecutive weights stay; None: another pattern."""
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", pattern)
    return (int(found[1]), int(found[2])) if found else None


def block(pattern: str) -> tuple[int, int] | None:
    """(R, C) of "block:RxC"; None: another pattern."""
    found = re.fullmatch(r"block:(\d{1,4})x(\d{1,4})", pattern)
    return (int(found[1]), int(found[2])) if found else None


def check(pattern: str) -> None:
    """Nothing, where it is a pattern.

    Raises:
        ValueError: it is none.
    """
    of, size = n_of_m(pattern), block(pattern)
    if of:
        known = 0 < of[0] < of[1]
    elif size:
        known = min(size) > 0
    else:
        known = pattern in PATTERNS[:-2]
    if not known:
        raise ValueError(f"pattern: expected one of {', '.join(PATTERNS)} (as 2:4, block:1x8), got {pattern!r}")
