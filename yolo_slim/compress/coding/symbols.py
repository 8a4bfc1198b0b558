"""Symbols of a small alphabet: a fixed number of bits each, or Huffman codes where these are fewer bytes."""

from __future__ import annotations

import numpy as np

from yolo_slim.compress.coding import huffman
from yolo_slim.compress.coding.bits import Reader, damaged, packed, width_of

MOST = 1 << huffman.LONGEST
"""Symbols of an alphabet."""
FIXED, HUFFMAN = 0, 1


def encode(ids: np.ndarray, alphabet: int) -> bytes:
    """Symbols (N,) of 0 .. alphabet - 1; neither number is told."""
    fixed = bytes([FIXED]) + packed(ids, width_of(alphabet - 1))
    coded = bytes([HUFFMAN]) + huffman.encode(ids, alphabet)
    return min(fixed, coded, key=len)


def decode(reader: Reader, count: int, alphabet: int) -> np.ndarray:
    """The symbols, int64 (count,), each below `alphabet`.

    Raises:
        SlimError: these bytes were not written so.
    """
    if not 1 <= alphabet <= MOST:
        raise damaged(f"an alphabet of {alphabet}")
    if (way := reader.byte()) == HUFFMAN:
        return huffman.decode(reader, count, alphabet)
    if way != FIXED:
        raise damaged(f"symbols of kind {way}")
    ids = reader.numbers(count, width_of(alphabet - 1)).astype(np.int64)
    if len(ids) and ids.max() >= alphabet:
        raise damaged(f"symbol {ids.max()} of {alphabet}")
    return ids
