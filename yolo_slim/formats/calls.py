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


def called(calls: Mapping[str, Check], name: str, args: tuple[Any, ...]) -> Made:
    """What a call comes to; `calls`: those that checkpoints of this kind make.

    Raises:
        SlimError: no checkpoint calls this, or not so.
    """
    check = calls.get(name)
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


def _array(kind: Any, size: Any, content: Made) -> tuple[bool, Any]:
    """An empty NumPy array, to be filled."""
    return kind == Named(ARRAY) and size == (0,) and type(content) is Made and content.name == ENCODE, None


def _array_state(state: Any) -> bool:
    """Whether an array is filled with a few numbers, as many bytes as its shape says."""
    if type(state) is not tuple or len(state) != 5:
        return False
    version, shape, dtype, transposed, content = state
    made = type(dtype) is Made and dtype.name == "numpy.dtype" and type(content) is Made and content.name == ENCODE
    fits = made and version == 1 and _whole(shape) and len(shape) <= MOST_DIMENSIONS and type(transposed) is bool
    return fits and math.prod(shape) * NUMBERS[dtype.detail] == content.detail


ORDERED, TENSOR, ENCODE = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "_codecs.encode"
ARRAY = "numpy.ndarray"
Check = Callable[..., tuple[bool, Any]]
"""Whether the arguments of a call are as they should be, and what is to be known of the outcome."""

CALLS: Mapping[str, Check] = {
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
"""Full name -> its check, of what checkpoints of Ultralytics call."""

ARRAYS: Mapping[str, Check] = {f"numpy.{home}.multiarray._reconstruct": _array for home in ("core", "_core")}
"""The same of arrays, which other writers leave among their numbers; NumPy 2 calls the home of the call `_core`."""

FILLS: Mapping[str, Callable[[Any], bool]] = {
    "numpy.dtype": lambda state: state in DTYPE_STATES,
    **dict.fromkeys(ARRAYS, _array_state),
}
"""Full name -> whether what a call has come to is filled as it should be."""
