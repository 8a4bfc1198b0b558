"""Whether a landing has the time it takes: told before any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from ultralytics.data.base import BaseDataset
from ultralytics.data.utils import get_split_fraction
from ultralytics.utils import DEFAULT_CFG_DICT, remove_colorstr

from yolo_slim.config import Complete
from yolo_slim.data import dataset_info
from yolo_slim.errors import SlimError
from yolo_slim.training.schedule import warming
from yolo_slim.training.steps import accumulated, optimizer_steps


class TooFewSteps(SlimError):
    """A landing has no time."""


def landing_arguments(config: Complete) -> dict[str, Any]:
    """`sparse_train.train`; by default a landing takes a step each batch and warms up in a tenth of few epochs.

    Ultralytics gathers 64 images for a step. On a small data set that leaves a landing few of them
    (scripts/bench_landing.py).
    """
    chosen = config.sparse_train
    batch = chosen.train.get("batch", DEFAULT_CFG_DICT["batch"])
    fixed = chosen.mode == "targeted" and batch >= 1
    fitted = {"nbs": int(batch), "warmup_epochs": warming(chosen.epochs)} if fixed else {}
    return {**fitted, **chosen.train}


def check_steps(config: Complete) -> None:
    """Nothing, where sparse training lands no channels, or takes `sparse_train.min_steps` for it.

    The number comes from scripts/bench_landing.py: a landing of 13 steps leaves 62 of 72 images of BCCD without a
    detection above .25, one of 65 is worse than none, and one of 130 is better.

    Raises:
        TooFewSteps: it takes fewer.
        SlimError: the training images cannot be read.
    """
    found, chosen = landing_time(config), config.sparse_train
    if found is None or found.steps >= chosen.min_steps:
        return
    every = f", one every {found.each} batches (nbs={found.nbs})" if found.each > 1 else ""
    sooner = (
        f", or sparse_train.train.nbs={found.batch}"
        if found.each > 1 and found.taken(chosen.epochs, found.batch) >= chosen.min_steps
        else ""
    )
    raise TooFewSteps(
        f"sparse_train.epochs={chosen.epochs} over {found.images} images at batch={found.batch} are {found.steps} "
        f"optimizer steps{every}, and a landing needs {chosen.min_steps}: a shorter one may leave mAP and take the "
        f"confidence from what is found. Train longer: sparse_train.epochs={found.epochs}{sooner}. Or leave the "
        "landing out, which is better than a short one: sparse_train.epochs=0 cuts the original directly. "
        "(sparse_train.min_steps=0 asks for no number of steps)"
    )


@dataclass(frozen=True)
class LandingTime:
    """How long a landing is, and how long it has to be."""

    images: int
    batch: int
    nbs: int
    steps: int  # that it takes
    needed: int  # that it has to take
    taken: Callable[[int, int], int]  # steps in so many epochs, with this nbs

    @property
    def epochs(self) -> int:
        """In which it takes as many as it needs."""
        return next(n for n in count(1) if self.taken(n, self.nbs) >= self.needed)

    @property
    def each(self) -> int:
        """Batches to a step."""
        return accumulated(self.batch, self.nbs)


def landing_time(config: Complete) -> LandingTime | None:
    """Of a sparse training that lands channels; None: of another, or without data.

    Raises:
        SlimError: the training images cannot be read.
    """
    chosen = config.sparse_train
    if chosen.mode != "targeted" or not chosen.epochs or not config.data:
        return None
    train = {**DEFAULT_CFG_DICT, **landing_arguments(config)}
    images, nbs = training_images(config.data, train["fraction"]), int(train["nbs"])
    batch = int(train["batch"]) if train["batch"] >= 1 else nbs  # what fits into the GPU's memory

    def taken(epochs: int, nbs: int) -> int:
        warm = chosen.train.get("warmup_epochs", warming(epochs))
        return optimizer_steps(images, epochs, batch=batch, nbs=nbs, warmup_epochs=warm)

    return LandingTime(images, batch, nbs, taken(chosen.epochs, nbs), chosen.min_steps, taken)


def training_images(data: str, fraction: float | list) -> int:
    """Training images, as Ultralytics finds them; those that it cannot read among them."""
    info = dataset_info(data)
    try:
        asked = BaseDataset.__new__(BaseDataset)
        asked.prefix, asked.fraction = "", get_split_fraction(fraction, "train")
        return len(asked.get_img_files(info["train"]))
    except (OSError, ValueError) as e:
        raise SlimError(f"cannot read the 'train' images of {data}: {remove_colorstr(str(e))}") from e
