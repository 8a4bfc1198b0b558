"""Deep copies of networks and of what files hold: C's pickler writes the structure down, tensors are copied beside it.

`copy.deepcopy` walks through a network in Python, where most of a small one's time goes. What is unpickled here was
pickled here, a moment ago or when it was read and checked: no file is ever read so.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from hashlib import sha256
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor, nn

Thing = TypeVar("Thing")


def duplicate(original: Thing, instead: dict[int, Any] | None = None) -> Thing:
    """A deep copy; `instead` says by its id what takes the place of a tensor, and is put there as it is."""
    memo = dict(instead or {})
    try:
        written = _written(original)
        return _read(written.structure, _copied(written.tensors, memo))
    except Exception:  # what cannot be pickled, or says itself how it is copied: classes of a notebook, lambdas
        return copy.deepcopy(original, dict(instead or {}))


class Mould:
    """What copies of an object, as it is now, are cast from.

    Raises:
        Exception: it cannot be pickled.
    """

    def __init__(self, original: Any) -> None:
        written = _written(original)
        self.structure, self.tensors = written.structure, _copied(written.tensors, {})
        self.size = len(self.structure) + sum(tensor.nbytes for tensor in self.tensors)
        """Bytes."""

    def cast(self) -> Any:
        """A copy that shares nothing with the original or with other copies."""
        return _read(self.structure, _copied(self.tensors, {}))


class Store:
    """What was last made of a content, by a key of that content: copies are given out."""

    def __init__(self, room: int) -> None:
        """`room`: for as many bytes; the latest stays however large it is."""
        self.room, self.held, self.moulds = room, 0, OrderedDict[Hashable, Mould]()

    def get(self, key: Hashable) -> Any:
        """A copy of what was put there; None: nothing is left of it."""
        if (mould := self.moulds.get(key)) is None:
            return None
        self.moulds.move_to_end(key)
        return mould.cast()

    def put(self, key: Hashable, thing: Any) -> None:
        """Keep it, unless it cannot be kept; what was not asked for for longest makes room."""
        with suppress(Exception):
            mould = Mould(thing)
            self.held += mould.size - (self.moulds.pop(key).size if key in self.moulds else 0)
            self.moulds[key] = mould
        while len(self.moulds) > 1 and self.held > self.room:
            self.held -= self.moulds.popitem(last=False)[1].size


class Known(Store):
    """What was found out of structures: numbers of weights say nothing of it."""

    def of(self, network: nn.Module, find: Callable[[], Thing], *more: Hashable) -> Thing:
        """What was found of such a network and `more`, or is found now; remembered where it can be told by them."""
        structure = fingerprint(network, exact=False)
        if (known := self.get((structure, *more))) is not None:
            return known
        found = find()
        if structure is not None:
            self.put((structure, *more), found)
        return found


def fingerprint(network: nn.Module, *, exact: bool = True) -> Hashable | None:
    """The same for networks that differ in their numbers alone; None: one that cannot be told by it.

    That is a network with code that has no name of its own (what a notebook or a script defines may be another thing
    under the same name a moment later), or that cannot be pickled. Not `exact`: the same too where numbers are of
    another precision, learn or not, or lie otherwise in memory, which says nothing of how layers are wired.
    """
    try:
        written = _written(network)
    except Exception:  # as in `duplicate`
        return None
    if any(thing.__module__ in (None, "__main__") for thing in written.named):
        return None
    looks = _look if exact else _shape
    return sha256(written.structure).digest(), tuple(written.named), tuple(map(looks, written.tensors))


def _look(tensor: Tensor) -> Hashable:
    return type(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad


def _shape(tensor: Tensor) -> Hashable:
    return type(tensor), tensor.shape, tensor.is_floating_point() or tensor.dtype


def _copied(tensors: list[Tensor], memo: dict[int, Any]) -> list[Any]:
    """What `memo` has of them, and copies of the rest; those on one storage go on sharing one, as a deep copy's do."""
    users = Counter(map(_storage, tensors))

    def copied(tensor: Tensor) -> Any:
        if id(tensor) in memo:
            return memo[id(tensor)]
        alone = users[_storage(tensor)] == 1
        return _clone(tensor) if alone and _plain(tensor) else copy.deepcopy(tensor, memo)

    return [copied(tensor) for tensor in tensors]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _plain(tensor: Tensor) -> bool:
    """Whether its numbers are all there is to it."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.is_leaf and tensor.grad is None and not vars(tensor)


def _clone(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    if type(tensor) is nn.Parameter:
        return nn.Parameter(copied, tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def tensor_at(place: int) -> Tensor:
    """Stands in a structure for the tensor of this number."""
    raise LookupError(f"tensor {place} lies beside the structure")


class _Written(NamedTuple):
    structure: bytes
    tensors: list[Tensor]
    """Those that have numbers in the structure."""
    named: list[Any]
    """Classes and functions that it names."""


def _written(original: Any) -> _Written:
    file = io.BytesIO()
    writer = _Writer(file)
    writer.dump(original)
    return _Written(file.getvalue(), writer.tensors, writer.named)


def _read(structure: bytes, tensors: list[Any]) -> Any:
    return _Reader(io.BytesIO(structure), tensors).load()


class _Writer(pickle.Pickler):
    """Writes numbers for tensors."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self.named: list[Any] = []

    def reducer_override(self, value: Any) -> Any:
        """Asked of whatever is no plain value, once each."""
        if isinstance(value, Tensor):
            self.tensors.append(value)
            return tensor_at, (len(self.tensors) - 1,)
        if type(value) is OrderedDict:  # a module holds ten; by itself, each asks Python for slots that it has not
            return OrderedDict, (), vars(value) or None, None, iter(value.items())
        if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
            self.named.append(value)
        elif hasattr(type(value), "__deepcopy__") and type(value) is not np.ndarray:
            raise pickle.PicklingError(f"a {type(value).__name__} says itself how it is copied")
        return NotImplemented


class _Reader(pickle.Unpickler):
    """Puts tensors where their numbers stand."""

    def __init__(self, file: io.BytesIO, tensors: list[Any]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def find_class(self, module: str, name: str) -> Any:
        """The classes and functions that the structure names."""
        if (module, name) == (__name__, tensor_at.__name__):
            return self.tensors.__getitem__
        return super().find_class(module, name)
