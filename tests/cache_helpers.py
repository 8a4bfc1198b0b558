"""A data set of one's own with its label caches, and pickles that would run.

A test file asks for the fixture here with `pytest_plugins = ["tiny", "cache_helpers"]`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import PX

from yolo_slim.data import dataset_info
from yolo_slim.data.facts import images_of


class Runs:
    """What a pickle of this calls leaves a mark."""

    def __init__(self, mark: Path, call: Callable = os.system) -> None:
        self.words = (call, (f"touch {mark}",) if call is os.system else (str(mark),))

    def __reduce__(self) -> tuple:
        return self.words


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """The YAML of a data set of one's own, its caches written by Ultralytics."""
    shutil.copytree(data.parent, tmp_path / "shapes")
    own = tmp_path / "shapes" / data.name
    for split in ("train", "val"):
        dataset(own, split)
    return own


def dataset(data: Path, split: str) -> Any:
    return images_of(dataset_info(data), split, PX)


def cache_of(data: Path, split: str = "train") -> Path:
    return data.parent / "labels" / f"{split}.cache"


def stock(path: Path) -> dict[str, Any]:
    """As Ultralytics reads a cache by itself."""
    return np.load(str(path), allow_pickle=True).item()


def write(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        np.save(file, content)


def alike(one: Any, two: Any) -> bool:
    """Of one type, and equal, through all containers."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(alike(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(alike, one, two))
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    return one == two
