"""What lies in a folder, and in a file of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels(file: Path) -> np.ndarray:
    """(N, 5): class, cx, cy, w, h."""
    return np.array(file.read_text().split(), float).reshape(-1, 5)
