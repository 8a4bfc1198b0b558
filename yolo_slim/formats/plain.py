"""Values without code: how deep they may lie in one another, how many they may be, and of which types."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from ultralytics.utils import IterableSimpleNamespace

from yolo_slim.errors import SlimError

DEEPEST = 24
MOST = 1_000_000
"""Values in one another, each counted as often as it is met: what holds itself twice over is endless."""
LEAVES = (type(None), bool, int, float, str, torch.Tensor, torch.device, torch.dtype, np.generic, PurePath)
LARGEST = 1 << 63


def check_plain(value: Any, place: str) -> None:
    """Refuse what holds anything but numbers, texts and tensors, too many of them, too deep, or itself.

    Args:
        value: anything.
        place: what it is called where it lies.

    Raises:
        SlimError: where, and what.
    """
    met = 0
    levels = [iter([(place, value)])]
    while levels:
        try:
            where, inner = next(levels[-1])
        except StopIteration:
            levels.pop()
            continue
        met += 1
        if met > MOST or len(levels) > DEEPEST:
            raise SlimError(f"holds values in values without end at {_short(where)}: no checkpoint does")
        _check_leaf(inner, where)
        levels.append(_inside(inner, where))


def check_written(value: Any, place: str) -> None:
    """Refuse plain values that no YAML can have held: tensors, and what describes them.

    Args:
        value: of which `check_plain` has found nothing wrong.
        place: what it is called where it lies.

    Raises:
        SlimError: where, and what.
    """
    if isinstance(value, (torch.Tensor, torch.dtype, torch.device)):
        raise SlimError(f"holds a {type(value).__name__} at {_short(place)}, expected what a YAML can say")
    for where, inner in _inside(value, place):
        check_written(inner, where)


def _check_leaf(value: Any, where: str) -> None:
    if not isinstance(value, (*LEAVES, dict, list, tuple, set, IterableSimpleNamespace)):
        raise SlimError(f"holds a {type(value).__name__} at {_short(where)}, where only plain values belong")
    if type(value) is int and abs(value) > LARGEST:
        raise SlimError(f"holds an integer beyond 64 bits at {_short(where)}")


def _inside(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, IterableSimpleNamespace):
        value = vars(value)
    if isinstance(value, dict):
        return ((f"{where}.{key}", inner) for key, inner in value.items())
    if isinstance(value, (list, tuple, set)):
        return ((f"{where}[{i}]", inner) for i, inner in enumerate(value))
    return iter(())


def _short(place: str) -> str:
    return place if len(place) <= 80 else f"{place[:77]}..."


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of plain values


def is_whole(value: Any, least: int = 0, most: int = 1 << 24) -> bool:
    """An integer, and no boolean, within bounds."""
    return type(value) is int and least <= value <= most


def is_number(value: Any) -> bool:
    """A finite number, and no boolean."""
    return type(value) in (int, float) and math.isfinite(value)


def are_whole(values: Any, least: int = 0, most: int = 1 << 24) -> bool:
    """A list or a tuple of such integers."""
    return isinstance(values, (list, tuple)) and all(is_whole(v, least, most) for v in values)
