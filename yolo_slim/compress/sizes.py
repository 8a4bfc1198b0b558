"""What a detector's weights take as a file, layer by layer, in each of the ways there are; nothing is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
from torch import Tensor, nn

from yolo_slim.compress.coding import encode, positions
from yolo_slim.compress.coding.bits import width_of

REST = "norms and biases"
MOST_VALUES = 256
"""Of a layer that counts as clustered: more make no table worth its entries."""


@dataclass(frozen=True)
class Size:
    """Bytes of one layer's weights, with all that has to be stored beside them."""

    layer: str
    fp32: int
    fp16: int
    int8: int  # and a scale in fp16 for each output channel
    sparse: int  # fp16 of what is not zero, and where that is: a bitmap or steps, whichever is less
    clustered: int | None  # numbers of a fixed width, and a table in fp16; None: too many values
    coded: int  # the smallest lossless coding of what is stored, with all tables: what `pack` writes


def sizes(detector: nn.Module) -> list[Size]:
    """A row for each layer's weights, and one for all that has one axis: it is stored in fp16 in all but the first and
    the last of the ways."""
    rows, rest = [], []
    shared: set[int] = set()
    for name, tensor in (*detector.named_parameters(), *detector.named_buffers()):
        if id(tensor) in shared or not tensor.numel():
            continue
        shared.add(id(tensor))
        if tensor.ndim > 1 and name.endswith(".weight"):
            rows.append(_of_weights(name.removesuffix(".weight"), _stored(tensor)))
        else:
            rest.append(_stored(tensor))
    return [*rows, _of_rest(rest)] if rest else rows


def total(rows: Iterable[Size]) -> Size:
    """All rows as one; a layer that is not clustered counts as fp16, where others are."""
    rows = list(rows)
    none = all(row.clustered is None for row in rows if row.layer != REST)
    sums = {each.name: sum(getattr(row, each.name) or row.fp16 for row in rows) for each in fields(Size)[1:]}
    whole = Size("total", **sums)
    return replace(whole, clustered=None) if none else whole


def _stored(tensor: Tensor) -> np.ndarray:
    """As a checkpoint has it."""
    tensor = tensor.detach()
    return (tensor.half() if tensor.is_floating_point() else tensor).numpy(force=True)


def _of_weights(layer: str, weights: np.ndarray) -> Size:
    there = weights.reshape(-1) != 0
    return Size(
        layer,
        fp32=4 * weights.size,
        fp16=2 * weights.size,
        int8=weights.size + 2 * len(weights),
        sparse=2 * int(there.sum()) + len(positions.encode(there)),
        clustered=_clustered(weights),
        coded=len(encode(weights)),
    )


def _clustered(weights: np.ndarray) -> int | None:
    values = len(np.unique(weights.view(np.uint16)))
    if values > min(MOST_VALUES, weights.size // 2):
        return None
    return -(-weights.size * width_of(values - 1) // 8) + 2 * values


def _of_rest(tensors: list[np.ndarray]) -> Size:
    stored = sum(tensor.nbytes for tensor in tensors)
    wide = sum(tensor.nbytes * (2 if tensor.dtype == np.float16 else 1) for tensor in tensors)
    return Size(REST, wide, stored, stored, stored, stored, sum(len(encode(tensor)) for tensor in tensors))
