"""A detector is trained on, at a rate that follows what there is to recover, and ends where val says it is best."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from yolo_slim import checkpoint
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import classes_of
from yolo_slim.runs.stage import finished
from yolo_slim.stages.common import tracked, train_arguments
from yolo_slim.stages.labels import tell_if_unlabelled, val_labelled, worth_on_val
from yolo_slim.stages.landing_time import training_images
from yolo_slim.training.ending import ENDS, best_end
from yolo_slim.training.folder import train_in
from yolo_slim.training.schedule import schedule
from yolo_slim.training.trainer import SlimTrainer

Taught: TypeAlias = tuple[type[SlimTrainer], dict[str, Any]]
"""The class that trains, and the files that it reads."""


def trained_on(
    config: Complete,
    folder: Path,
    start: Path,
    epochs: int,
    train: dict[str, Any],
    *,
    settings: dict[str, Any],
    inputs: list[Path],
    taught: Callable[[float | None], Taught],
    start_counts: bool = True,
) -> tuple[Detector, dict[str, Any]]:
    """`start`, trained in `folder`, and details for the record.

    Args:
        config: of the run.
        folder: of the stage.
        start: a checkpoint.
        epochs: of training.
        train: Ultralytics' arguments that were chosen.
        settings: of the stage.
        inputs: files that decide the outcome.
        taught: from the share of the original's mAP50-95 that is lost (None: not known) to what trains.
        start_counts: whether it may end at the start, on the way from there or at any epoch; not where training makes
            it smaller: then the last epoch is it.
    """
    tell_if_unlabelled(config)
    slim = checkpoint.load(start)
    before = worth_on_val(config, slim) if val_labelled(config) else None
    lost = _lost(config, before)
    trainer, extra = taught(lost)
    scheduled = _schedule(config, classes_of(slim), epochs, lost, train)
    arguments = train_arguments(config, epochs, {**scheduled, **train})
    extra = {**extra, **tracked(config, folder)}
    trained = train_in(folder, trainer, start, settings=settings, inputs=inputs, extra=extra, arguments=arguments)
    best = checkpoint.load(trained / ("best.pt" if start_counts else "last.pt"))
    best, found = _ended(config, slim, best, before) if start_counts else (best, None)
    return best, {"lost": lost, "schedule": scheduled, "end": found}


NOT_KNOWN = "how much was lost is not known, for val does not tell"


def _lost(config: Complete, before: float | None) -> float | None:
    """Share of the original's mAP50-95 on val that is to be recovered; None: nothing tells."""
    original = finished(config, "original")
    if before is None or original is None or not (whole := worth_on_val(config, checkpoint.load(original))):
        return None
    return round(max(1 - before / whole, 0.0), 3)


def _schedule(config: Complete, classes: int, epochs: int, lost: float | None, train: dict[str, Any]) -> dict[str, Any]:
    images = training_images(config.dataset, train.get("fraction", 1.0))
    found = schedule(images, epochs, train, classes=classes, lost=lost)
    if "lr0" in found:
        how = NOT_KNOWN if lost is None else f"{lost:.1%} of mAP50-95 is to be recovered"
        console.print(f"learning rate {found['lr0']:g}: {how}, in {epochs} epochs over {images} images")
    return found


def _ended(
    config: Complete, start: Detector, trained: Detector, before: float | None
) -> tuple[Detector, dict[str, Any] | None]:
    """What the best epoch, the start, and what lies between them are worth on val: that which is worth most."""
    if before is None:
        return trained, None
    taken, share, worths = best_end(start, trained, partial(worth_on_val, config), before)
    told = ", ".join(f"{ENDS[each]} {worth:.4f}" for each, worth in worths.items())
    console.print(f"mAP50-95 on val: {told}: {ENDS[share]} is taken")
    return taken, {"taken": ENDS[share], "map50_95_val": {ENDS[each]: worth for each, worth in worths.items()}}
