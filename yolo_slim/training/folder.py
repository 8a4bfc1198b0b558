"""Train in a folder of a stage, so that a kill costs one epoch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from yolo_slim import checkpoint, record
from yolo_slim.console import console
from yolo_slim.data import yaml_of
from yolo_slim.data.batches import Batches
from yolo_slim.errors import SlimError, why
from yolo_slim.formats.detector import Detector
from yolo_slim.runs.stage import sums_of
from yolo_slim.training.arguments import STRIDE, check_against, check_last_batch, smallest
from yolo_slim.training.finite import unsound
from yolo_slim.training.resuming import STARTED, StartAfresh, epochs_done
from yolo_slim.training.trainer import SlimTrainer, train

PLOTS = True
"""Whether Ultralytics draws its plots (curves, batches, confusion) where `train.plots` says nothing."""


def train_in(
    folder: Path,
    trainer: type[SlimTrainer],
    model: Path | str,
    *,
    settings: dict[str, Any],
    inputs: list[Path],
    extra: dict[str, dict],
    arguments: dict[str, Any],
) -> Path:
    """Train in folder/train, or go on where the same training was killed; returns its weights folder.

    Args:
        folder: of the stage.
        trainer: the class that trains.
        model: a checkpoint, or a YAML to start untrained.
        settings: of the stage; a training begun with other settings, inputs or arguments is thrown away.
        inputs: files that decide the outcome.
        extra: files for the run folder, which the trainer reads: name -> content.
        arguments: for Ultralytics.
    """
    run = folder / "train"
    decisive = {k: v for k, v in arguments.items() if k != "device"}
    data = [file] if (file := yaml_of(arguments["data"])) else []
    asked = json.loads(json.dumps({"settings": settings, "inputs": sums_of([*inputs, *data]), "arguments": decisive}))
    asked["code"] = record.code()  # what two of them have trained is told of neither
    common = {"plots": PLOTS, **arguments}
    try:
        done = epochs_done(run, asked)
        if done >= arguments["epochs"]:
            console.print("training was complete")
            return run / "weights"
        console.print(f"going on after epoch {done} of {arguments['epochs']}")
        _prepare(run, extra)
        train(trainer, model, run, True, **common)
        return _sound(run / "weights")
    except StartAfresh as e:
        reason = str(e)
    if reason:
        console.print(f"starting afresh: {reason}", markup=False)
    if checkpoint.is_stored(model):
        check_fits(checkpoint.load(model), arguments, "train")
    shutil.rmtree(run, ignore_errors=True)
    _prepare(run, extra)
    record.write_json(run / STARTED, asked)
    train(trainer, model, run, False, **common)
    return _sound(run / "weights")


def _sound(weights: Path) -> Path:
    """The folder, where all that it holds are numbers."""
    for file in weights.glob("[!.]*.pt"):
        if where := unsound(checkpoint.read(file)):
            raise SlimError(f"{file} holds values that are no numbers ({where}): nothing is made of it")
    return weights


def _prepare(run: Path, extra: dict[str, dict]) -> None:
    """The run folder with the files that the trainer reads, as they are to be, whatever a kill has left of them."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise SlimError(f"cannot write to {run}: {why(e, run)}") from e
    for name, content in extra.items():
        record.write_text(run / name, yaml.safe_dump(content))


def check_fits(detector: Detector, arguments: dict[str, Any], where: str, classes: int | None = None) -> None:
    """Whether a training of this detector can be as its arguments say.

    Raises:
        SlimError: with the section and the argument.
    """
    check_against(detector, arguments, where, classes)
    if teacher := arguments.get("distill_model"):
        checkpoint.load(teacher)
    data, imgsz = arguments["data"], arguments["imgsz"]
    if data and smallest(imgsz, arguments) < 2 * STRIDE:
        check_last_batch(len(Batches(data, imgsz, 0).dataset), imgsz, arguments, where)
