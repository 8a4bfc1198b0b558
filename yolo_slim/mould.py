"""Deep copies of networks and of what files hold: C's pickler writes the structure down, tensors are copied beside it.

`copy.deepcopy` walks through a network in Python, where most of a small one's time goes. What is unpickled here was
pickled here, a moment ago or when it was read and checked: no file is ever read so.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections import Counter
from typing import Any, TypeVar

from torch import Tensor, nn

Thing = TypeVar("Thing")


def duplicate(original: Thing, instead: dict[int, Any] | None = None) -> Thing:
    """A deep copy; `instead` says by its id what takes the place of a tensor, and is put there as it is."""
    memo = dict(instead or {})
    try:
        structure, tensors = _written(original)
        return _read(structure, _copied(tensors, memo))
    except Exception:  # what cannot be pickled, or says itself how it is copied: classes of a notebook, lambdas
        return copy.deepcopy(original, dict(instead or {}))


class Mould:
    """What copies of an object, as it is now, are cast from.

    Raises:
        Exception: it cannot be pickled.
    """

    def __init__(self, original: Any) -> None:
        self.structure, tensors = _written(original)
        self.tensors = _copied(tensors, {})

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.structure) + sum(tensor.nbytes for tensor in self.tensors)

    def cast(self) -> Any:
        """A copy that shares nothing with the original or with other copies."""
        return _read(self.structure, _copied(self.tensors, {}))


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


def _written(original: Any) -> tuple[bytes, list[Tensor]]:
    """The structure, and the tensors that have numbers in it."""
    file = io.BytesIO()
    writer = _Writer(file)
    writer.dump(original)
    return file.getvalue(), writer.tensors


def _read(structure: bytes, tensors: list[Any]) -> Any:
    return _Reader(io.BytesIO(structure), tensors).load()


class _Writer(pickle.Pickler):
    """Writes numbers for tensors."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []

    def reducer_override(self, value: Any) -> Any:
        """Asked of whatever is no plain value, once each."""
        if isinstance(value, Tensor):
            self.tensors.append(value)
            return tensor_at, (len(self.tensors) - 1,)
        if hasattr(type(value), "__deepcopy__"):
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
