"""What recipes say and ask for alike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import yolo_slim.report as report
from yolo_slim import checkpoint
from yolo_slim.config import Complete, Prune
from yolo_slim.console import console
from yolo_slim.data.unlabelled import sum_of_pictures
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.row import Row
from yolo_slim.training import trackers


def train_arguments(config: Complete, epochs: int, train: dict[str, Any], *, untrained: bool = False) -> dict[str, Any]:
    """Ultralytics' arguments for a training stage: ours, then whatever its `train:` section says.

    Biases of a trained detector warm up from 0 as everything else does. Ultralytics' default lets them start at a
    learning rate of 0.1: with AdamW it took a recovered cut from mAP50-95 .58 to .23 in its first epoch (BCCD).
    """
    check_data(config)
    return {
        "data": config.data,
        "epochs": epochs,
        "imgsz": config.imgsz,
        "device": config.device,
        "seed": config.seed,
        **({} if untrained else {"warmup_bias_lr": 0.0}),
        **train,
    }


def tracked(config: Complete, folder: Path) -> dict[str, dict[str, Any]]:
    """What a training in the folder of a stage finds of who is to be told how it goes: file -> content."""
    stage = folder.relative_to(config.folder).as_posix()
    return trackers.said(config.trackers, config.name, stage, Path(config.runs))


Look: TypeAlias = Callable[[], Evidence]
"""Gives what channels are judged by and their readers refitted on; whoever asks again is given the same."""


def look_of(config: Complete, weights: Path) -> Look:
    """What a plan and its cut look at, which is read once for both, and not at all where neither asks."""
    return functools.cache(lambda: evidence_from(config, checkpoint.load(weights)))


def check_data(config: Complete) -> None:
    """Refuse to train without labels.

    Raises:
        SlimError: there is no data set.
    """
    if not config.data:
        raise SlimError("training needs a data set: data=path/to/data.yaml")


def looked_at(config: Complete) -> dict[str, str | None]:
    """What channels are judged by, and their readers refitted on, as settings of a stage.

    Raises:
        SlimError: a folder of pictures that is not there, or holds none.
    """
    if config.data or not config.images:
        return {"data": config.data}
    return {"data": None, "images": config.images, "images_sum": sum_of_pictures(config.images, "images")}


def cut_settings(config: Complete, chosen: Prune) -> dict[str, Any]:
    """What decides a cut by a plan, as settings of its stage."""
    return {
        **chosen.model_dump(exclude={"iterations"}),
        "imgsz": config.imgsz,
        **looked_at(config),
        **config.timing,
    }


def say(config: Complete, stage: str, row: Row, weights: Path) -> None:
    """One line on what a stage has come to."""
    console.print(
        f"[bold green]{stage}[/]: {row['params'] / 1e6:.3f} M parameters  {row['flops'] / 1e9:.3f} GFLOPs at "
        f"{config.imgsz} px  {row['file_mb']:.2f} MB{report.worth(row)}  -> {weights}"
    )
