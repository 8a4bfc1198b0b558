"""Unaugmented training images, and batch-norm statistics measured anew on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import remove_colorstr

from yolo_slim.errors import SlimError


def images(data: str, imgsz: int, n: int, *, split: str = "train", batch: int = 16, seed: int = 0) -> Iterator[Tensor]:
    """Batches (B, 3, imgsz, imgsz) in [0, 1] of `n` images of a split, letterboxed, drawn once for a seed.

    Raises:
        SlimError: the data set cannot be read.
    """
    info = dataset_info(data)
    if not info.get(split):
        raise SlimError(f"{data} has no '{split}' images")
    args = get_cfg(overrides={"imgsz": imgsz, "task": "detect", "mode": "val", "data": data, "rect": False})
    try:
        dataset = build_yolo_dataset(args, info[split], batch, info, mode="val", rect=False)
    except (FileNotFoundError, RuntimeError, AssertionError) as e:
        raise SlimError(f"cannot read the '{split}' images of {data}: {remove_colorstr(str(e))}") from e
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:n]
    loader = DataLoader(Subset(dataset, chosen.tolist()), batch, collate_fn=dataset.collate_fn)
    for item in track(loader, description=f"{split} images", total=len(loader), transient=True):
        yield item["img"].float() / 255


def dataset_info(data: str) -> dict:
    """The data-set YAML as Ultralytics reads it: names, nc, and a folder or list per split; never downloaded.

    Raises:
        SlimError: missing or malformed.
    """
    try:
        return check_det_dataset(data, autodownload=False)
    except Exception as e:
        raise SlimError(f"cannot use the data set {data}: {e}") from e


@torch.no_grad()
def recalibrate(detector: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Replace running means and variances by the average over these batches; in place, returns the detector.

    "Adaptive batch norm" of EagleEye (Li et al., ECCV 2020, arXiv:2007.02491, 3.3).
    """
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    device = next(detector.parameters()).device
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # cumulative average
    detector.train()
    for batch in track(list(batches), description="batch norm", transient=True):
        detector(batch.to(device))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    return detector.eval()
