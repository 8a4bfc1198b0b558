"""Whether a split says what is in its images: without, no accuracy can be measured and nothing judged by it."""

from __future__ import annotations

from torch import nn

from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.data import labelled
from yolo_slim.errors import SlimError
from yolo_slim.measure import accuracy


def val_labelled(config: Complete) -> bool:
    """Whether any image of val has a label; false where there is no data set."""
    return config.data is not None and labelled(config.data, "val")


def worth_on_val(config: Complete, detector: nn.Module) -> float:
    """mAP50-95 on val, by which choices are made; of a split with labels."""
    return accuracy(detector, config.dataset, config.imgsz, "val", config.device)["map50_95"]


def check_labels(config: Complete, purpose: str) -> None:
    """Before hours of work that would come to nothing.

    Args:
        config: with a data set.
        purpose: what is done with the val split: "a sweep compares detectors by mAP".

    Raises:
        SlimError: no image of val has a label.
    """
    if not val_labelled(config):
        raise SlimError(
            f"{purpose} on the val split of {config.data}, and no image there has a label: nothing can be measured. "
            "Label some images of val (labels/ beside images/, a .txt of the same name), or let `val:` name others"
        )


def tell_if_unlabelled(config: Complete) -> None:
    """Before a training that keeps its best epoch: without labels there is none."""
    if not val_labelled(config):
        console.print(
            f"no image in the val split of {config.data} has a label: the fitness of every epoch is 0, the last one "
            "is taken for the best, and training never stops early",
            markup=False,
        )
