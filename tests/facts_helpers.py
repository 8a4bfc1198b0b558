"""A data set of one's own, and what it is refused with.

A test file asks for the fixture here with `pytest_plugins = ["tiny", "facts_helpers"]`. (PYTEST_DONT_REWRITE: test
files import this one before pytest could.)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from yolo_slim import SlimError
from yolo_slim.data import dataset_info


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """The YAML of a data set of one's own, without caches."""
    shutil.copytree(data.parent, tmp_path / "shapes", ignore=shutil.ignore_patterns("*.cache"))
    return tmp_path / "shapes" / data.name


def said(data: object, **change: Any) -> str:
    """What `dataset_info` refuses it with."""
    with pytest.raises(SlimError) as e:
        dataset_info(data, **change)
    return str(e.value)


def write(own: Path, text: str) -> Path:
    own.write_text(text)
    return own
