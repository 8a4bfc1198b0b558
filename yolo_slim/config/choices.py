"""Names that settings choose from. What stands behind each is registered where it is made, which takes seconds to
import; the names alone do not, so that help and mistakes need none of it."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")

RUNTIMES = ["onnxruntime", "openvino", "torchscript", "ncnn", "opencv", "litert"]
"""What exported files are run in; PyTorch beside them runs the detector itself."""
TIMED_BY_LAYER = ["onnxruntime", "openvino"]
"""Of those, what tells how long each layer takes."""
QUANTIZERS = ["onnx", "openvino"]
"""Formats that can be rounded to INT8."""
COMPRESSIONS = ["weights", "low_rank", "compact", "grow", "quantize", "cluster"]
"""Methods beside channel pruning."""


class Registry(UserDict[str, Entry]):
    """Entries by name. A setting that chooses one takes any name that is in here, those added from outside too."""

    def __init__(self, entries: Mapping[str, Entry], *lists: tuple[list[str], Callable[[Entry], bool]]) -> None:
        """With the lists of names to be kept in step, each with what an entry must be to stand in it."""
        self.lists = lists
        super().__init__(entries)

    def __setitem__(self, name: str, entry: Entry) -> None:
        super().__setitem__(name, entry)
        for names, fits in self.lists:
            if fits(entry) and name not in names:
                names.append(name)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        for names, _ in self.lists:
            if name in names:
                names.remove(name)


def one_of(names: list[str], *also: str) -> Callable[[Any], Any]:
    """A check that a setting names one of these, as they are when it is made.

    Raises:
        ValueError: with the names there are.
    """

    def check(name: Any) -> Any:
        expected = [*also, *names]
        if name not in expected:
            raise ValueError(f"expected {', '.join(expected[:-1])} or {expected[-1]}, got {name!r:.60}")
        return name

    return check
