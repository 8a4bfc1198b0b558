"""Checkpoints of ultralytics/yolov5 for tests: those of the corpus, and spoilt copies of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ROOT
from torch import nn

from yolo_slim.formats.yolov5.storing import PICKLING, read

FOLDER = ROOT / "tests" / "corpus" / "yolov5"
WHOLE = sorted(path for path in FOLDER.glob("*.pt") if "fused" not in path.name)
FUSED = FOLDER / "yolov5_v7.0_fused.pt"
each = pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem.removeprefix("yolov5_"))


def of(release: str) -> Path:
    """The checkpoint of a release."""
    return FOLDER / f"yolov5_{release}.pt"


def answers() -> dict[str, np.ndarray]:
    """`image` (1, 3, H, W), and of each file's stem the rows (1, N, 5 + K) that its release gave."""
    with np.load(FOLDER / "answers.npz") as found:
        return dict(found)


def wanted(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The image, and (1, 4 + K, N) as Ultralytics lays it out: xywh in pixels, obj * cls."""
    found = answers()
    rows = torch.from_numpy(found[path.stem]).transpose(1, 2)
    return torch.from_numpy(found["image"]), torch.cat((rows[:, :4], rows[:, 4:5] * rows[:, 5:]), 1)


def spoilt(source: Path, target: Path, spoil: Callable[[nn.Module], Any] | None = None, **entries: Any) -> Path:
    """A copy of a checkpoint in which something of the detector, or some entries, are otherwise."""
    ckpt = read(source)
    if spoil:
        spoil(ckpt["model"])
    torch.save({**ckpt, **entries}, target, pickle_module=PICKLING)
    return target
