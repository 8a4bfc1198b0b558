"""Where the non-zeros of a sparse array are: a bit for every place, or the steps from one to the next.

The steps are those of Deep Compression (Han et al., ICLR 2016, arXiv:1510.00149, 2): so many zeros, then a non-zero,
in a fixed number of bits. A step that is too long for them takes fillers: the largest number stands for as many zeros
with nothing behind them. The paper spends a stored zero on each as well, which this saves.
"""

from __future__ import annotations

import numpy as np

from yolo_slim.compress.coding import symbols
from yolo_slim.compress.coding.bits import Reader, damaged, number, packed

WIDTHS = range(1, 17)
"""Bits of a step that are tried."""
BYTE = 8


def encode(there: np.ndarray) -> bytes:
    """Places (N,) of bool in the smaller of the ways; how many they are is not told."""
    at = np.flatnonzero(there)
    best = min(WIDTHS, key=lambda width: symbols_of(at, width) * width)
    steps = [bytes([width]) + _coded(relative(at, width), width) for width in {best, BYTE}]
    return min([b"\0" + packed(there, 1), *steps], key=len)


def _coded(steps: np.ndarray, width: int) -> bytes:
    return number(len(steps)) + symbols.encode(steps, 1 << width)


def decode(reader: Reader, count: int) -> np.ndarray:
    """Which of `count` places hold something: bool (count,).

    Raises:
        SlimError: these bytes were not written so.
    """
    if (width := reader.byte()) == 0:
        return reader.numbers(count, 1).astype(bool)
    if width not in WIDTHS:
        raise damaged(f"steps of {width} bits")
    at = absolute(symbols.decode(reader, reader.number(), 1 << width), width)
    if len(at) and at[-1] >= count:
        raise damaged(f"place {at[-1]} of {count}")
    there = np.zeros(count, bool)
    there[at] = True
    return there


def symbols_of(at: np.ndarray, width: int) -> int:
    """How many numbers of so many bits `relative` makes of rising places."""
    return int((_zeros(at) // _filler(width)).sum()) + len(at)


def relative(at: np.ndarray, width: int) -> np.ndarray:
    """Steps (M,) of rising places (N,), with fillers: 0 .. 2^width - 2 zeros before each, 2^width - 1 without one."""
    zeros, most = _zeros(at), _filler(width)
    fillers = zeros // most
    steps = np.full(int(fillers.sum()) + len(at), most, np.int64)
    steps[np.cumsum(fillers + 1) - 1] = zeros % most
    return steps


def absolute(steps: np.ndarray, width: int) -> np.ndarray:
    """The places (N,) that `relative` was given."""
    ends = steps != _filler(width)
    return (np.cumsum(steps + ends) - 1)[ends]


def _zeros(at: np.ndarray) -> np.ndarray:
    return np.diff(at, prepend=-1) - 1


def _filler(width: int) -> int:
    return (1 << width) - 1
