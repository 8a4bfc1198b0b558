"""Whether a landing has the time it takes: told before any training."""

from __future__ import annotations

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
    chosen = config.sparse_train
    train = {**DEFAULT_CFG_DICT, **landing_arguments(config)}
    if chosen.mode != "targeted" or not chosen.epochs or not config.data:
        return
    images, nbs = training_images(config.data, train["fraction"]), int(train["nbs"])
    batch = int(train["batch"]) if train["batch"] >= 1 else nbs  # what fits into the GPU's memory

    def taken(epochs: int, *, nbs: int) -> int:
        warm = chosen.train.get("warmup_epochs", warming(epochs))
        return optimizer_steps(images, epochs, batch=batch, nbs=nbs, warmup_epochs=warm)

    steps, needed = taken(chosen.epochs, nbs=nbs), chosen.min_steps
    if steps >= needed:
        return
    epochs = next(n for n in count(chosen.epochs + 1) if taken(n, nbs=nbs) >= needed)
    each = accumulated(batch, nbs)
    every = f", one every {each} batches (nbs={nbs})" if each > 1 else ""
    sooner = f", or sparse_train.train.nbs={batch}" if each > 1 and taken(chosen.epochs, nbs=batch) >= needed else ""
    raise TooFewSteps(
        f"sparse_train.epochs={chosen.epochs} over {images} images at batch={batch} are {steps} optimizer steps{every}"
        f", and a landing needs {needed}: a shorter one may leave mAP and take the confidence from what is found. "
        f"Train longer: sparse_train.epochs={epochs}{sooner}. Or leave the landing out, which is better than a short "
        "one: sparse_train.epochs=0 cuts the original directly. (sparse_train.min_steps=0 asks for no number of steps)"
    )


def training_images(data: str, fraction: float | list) -> int:
    """Training images, as Ultralytics finds them; those that it cannot read among them."""
    info = dataset_info(data)
    try:
        asked = BaseDataset.__new__(BaseDataset)
        asked.prefix, asked.fraction = "", get_split_fraction(fraction, "train")
        return len(asked.get_img_files(info["train"]))
    except (OSError, ValueError) as e:
        raise SlimError(f"cannot read the 'train' images of {data}: {remove_colorstr(str(e))}") from e
