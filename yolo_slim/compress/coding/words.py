"""An array's bit patterns in the smallest of several ways, without loss: a byte says which, and each may hold another.

Patterns, not numbers: NaN, infinities and -0.0 come back as they were, and 0 is the pattern of zeros alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from yolo_slim.compress.coding import positions, symbols
from yolo_slim.compress.coding.bits import Reader, damaged, number, packed, width_of

DEEPEST = 6
"""Ways within ways."""
MOST_DISTINCT = 1 << 12
"""Entries of a codebook; Huffman's code for bytes in planes does better with more."""
BITS = range(4, 9)
"""Of whole numbers on a grid."""
RARE = 1 / 16
"""Share of zeros below which their places cost more than they save."""
DOWN = {np.dtype(np.uint64): (np.float64, np.float32), np.dtype(np.uint32): (np.float32, np.float16)}
"""Patterns -> the numbers that they may be, and those of half the size that may hold the same."""


@dataclass(frozen=True)
class Way:
    """One way to write patterns (R, N) of unsigned numbers; R is 1 where rows mean nothing."""

    encode: Callable[[np.ndarray], bytes | None]
    """None: they cannot be written so, or not smaller."""
    decode: Callable[[Reader, tuple[int, int], np.dtype, int], np.ndarray]
    """Of what shape, type and depth."""


def encode(words: np.ndarray, ways: str = "") -> bytes:
    """Patterns (R, N) of uint8, 16, 32 or 64; only in these ways, where they are named."""
    found = ((name, way.encode(words)) for name, way in WAYS.items() if name in (ways or NAMES))
    return min((name.encode() + data for name, data in found if data is not None), key=len)


def decode(reader: Reader, shape: tuple[int, int], dtype: np.dtype, depth: int = 0) -> np.ndarray:
    """The patterns that `encode` was given. Whoever calls it has made sure that such an array may be made.

    Raises:
        SlimError: these bytes were not written so.
    """
    name = chr(reader.byte())
    if name not in WAYS or depth > DEEPEST:
        raise damaged(f"way {name!a}")
    return WAYS[name].decode(reader, shape, dtype, depth + 1).reshape(shape)


def _row(words: np.ndarray) -> np.ndarray:
    return words.reshape(1, -1)


def _raw(words: np.ndarray) -> bytes:
    return words.tobytes()


def _read_raw(reader: Reader, shape: tuple[int, int], dtype: np.dtype, depth: int) -> np.ndarray:
    return np.frombuffer(reader.take(shape[0] * shape[1] * dtype.itemsize), dtype).copy()


def _narrow(words: np.ndarray) -> bytes | None:
    """Numbers that half the bits hold as they are."""
    if words.dtype not in DOWN or not words.size:
        return None
    wide, narrow = DOWN[words.dtype]
    with np.errstate(all="ignore"):
        less = words.view(wide).astype(narrow)
        if not np.array_equal(less.astype(wide).view(words.dtype), words):
            return None
    return encode(less.view(f"u{less.itemsize}"))


def _read_narrow(reader: Reader, shape: tuple[int, int], dtype: np.dtype, depth: int) -> np.ndarray:
    if dtype not in DOWN:
        raise damaged(f"half of {dtype}")
    wide, narrow = DOWN[dtype]
    less = decode(reader, shape, np.dtype(f"u{dtype.itemsize // 2}"), depth)
    with np.errstate(all="ignore"):
        return less.view(narrow).astype(wide).view(dtype)


def _range(words: np.ndarray) -> bytes | None:
    """Whole numbers in as few bits as their differences to the least take."""
    if not words.size:
        return None
    least = int(words.min())
    width = width_of(int(words.max()) - least)
    if width > 32 or width >= 8 * words.itemsize:
        return None
    return number(least) + bytes([width]) + packed((words - words.dtype.type(least)).reshape(-1), width)


def _read_range(reader: Reader, shape: tuple[int, int], dtype: np.dtype, depth: int) -> np.ndarray:
    least, width = reader.number(), reader.byte()
    if least >= 1 << 8 * dtype.itemsize or width > 8 * dtype.itemsize:
        raise damaged("a number that is too large")
    return reader.numbers(shape[0] * shape[1], width).astype(dtype) + dtype.type(least)


def _book(words: np.ndarray) -> bytes | None:
    """A codebook of the distinct patterns, and of each its place in there."""
    flat = words.reshape(-1)
    if words.itemsize <= 2:
        distinct = np.flatnonzero(np.bincount(flat, minlength=1)).astype(words.dtype)
    else:
        distinct = np.unique(flat)
    if not 0 < len(distinct) <= min(MOST_DISTINCT, max(len(flat) // 2, 1)):
        return None
    ids = np.searchsorted(distinct, flat)
    return number(len(distinct)) + distinct.tobytes() + symbols.encode(ids, len(distinct))


def _read_book(reader: Reader, shape: tuple[int, int], dtype: np.dtype, depth: int) -> np.ndarray:
    entries = reader.number()
    book = np.frombuffer(reader.take(entries * dtype.itemsize), dtype)
    return book[symbols.decode(reader, shape[0] * shape[1], entries)]


def _sparse(words: np.ndarray) -> bytes | None:
    """Where there is something else than 0, and what."""
    there = words.reshape(-1) != 0
    if words.size - there.sum() <= RARE * words.size:
        return None
    left = _row(words.reshape(-1)[there])
    return positions.encode(there) + encode(left, "rbnip")


def _read_sparse(reader: Reader, shape: tuple[int, int], dtype: np.dtype, depth: int) -> np.ndarray:
    there = positions.decode(reader, shape[0] * shape[1])
    out = np.zeros(len(there), dtype)
    out[there] = decode(reader, (1, int(there.sum())), dtype, depth)[0]
    return out


def _planes(words: np.ndarray) -> bytes | None:
    """The first bytes of all, then the second ones, ...: those with a number's sign and size are alike."""
    if words.itemsize == 1 or not words.size:
        return None
    planes = words.reshape(-1, 1).view(np.uint8).T
    return b"".join(encode(np.ascontiguousarray(_row(plane)), "rb") for plane in planes)


def _read_planes(reader: Reader, shape: tuple[int, int], dtype: np.dtype, depth: int) -> np.ndarray:
    flat = 1, shape[0] * shape[1]
    planes = [decode(reader, flat, np.dtype(np.uint8), depth)[0] for _ in range(dtype.itemsize)]
    return np.ascontiguousarray(np.stack(planes, axis=1)).view(dtype)


def _grid(words: np.ndarray) -> bytes | None:
    """fp16 on a symmetric grid for each row: whole numbers of few bits times a scale in fp32, rounded."""
    if words.dtype != np.uint16 or words.shape[1] < 2 or not len(words):
        return None
    for most in ((1 << bits - 1) - 1 for bits in BITS):
        if _steps(words[:1], most) is None:  # nor have the others such a grid, as a rule
            continue
        if (found := _steps(words, most)) is not None:
            steps, scales = found
            return encode(scales.view(np.uint32), "rbp") + encode(_unsigned(steps), "rbsi")
    return None


def _steps(words: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Whole numbers (R, N) up to `most` and scales (R, 1) of which `_on_grid` makes these words; None: there are none.

    Each number says between which two scales it must lie to be rounded to what it is; that of a row is in all of them.
    """
    sizes = np.abs(words.view(np.float16))
    if not np.isfinite(sizes).all():
        return None
    tops = sizes.max(1, keepdims=True).astype(np.float32)
    whole = np.rint(sizes / np.where(tops, tops / most, 1))
    with np.errstate(all="ignore"):
        below, above = (np.nextafter(sizes, np.float16(end)).astype(np.float64) for end in (-np.inf, np.inf))
        least = np.where(whole, (sizes + below) / 2 / whole, 0).max(1, keepdims=True)
        largest = np.where(whole, (sizes + above) / 2 / whole, np.inf).min(1, keepdims=True)
        scales = np.where(np.isfinite(largest), (least + largest) / 2, least).astype(np.float32)
    steps = np.where(words >> 15, -whole, whole)
    return (steps, scales) if np.array_equal(_on_grid(steps, scales), words) else None


def _unsigned(steps: np.ndarray) -> np.ndarray:
    """0, 1, -1, 2, -2, ... as 0, 1, 2, 3, 4, ...: of b bits as well, and 0 stays 0."""
    return (2 * np.abs(steps) - (steps > 0)).astype(np.uint8)


def _signed(numbers: np.ndarray) -> np.ndarray:
    """What `_unsigned` was given."""
    half = (numbers.astype(np.int16) + 1) // 2
    return np.where(numbers & 1, half, -half)


def _on_grid(steps: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What is stored of whole numbers (R, N) and scales (R, 1): fp16, as its patterns. `+ 0` makes -0 a 0."""
    with np.errstate(all="ignore"):
        return (steps.astype(np.float32) * scales + np.float32(0)).astype(np.float16).view(np.uint16)


def _read_grid(reader: Reader, shape: tuple[int, int], dtype: np.dtype, depth: int) -> np.ndarray:
    if dtype != np.uint16:
        raise damaged(f"a grid of {dtype}")
    scales = decode(reader, (shape[0], 1), np.dtype(np.uint32), depth).view(np.float32)
    return _on_grid(_signed(decode(reader, shape, np.dtype(np.uint8), depth)), scales)


WAYS = {
    "r": Way(_raw, _read_raw),
    "n": Way(_narrow, _read_narrow),
    "i": Way(_range, _read_range),
    "b": Way(_book, _read_book),
    "s": Way(_sparse, _read_sparse),
    "p": Way(_planes, _read_planes),
    "g": Way(_grid, _read_grid),
}
"""Byte that stands before it -> way."""
NAMES = "".join(WAYS)
