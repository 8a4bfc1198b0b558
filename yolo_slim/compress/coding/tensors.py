"""An array of any type and shape as few bytes."""

from __future__ import annotations

import math

import numpy as np

from yolo_slim.compress.coding import words
from yolo_slim.compress.coding.bits import Reader, damaged, number
from yolo_slim.errors import SlimError

TYPES = tuple(
    np.dtype(kind).newbyteorder("<")
    for kind in ("f2", "f4", "f8", "?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "c8", "c16")
)
"""A type's number is its place here."""
MOST_DIMENSIONS = 15
MOST = 8 << 30
"""Bytes of an array."""


def encode(array: np.ndarray) -> bytes:
    """The array with its type and shape; of one with several axes, the first is that of channels.

    Raises:
        SlimError: of a type that holds no numbers.
    """
    array = np.asarray(array)
    little = array.dtype.newbyteorder("<")
    if little not in TYPES or array.ndim > MOST_DIMENSIONS:
        raise SlimError(f"expected numbers to pack, got an array of {array.dtype} with {array.ndim} axes")
    content = np.ascontiguousarray(array, dtype=little)
    head = bytes([TYPES.index(little) << 4 | array.ndim]) + b"".join(map(number, array.shape))
    return head + words.encode(content.reshape(-1).view(_word(little)).reshape(_shape(array.shape, little)))


def decode(data: bytes | memoryview, most: int = MOST) -> np.ndarray:
    """The array that `encode` was given, bit for bit.

    Args:
        data: all of it.
        most: bytes that the array may have; more are refused before any of them is made.

    Raises:
        SlimError: these bytes were not written so.
    """
    reader = Reader(data)
    kind, axes = divmod(reader.byte(), 16)
    if kind >= len(TYPES):
        raise damaged(f"numbers of kind {kind}")
    dtype, shape = TYPES[kind], tuple(reader.number() for _ in range(axes))
    if math.prod(shape) * dtype.itemsize > most or max(shape, default=0) > most:
        raise damaged(f"an array of shape {shape}, where {most:,} bytes are expected at most")
    found = words.decode(reader, _shape(shape, dtype), _word(dtype))
    reader.end()
    return np.ascontiguousarray(found).reshape(-1).view(dtype).reshape(shape)


def _word(dtype: np.dtype) -> np.dtype:
    """The patterns of such numbers."""
    return np.dtype(f"<u{min(dtype.itemsize, 8)}")


def _shape(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """Rows and columns of the patterns."""
    rows = shape[0] if len(shape) > 1 and all(shape) else 1
    return rows, math.prod(shape) // rows * max(dtype.itemsize // 8, 1)
