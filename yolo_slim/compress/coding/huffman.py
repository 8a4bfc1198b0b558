"""Huffman codes (Huffman, 1952) in their canonical form, of which the lengths say everything.

Codes have 16 bits at most: among those the lengths are the best ones (package-merge, Larmore and Hirschberg, 1990),
and without that bound they are Huffman's. Symbols are written in chunks whose ends are known, so that all chunks are
decoded side by side: a step of the loop reads one symbol of each.
"""

from __future__ import annotations

import numpy as np

from yolo_slim.compress.coding.bits import Reader, damaged, packed, width_of

LONGEST = 16
"""Bits of a code."""
CHUNK = 1024
"""Symbols between two ends that are known: two bytes each, a sixtieth of a bit a symbol."""
AT_ONCE = 1 << 18
"""Symbols whose bits are laid out at a time."""


def lengths(counts: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """Bits of each symbol's code, uint8 (K,): those with the fewest bits in all; a symbol alone has one.

    Args:
        counts: (K,), how often each symbol stands there; one that never does has no code, and length 0.
        longest: bits that a code may have.
    """
    there = np.flatnonzero(counts)
    out = np.zeros(len(counts), np.uint8)
    if len(there) < 2:
        out[there] = 1
        return out
    if len(there) > 1 << longest:
        raise ValueError(f"expected at most {1 << longest} symbols for codes of {longest} bits, got {len(there)}")
    order = there[np.argsort(counts[there], kind="stable")]
    leaves = counts[order].astype(np.int64)
    levels: list[np.ndarray] = []
    weights = leaves
    for _ in range(longest):
        pairs = weights[: len(weights) // 2 * 2].reshape(-1, 2).sum(1) if levels else leaves[:0]
        weights = np.concatenate((leaves, pairs))
        sorted_ = np.argsort(weights, kind="stable")
        levels.append(sorted_ < len(leaves))
        weights = weights[sorted_]
    taken = 2 * len(leaves) - 2
    for is_leaf in reversed(levels):
        alone = int(is_leaf[:taken].sum())
        out[order[:alone]] += 1
        taken = 2 * (taken - alone)
    return out


def codes(bits: np.ndarray) -> np.ndarray:
    """The canonical code of each symbol, uint32 (K,), of their lengths (K,): by length, then by symbol."""
    order = np.argsort(bits, kind="stable")
    order = order[bits[order] > 0]
    spans = 1 << (LONGEST - bits[order].astype(np.int64))  # of all codes of the longest kind, how many begin so
    out = np.zeros(len(bits), np.uint32)
    out[order] = (np.cumsum(spans) - spans) >> (LONGEST - bits[order].astype(np.int64))
    return out


def encode(ids: np.ndarray, symbols: int) -> bytes:
    """Symbols (N,) of 0 .. symbols - 1: the lengths of the codes, the chunks' sizes in bits, and all codes."""
    bits = lengths(np.bincount(ids, minlength=symbols))
    table, of_each = codes(bits), bits[ids]
    starts = np.arange(0, len(ids), CHUNK)
    sizes = np.add.reduceat(of_each, starts, dtype=np.int64) if len(ids) else starts
    pieces = [slice(at, at + AT_ONCE) for at in range(0, len(ids), AT_ONCE)]
    laid = [_laid(table[ids[piece]], of_each[piece].astype(np.int64)) for piece in pieces]
    widths = width_of(int(bits.max(initial=0))), width_of(int(sizes.max(initial=0)))
    payload = np.packbits(np.concatenate(laid)).tobytes() if laid else b""
    return bytes(widths) + packed(bits, widths[0]) + packed(sizes, widths[1]) + payload


def _laid(code: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Codes one after the other, a bit a number."""
    ends = np.cumsum(bits)
    back = (np.repeat(ends, bits) - 1 - np.arange(ends[-1])).astype(np.uint32)  # bits of the code that follow
    return (np.repeat(code, bits) >> back & 1).astype(np.uint8)


def decode(reader: Reader, count: int, symbols: int) -> np.ndarray:
    """The symbols that `encode` was given, int64 (count,).

    Raises:
        SlimError: these bytes were not written so.
    """
    widths = reader.byte(), reader.byte()
    bits = reader.numbers(symbols, widths[0])
    sizes = reader.numbers(-(-count // CHUNK), widths[1]).astype(np.int64)
    total = int(sizes.sum())
    if not count <= total <= 8 * reader.left:
        raise damaged(f"{count} symbols in {total} bits, of which {8 * reader.left} are left")
    if not count:
        return np.empty(0, np.int64)
    by_prefix, of_prefix = _table(bits)
    payload = np.frombuffer(reader.take(-(-total // 8)), np.uint8)
    padded = np.concatenate((payload, np.zeros(3, np.uint8))).astype(np.uint32)
    windows = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]  # 24 bits from each byte on
    ends, out = np.cumsum(sizes), np.zeros((len(sizes), CHUNK), np.int64)
    at, last = ends - sizes, count - CHUNK * (len(sizes) - 1)  # symbols of the last chunk
    for step in range(min(CHUNK, count)):
        lanes = len(sizes) - (step >= last)
        here = np.minimum(at[:lanes], total)
        prefix = windows[here >> 3] >> (8 - (here & 7)) & 0xFFFF
        out[:lanes, step] = by_prefix[prefix]
        at[:lanes] += of_prefix[prefix]
    if (at != ends).any():
        raise damaged("a chunk of codes does not end where it should")
    return out.reshape(-1)[:count]


def _table(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of any `LONGEST` bits the symbol that they begin with, and how many of them are its code."""
    order = np.argsort(bits, kind="stable")
    order = order[bits[order] > 0]
    if not len(order) or bits.max() > LONGEST:
        raise damaged("its codes have no length")
    if len(order) == 1:  # its code is 0, and nothing begins with 1
        return np.full(1 << LONGEST, order[0]), np.full(1 << LONGEST, bits[order[0]], np.int64)
    spans = 1 << (LONGEST - bits[order].astype(np.int64))
    if spans.sum() != 1 << LONGEST:
        raise damaged("its codes are no code")
    return np.repeat(order, spans), np.repeat(bits[order].astype(np.int64), spans)
