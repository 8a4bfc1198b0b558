"""Unaugmented training images, and batch-norm statistics measured anew on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

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


class Batches:
    """Images of a split, letterboxed, drawn once for a seed and read when first asked for.

    Iterating gives tensors (B, C, imgsz, imgsz) in [0, 1], or, `labelled`, what Ultralytics' losses take.

    Raises:
        SlimError: the data set cannot be read.
    """

    def __init__(
        self,
        data: str,
        imgsz: int,
        n: int,
        *,
        split: str = "train",
        batch: int = 16,
        seed: int = 0,
        labelled: bool = False,
    ) -> None:
        info = dataset_info(data)
        if not info.get(split):
            raise SlimError(f"{data} has no '{split}' images")
        self.data, self.info, self.imgsz, self.n, self.split = data, info, imgsz, n, split
        self.batch, self.seed, self.labelled = batch, seed, labelled

    @cached_property
    def dataset(self) -> Any:
        """Ultralytics', of the whole split."""
        args = get_cfg(
            overrides={"imgsz": self.imgsz, "task": "detect", "mode": "val", "data": self.data, "rect": False}
        )
        try:
            return build_yolo_dataset(args, self.info[self.split], self.batch, self.info, mode="val", rect=False)
        except (FileNotFoundError, RuntimeError, AssertionError) as e:
            raise SlimError(f"cannot read the '{self.split}' images of {self.data}: {remove_colorstr(str(e))}") from e

    @cached_property
    def items(self) -> list[Any]:
        """All batches, held as bytes: 0.3 MB an image at 320 px, 1.2 at 640."""
        chosen = np.random.default_rng(self.seed).permutation(len(self.dataset))[: self.n]
        loader = DataLoader(Subset(self.dataset, chosen.tolist()), self.batch, collate_fn=self.dataset.collate_fn)
        return list(track(loader, description=f"reading {self.split} images", total=len(loader), transient=True))

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            image = item["img"].float() / 255
            yield {**item, "img": image} if self.labelled else image


class Shown:
    """The same batches, each pass over them with a bar."""

    def __init__(self, batches: Batches, purpose: str) -> None:
        self.batches, self.purpose = batches, purpose

    def __iter__(self) -> Iterator[Any]:
        total = len(self.batches.items)
        yield from track(self.batches, description=self.purpose, total=total, transient=True)


def first(batches: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    """The first `n` images of batches (B, C, H, W)."""
    for batch in batches:
        if n <= 0:
            return
        yield batch[:n]
        n -= len(batch)


def detection_loss(detector: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Ultralytics' training loss of one labelled batch, a mean over its images."""
    args, criterion = detector.args, getattr(detector, "criterion", None)
    # The loss reads its gains there; a criterion made before may hold others.
    detector.args = get_cfg(overrides=args if isinstance(args, dict) else vars(args))
    detector.criterion = None
    try:
        return detector.loss(batch)[0].sum() / len(batch["img"])
    finally:
        detector.args, detector.criterion = args, criterion


def dataset_info(data: str) -> dict:
    """The data-set YAML as Ultralytics reads it: names, nc, and a folder or list per split; never downloaded.

    Raises:
        SlimError: missing or malformed.
    """
    try:
        return check_det_dataset(data, autodownload=False)
    except Exception as e:
        raise SlimError(f"cannot use the data set {data}: {e}") from e


def check_channels(reads: int, has: int, data: str) -> None:
    """Nothing, where a data set's images have the channels that a detector reads.

    Args:
        reads: channels of the images that the detector was made for.
        has: `channels` of the data set.
        data: its name.

    Raises:
        SlimError: they have others.
    """
    if has != reads:
        raise SlimError(
            f"the detector reads images of {reads} channels, but those of {data} have {has}: give the data set that it "
            f"was trained on, or say `channels: {reads}` in the YAML, if its files have as many"
        )


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
    for batch in batches:
        detector(batch.to(device))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    return detector.eval()
