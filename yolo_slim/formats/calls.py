"""What the pickle in a checkpoint may call, and with what: anything else is refused before it is called."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from yolo_slim.errors import SlimError
from yolo_slim.formats.names import NAMESPACES, PATHS, SCALARS

DEVICE = re.compile(r"(cpu|cuda|mps|xpu|npu|meta)(:\d{1,3})?")
NUMBERS = {"b1": 1, "i1": 1, "i2": 2, "i4": 4, "i8": 8, "u1": 1, "u2": 2, "u4": 4, "u8": 8, "f2": 2, "f4": 4, "f8": 8}
"""Bytes of NumPy's kinds of numbers."""
DTYPE_STATES = [(3, order, None, None, None, -1, -1, 0) for order in "<|"]
MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class Named:
    """A class or a function that the pickle names."""

    name: str


@dataclass(frozen=True)
class Stored:
    """The storage under a key, as numbers of a kind."""

    key: str
    kind: str
    count: int


@dataclass
class Made:
    """What a call or a class has come to: of what name, and what was put into it since."""

    name: str
    detail: Any = None
    content: dict[Any, Any] = field(default_factory=dict)
    filled: bool = False


def called(name: str, args: tuple[Any, ...]) -> Made:
    """What a call comes to.

    Raises:
        SlimError: no checkpoint calls this, or not so.
    """
    check = CALLS.get(name)
    if check is None:
        raise SlimError(f"calls {name}, which no detector's checkpoint does: refused, since loading it would run that")
    try:
        fits, detail = check(*args)
    except (TypeError, ValueError, AttributeError):
        fits, detail = False, None
    if not fits:
        raise SlimError(f"calls {name} with what no checkpoint gives it: refused")
    return Made(name, detail)


def _ordered() -> tuple[bool, Any]:
    return True, None


def _set(items: list[Any]) -> tuple[bool, Any]:
    return type(items) is list and all(type(item) in (str, int) for item in items), None


def _whole(numbers: Any) -> bool:
    """A tuple of integers from 0 on."""
    return type(numbers) is tuple and all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)


def _size(numbers: Any) -> tuple[bool, Any]:
    return _whole(numbers) and len(numbers) <= MOST_DIMENSIONS, None


def _tensor(storage: Stored, offset: int, size: Any, stride: Any, grad: bool, hooks: Made) -> tuple[bool, int]:
    """Every number of a tensor lies in its storage, and none is there more often than it is stored."""
    whole = _whole((offset,)) and _whole(size) and _whole(stride) and len(size) == len(stride) <= MOST_DIMENSIONS
    if not whole or type(storage) is not Stored or type(grad) is not bool or not _no_hooks(hooks):
        return False, 0
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
    return last < storage.count and count <= storage.count, count


def _parameter(tensor: Made, grad: bool, hooks: Made) -> tuple[bool, Any]:
    return type(tensor) is Made and tensor.name == TENSOR and type(grad) is bool and _no_hooks(hooks), None


def _no_hooks(hooks: Any) -> bool:
    return type(hooks) is Made and hooks.name == ORDERED and not hooks.content and not hooks.filled


def _device(kind: str, index: int = 0) -> tuple[bool, Any]:
    return DEVICE.fullmatch(kind) is not None and type(index) is int and 0 <= index < 1000, None


def _encode(text: str, codec: str) -> tuple[bool, int]:
    """A few bytes: a NumPy number's."""
    return type(text) is str and codec == "latin1" and len(text) <= 16, len(text)


def _dtype(kind: str, align: bool, copy: bool) -> tuple[bool, str]:
    return kind in NUMBERS and type(align) in (bool, int) and type(copy) in (bool, int), kind


def _scalar(dtype: Made, content: Made) -> tuple[bool, Any]:
    kinds = (type(dtype) is Made and dtype.name, type(content) is Made and content.name)
    return kinds == ("numpy.dtype", ENCODE) and NUMBERS[dtype.detail] == content.detail, None


def _path(*parts: str) -> tuple[bool, Any]:
    return all(type(part) is str for part in parts), None


ORDERED, TENSOR, ENCODE = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "_codecs.encode"

CALLS: Mapping[str, Callable[..., tuple[bool, Any]]] = {
    ORDERED: _ordered,
    "builtins.set": _set,
    "torch.Size": _size,
    "torch.device": _device,
    TENSOR: _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    ENCODE: _encode,
    "numpy.dtype": _dtype,
    **dict.fromkeys(SCALARS, _scalar),
    **dict.fromkeys(NAMESPACES, _ordered),
    **dict.fromkeys(PATHS, _path),
}
"""Full name -> whether its arguments are as they should be, and what is to be known of the outcome."""
