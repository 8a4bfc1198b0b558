"""What every recipe does the same: find its inputs, know when it is done, train so that a kill costs one epoch."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import yaml
from torch import nn
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import select_device

from yolo_slim import checkpoint, record, report
from yolo_slim.config import Config
from yolo_slim.data import dataset_info, labelled, yaml_of
from yolo_slim.errors import SlimError, why
from yolo_slim.measure import NOT_MEASURED, accuracy, cost
from yolo_slim.record import Record
from yolo_slim.runs import WEIGHTS, identity
from yolo_slim.runs.lineage import story
from yolo_slim.stages.console import Terminal
from yolo_slim.training.arguments import STRIDE, check_against, check_last_batch, smallest
from yolo_slim.training.calibrate import Batches
from yolo_slim.training.finite import unsound
from yolo_slim.training.resuming import STARTED, StartAfresh, epochs_done
from yolo_slim.training.trainer import SlimTrainer, train

console = Terminal(highlight=False, soft_wrap=True)

TOLD = 8
"""Changes that set a stage going again: as many as are told."""

NOT_IN_CARD = {"file_mb", "images", "labels", "per_class", "replicates", *NOT_MEASURED} - {"map50", "map50_95"}
"""Metrics that a checkpoint does not carry: the card itself changes its size, and is to stay small."""

Work = Callable[[Path], tuple[dict[str, Path], dict[str, Any], dict[str, Any]]]
"""Does a stage in its folder: outputs by name, metrics, details."""


def run_stage(config: Config, stage: str, settings: dict[str, Any], inputs: list[Path], work: Work) -> Record:
    """Do a stage unless it was done with the same settings, inputs and code; then write its record, last."""
    check_device(config.device)
    folder = config.folder / stage
    settings = json.loads(json.dumps(settings))  # as it will be read back
    if data := yaml_of(config.data):
        inputs = [*inputs, data]
    sums = sums_of(inputs)
    if done := record.unchanged(folder, stage, settings, sums):
        console.print(f"[bold]{stage}[/]: done before, nothing has changed ({folder / record.FILE})")
        _remove_replaced(folder, done)
        return done
    before = record.stated(folder)
    console.rule(f"[bold]{stage}")
    if before:
        what = record.changes(before, settings, sums) or ["its files are not as its record says"]
        more = [f"and {len(what) - TOLD} more"] if len(what) > TOLD else []
        console.print(f"{stage}: done again: {'; '.join([*what[:TOLD], *more])}", markup=False)
    if stage in WEIGHTS and (start := _first_checkpoint(inputs)):
        checkpoint.card(start)  # what is wrong with it shows before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise SlimError(f"cannot write to {folder}: {why(e, folder)}") from e
    of, begun = identity.begin(config.folder, identity.identity_of(config)), time.time()
    try:
        outputs, metrics, details = work(folder)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise SlimError(f"{stage}: cannot use {e.filename or folder}: {why(e, e.filename or folder)}") from e
    if stage in WEIGHTS:
        sign(outputs["weights"], inputs, {"stage": stage, "settings": settings, **metrics})
        metrics["file_mb"] = round(outputs["weights"].stat().st_size / 1e6, 3)
    named = {name: str(path.relative_to(folder)) for name, path in outputs.items()}
    done = Record(
        stage,
        settings,
        sums,
        named,
        {name: record.sha256(path) for name, path in outputs.items()},
        metrics,
        round(time.time() - begun, 1),
        record.versions(),
        details,
        of,
        sorted({*before.outputs.values(), *before.replaced} - set(named.values())) if before else [],
    )
    record.write(folder, done)
    _remove_replaced(folder, done)
    return done


def _remove_replaced(folder: Path, done: Record) -> None:
    """What was asked for once would seem to belong to what is asked for now. Only when that is declared done."""
    for old in done.replaced:
        record.remove(folder, old)


def sign(weights: Path, inputs: list[Path], step: dict[str, Any]) -> None:
    """Write into a checkpoint what it was made from, and how: the card of the first checkpoint, and one more step."""
    start = _first_checkpoint(inputs)
    begun = checkpoint.card(start) if start else {}
    if not begun and start:
        begun = {"source": {"file": start.name, "sha256": record.sha256(start)}}
    numbers = {k: v for k, v in step.items() if k not in NOT_IN_CARD}
    card = {**begun, "steps": [*begun.get("steps", []), numbers], "versions": record.versions()}
    checkpoint.inscribe(weights, json.loads(json.dumps(card)))


def _first_checkpoint(inputs: list[Path]) -> Path | None:
    return next((path for path in inputs if path.suffix == ".pt"), None)


def check_device(device: str) -> None:
    """Before anything is written: is it there?"""
    try:
        select_device(device, verbose=False)
    except ValueError as e:
        raise SlimError(f"device={device} is not there: {str(e).splitlines()[0]}") from e


def sums_of(inputs: list[Path]) -> dict[str, str]:
    """folder/name -> sha256: what went in, wherever the run folder lies; the whole path where two are named alike."""
    sums: dict[str, str] = {}
    for path in dict.fromkeys(map(Path.absolute, inputs)):
        short = f"{path.parent.name}/{path.name}"
        try:
            sums[short if short not in sums else str(path)] = record.sha256(path)
        except OSError as e:
            raise SlimError(f"cannot read {path}: {e.strerror or e}") from e
    return sums


def finished(config: Config, stage: str) -> Path | None:
    """The weights a stage has written, if it was finished."""
    done = record.read(config.folder / stage)
    return done.output(config.folder / stage) if done else None


def lineage(config: Config) -> dict[str, Record]:
    """The finished stages that build on one another, from the original on; why others are left out is said."""
    told, left_out = story(config.folder)
    for stage, reason in left_out.items():
        console.print(f"{stage}: left out, {reason}", markup=False)
    return told


def slim_weights(config: Config, done: dict[str, Record]) -> Path | None:
    """The weights of the last stage that made the detector slim, of a lineage."""
    stage = next((stage for stage in ("finetuned", "pruned") if stage in done), None)
    return done[stage].output(config.folder / stage) if stage else None


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
    common = {"plots": False, **arguments}
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
    if str(model).endswith(".pt"):
        _fits(checkpoint.load(model), arguments, "train")
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


def train_arguments(config: Config, epochs: int, train: dict[str, Any], *, untrained: bool = False) -> dict[str, Any]:
    """Ultralytics' arguments for a training stage: ours, then whatever its `train:` section says.

    Biases of a trained detector warm up from 0 as everything else does. Ultralytics' default lets them start at a
    learning rate of 0.1: with AdamW it took a recovered cut from mAP50-95 .58 to .23 in its first epoch (BCCD).
    """
    if not config.data:
        raise SlimError("training needs a data set: data=path/to/data.yaml")
    return {
        "data": config.data,
        "epochs": epochs,
        "imgsz": config.imgsz,
        "device": config.device,
        "seed": config.seed,
        **({} if untrained else {"warmup_bias_lr": 0.0}),
        **train,
    }


def rehearse_training(config: Config, detector: nn.Module) -> None:
    """What the `train:` sections ask for is there: layers, classes, a teacher; told before hours of training.

    Raises:
        SlimError: with the section and the argument.
    """
    untrained = config.model.endswith((".yaml", ".yml"))
    classes = dataset_info(config.data)["nc"] if untrained and config.data else None
    if config.original.train.get("single_cls"):
        classes = 1
    for name in (*(["original"] if untrained else []), "sparse_train", "finetune"):
        chosen, where = getattr(config, name), f"{name}.train"
        if not chosen.epochs:
            continue
        _fits(detector, {**chosen.train, "data": config.data, "imgsz": config.imgsz}, where, classes)


def _fits(detector: nn.Module, arguments: dict[str, Any], where: str, classes: int | None = None) -> None:
    check_against(detector, arguments, where, classes)
    if teacher := arguments.get("distill_model"):
        checkpoint.load(teacher)
    data, imgsz = arguments["data"], arguments["imgsz"]
    if data and smallest(imgsz, arguments) < 2 * STRIDE:
        check_last_batch(len(Batches(data, imgsz, 0).dataset), imgsz, arguments, where)


def split_of(config: Config) -> str:
    """The split every row is measured on: as asked for, else test where it has labels, else val.

    Many a benchmark (COCO's test-dev) keeps those labels back.

    Raises:
        SlimError: the data set, or the images that it names, cannot be read.
    """
    if config.report.split != "auto":
        return config.report.split
    named = config.data and dataset_info(config.data).get("test")
    return "test" if named and labelled(config.data, "test") else "val"


def measured(config: Config, weights: Path, split: str | None = None) -> dict[str, Any]:
    """The row of a table that can be measured alone: size, cost and, with data, accuracy (on the report's split)."""
    detector = checkpoint.load(weights)
    spent = cost(detector, config.imgsz)
    row: dict[str, Any] = {
        "params": spent.params,
        "macs": spent.macs,
        "flops": spent.flops,
        "file_mb": round(weights.stat().st_size / 1e6, 3),
        **NOT_MEASURED,
    }
    if config.data:
        split = split or split_of(config)
        row |= {"split": split, **accuracy(detector, config.data, config.imgsz, split, config.device)}
    return row


def say(stage: str, row: dict[str, Any], weights: Path) -> None:
    """One line on what a stage has come to."""
    console.print(
        f"[bold green]{stage}[/]: {row['params'] / 1e6:.3f} M parameters  {row['flops'] / 1e9:.3f} GFLOPs  "
        f"{row['file_mb']:.2f} MB{report.worth(row)}  -> {weights}"
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Validations and exports by the dozen need not each say what they did."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


@contextmanager
def unheard() -> Iterator[None]:
    """What programs that are run meanwhile write (NCNN's converter: a page) is shown only where they fail."""
    streams = (sys.stdout, sys.stderr)
    kept = {number: os.dup(number) for number in (1, 2)}
    with tempfile.TemporaryFile() as said:
        _flush(streams)
        try:
            for number in kept:
                os.dup2(said.fileno(), number)
            yield
            _flush(streams)
            said.truncate(0)
        finally:
            _flush(streams)
            for number, before in kept.items():
                os.dup2(before, number)
                os.close(before)
            said.seek(0)
            os.write(2, said.read())


def _flush(streams: Iterable[TextIO]) -> None:
    for stream in streams:
        stream.flush()
