"""Images of a split, unaugmented."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from yolo_slim.data.facts import dataset_info, images_of
from yolo_slim.errors import SlimError

UNREADABLE = (OSError, RuntimeError, ValueError, cv2.error)
"""What an image that passed for one raises where it is decoded, or laid beside others of another kind."""


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
        single_cls: bool = False,
    ) -> None:
        info = dataset_info(data, single_cls=single_cls)
        if not info.get(split):
            raise SlimError(f"{data} has no '{split}' images")
        self.data, self.info, self.imgsz, self.n, self.split = data, info, imgsz, n, split
        self.batch, self.seed, self.labelled, self.single_cls = batch, seed, labelled, single_cls

    @cached_property
    def dataset(self) -> Any:
        """Ultralytics', of the whole split."""
        return images_of(self.info, self.split, self.imgsz, self.batch, single_cls=self.single_cls)

    @cached_property
    def items(self) -> list[Any]:
        """All batches, held as bytes: 0.3 MB an image at 320 px, 1.2 at 640."""
        chosen = np.random.default_rng(self.seed).permutation(len(self.dataset))[: self.n]
        loader = DataLoader(Subset(self.dataset, chosen.tolist()), self.batch, collate_fn=self.dataset.collate_fn)
        try:
            return list(track(loader, description=f"reading {self.split} images", total=len(loader), transient=True))
        except UNREADABLE as e:
            raise SlimError(f"cannot read the '{self.split}' images of {self.data}: {e}") from e

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
