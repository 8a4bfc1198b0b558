"""Checkpoints of ultralytics/yolov5 for tests: those of the corpus, and spoilt copies of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, PX, ROOT, build
from torch import nn

from yolo_slim.formats.yolov5.layers import AnchorDetect
from yolo_slim.formats.yolov5.model import AnchorModel
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


def small(folder: Path, seed: int = 0) -> Path:
    """The tiny detector of `tiny`, 64 px, four classes, strides 8 and 16, as a file with anchors: 0.2 M parameters."""
    detector = build(folder, seed)
    old = detector.model[-1]
    head = AnchorDetect.__new__(AnchorDetect)
    nn.Module.__init__(head)
    head.nc, head.no, head.nl, head.na, head.stride = CLASSES, CLASSES + 5, 2, 3, old.stride.clone()
    head.i, head.f, head.type, head.np, head.inplace = old.i, list(old.f), "models.yolo.Detect", 0, True
    sizes = torch.tensor([[8, 8, 12, 16, 20, 14], [24, 24, 40, 32, 48, 48]], dtype=torch.float32)  # pixels
    head.register_buffer("anchors", sizes.view(2, 3, 2) / head.stride.view(-1, 1, 1))
    head.grid = head.anchor_grid = [torch.zeros(1)] * 2
    head.m = nn.ModuleList(nn.Conv2d(level[0].conv.in_channels, 3 * head.no, 1) for level in old.cv2)
    detector.model[-1] = head
    whole = AnchorModel.__new__(AnchorModel)
    vars(whole).update(vars(detector))
    whole.names = ["circle", "square", "triangle", "star"]
    for name in ("args", "criterion", "pt_path", "task"):
        vars(whole).pop(name, None)
    path = folder / "best.pt"
    torch.save({"epoch": -1, "best_fitness": np.array([0.5]), "model": whole.half(), "ema": None, "updates": None,
                "optimizer": None, "opt": {"imgsz": PX}, "date": "2022-11-22T00:00:00"}, path,
               pickle_module=PICKLING)  # fmt: skip
    return path
