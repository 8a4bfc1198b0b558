"""Images to look at, unaugmented."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from yolo_slim.console import track
from yolo_slim.data.facts import dataset_info, images_of
from yolo_slim.errors import SlimError

UNREADABLE = (OSError, RuntimeError, ValueError, cv2.error)
"""What an image that passed for one raises where it is decoded, or laid beside others of another kind."""


class Drawn:
    """Images of a data set, letterboxed, drawn once for a seed and read when first asked for.

    Iterating gives tensors (B, C, imgsz, imgsz) in [0, 1], or, `labelled`, what Ultralytics' losses take.

    Args:
        read: gives Ultralytics' data set, not augmented.
        kind: what they are called: "'train' images".
        place: where they are described, or lie.
        n: how many, at most.
        batch: how many at a time.
        seed: of the draw.
        labelled: with their labels.
    """

    def __init__(
        self,
        read: Callable[[], Any],
        kind: str,
        place: str,
        n: int,
        *,
        batch: int = 16,
        seed: int = 0,
        labelled: bool = False,
    ) -> None:
        self.read, self.kind, self.place, self.n = read, kind, place, n
        self.batch, self.seed, self.labelled = batch, seed, labelled

    @cached_property
    def dataset(self) -> Any:
        """Ultralytics', of all images."""
        return self.read()

    @cached_property
    def items(self) -> list[Any]:
        """All batches, held as bytes: 0.3 MB an image at 320 px, 1.2 at 640.

        Raises:
            SlimError: an image that cannot be read.
        """
        chosen = np.random.default_rng(self.seed).permutation(len(self.dataset))[: self.n]
        loader = DataLoader(Subset(self.dataset, chosen.tolist()), self.batch, collate_fn=self.dataset.collate_fn)
        try:
            return list(track(loader, f"reading {self.kind}"))
        except UNREADABLE as e:
            raise SlimError(f"cannot read the {self.kind} of {self.place}: {e}") from e

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            image = item["img"].float() / 255
            yield {**item, "img": image} if self.labelled else image


class Batches(Drawn):
    """Images of a split.

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
        super().__init__(
            lambda: images_of(info, split, imgsz, batch, single_cls=single_cls),
            f"'{split}' images",
            data,
            n,
            batch=batch,
            seed=seed,
            labelled=labelled,
        )


class Shown:
    """The same batches, each pass over them with a bar."""

    def __init__(self, batches: Drawn, purpose: str) -> None:
        self.batches, self.purpose = batches, purpose

    def __iter__(self) -> Iterator[Any]:
        total = len(self.batches.items)
        yield from track(self.batches, self.purpose, total)


def first(batches: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    """The first `n` images of batches (B, C, H, W)."""
    for batch in batches:
        if n <= 0:
            return
        yield batch[:n]
        n -= len(batch)


def beyond(batches: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    """Those that `first` leaves out."""
    for batch in batches:
        if n < len(batch):
            yield batch[max(n, 0) :]
        n -= len(batch)
