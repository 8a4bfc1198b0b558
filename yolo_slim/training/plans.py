"""Plans of `compress` in files: numbers and texts alone, written whole, checked when they are read.

A file is a line that says what it is, the length of a header, the header as JSON (layers, and where each tensor lies),
the tensors one after the other, and a sum of it all. Masks take one bit a number.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from yolo_slim.compress import Plan
from yolo_slim.errors import SlimError, why
from yolo_slim.formats.writing import write_whole

MAGIC = b"yolo-slim plan 2\n"
SUM = hashlib.sha256().digest_size
LARGEST = 4 << 30
"""Bytes of a file; a mask and a codebook entry of 32 bits for each weight of the largest YOLO are a tenth of it."""
LARGEST_HEADER = 64 << 20
MOST_DIMS = 8
PLAIN = {
    **{"float64": torch.float64, "float32": torch.float32, "float16": torch.float16},
    **{"int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8},
}
"""Name -> dtype of the tensors that are kept as they are; `bool` is packed."""


def save_plan(plan: Plan, path: Path) -> Path:
    """Write a plan, whole or not at all.

    Raises:
        SlimError: the disk cannot take it.
        ValueError: it holds what is no plain value, or a tensor of a type that is none of `PLAIN`.
    """
    blobs, where = [], {}
    for name, tensor in plan.tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in PLAIN and kind != "bool":
            raise ValueError(f"{name}: expected a tensor of bool, {', '.join(PLAIN)}, got {tensor.dtype}")
        array = tensor.detach().cpu().contiguous().numpy()
        if sys.byteorder == "big":
            array = array.byteswap()
        blobs.append((np.packbits(array.reshape(-1)) if kind == "bool" else array).tobytes())
        where[name] = {"dtype": kind, "shape": list(tensor.shape)}
    said = {
        "layers": plan.layers,
        "kept": plan.kept,
        "refit": plan.refit,
        "undecided": plan.undecided,
        "tensors": where,
    }
    try:
        text = json.dumps(said, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        raise ValueError(f"a plan holds plain values alone: {e}") from e
    if json.loads(text) != said:  # tuples, or keys that are no texts
        raise ValueError("a plan holds plain values alone: lists for tuples, and texts for keys")
    header = text.encode()
    content = b"".join([MAGIC, len(header).to_bytes(8, "little"), header, *blobs])

    def dump(_: dict[str, Any], file: IO[bytes]) -> None:
        file.write(content)
        file.write(hashlib.sha256(content).digest())

    write_whole({}, path, dump)
    return path


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        SlimError: the file is missing, damaged, or none of `save_plan`.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise SlimError(f"{path} holds no plan: it is larger than {LARGEST >> 30} GB")
        content = path.read_bytes()
    except OSError as e:
        raise SlimError(f"cannot read the plan {path}: {why(e, path)}") from e
    if not content.startswith(MAGIC):
        raise SlimError(f"{path} holds no plan, or one of another version: make it again")
    body, seal = content[:-SUM], content[-SUM:]
    if hashlib.sha256(body).digest() != seal:
        raise SlimError(f"{path} is damaged: its sum is another. Copy it again, or make it again")
    try:
        return _plan_of(memoryview(body)[len(MAGIC) :])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:  # content of whatever kind
        raise SlimError(f"{path} holds no plan ({type(e).__name__}: {e})") from e


def _plan_of(body: memoryview) -> Plan:
    length = int.from_bytes(body[:8], "little")
    if length > min(len(body) - 8, LARGEST_HEADER):
        raise ValueError("its header is longer than it may be")
    said = json.loads(bytes(body[8 : 8 + length]))
    parts = {name: said[name] for name in ("layers", "kept", "refit")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError("expected names, each with what is decided")
    if not all(isinstance(decided, dict) for decided in parts["layers"].values()):
        raise ValueError("layers: expected what is decided for each")
    if not all(isinstance(text, str) for name in ("kept", "refit") for text in parts[name].values()):
        raise ValueError("kept, refit: expected a text for each layer")
    if type(undecided := said["undecided"]) is not bool:
        raise ValueError("undecided: expected true or false")
    tensors, at = {}, 8 + length
    for name, each in said["tensors"].items():
        tensors[name], at = _tensor(body, at, each["dtype"], each["shape"])
    if at != len(body):
        raise ValueError("it is longer than its tensors")
    return Plan(**parts, tensors=tensors, undecided=undecided)


def _tensor(body: memoryview, at: int, kind: str, shape: list[int]) -> tuple[Tensor, int]:
    """What begins at a place, and where it ends."""
    if len(shape) > MOST_DIMS or not all(type(n) is int and 0 <= n < LARGEST for n in shape):
        raise ValueError(f"no shape: {str(shape)[:80]}")
    count = math.prod(shape)
    size = -(-count // 8) if kind == "bool" else count * PLAIN[kind].itemsize
    if at + size > len(body):
        raise ValueError("it is shorter than its tensors")
    if kind == "bool":
        bits = np.unpackbits(np.frombuffer(body[at : at + size], np.uint8), count=count)
        return torch.from_numpy(bits.astype(bool)).reshape(shape), at + size
    array = np.frombuffer(body[at : at + size], np.dtype(kind).newbyteorder("<"))
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).reshape(shape), at + size
