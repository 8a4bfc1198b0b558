"""What every stage does the same: find its inputs, know when it is done, write its record last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultralytics.utils.torch_utils import select_device

from yolo_slim import checkpoint, record
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.data import yaml_of
from yolo_slim.errors import SlimError, why
from yolo_slim.measure import NOT_MEASURED
from yolo_slim.record import Record
from yolo_slim.runs import SLIM, WEIGHTS, dry, identity, log
from yolo_slim.runs.lineage import slimmest, story

TOLD = 8
"""Changes that set a stage going again: as many as are told."""

DRAWS = ("replicates", "replicates_at_25")
NOT_IN_CARD = {"file_mb", "images", "labels", "per_class", *DRAWS, *NOT_MEASURED} - {"map50", "map50_95"}
"""Metrics that a checkpoint does not carry: the card itself changes its size, and is to stay small."""

Work = Callable[[Path], tuple[dict[str, Path], dict[str, Any], dict[str, Any]]]
"""Does a stage in its folder: outputs by name, metrics, details."""


def run_stage(config: Complete, stage: str, settings: dict[str, Any], inputs: list[Path], work: Work) -> Record:
    """Do a stage unless it was done with the same settings, inputs and code; then write its record, last."""
    check_device(config.device)
    folder = config.folder / stage
    settings, inputs = _as_read_back(settings), [*inputs, *_described(config)]
    if done := record.unchanged(folder, stage, settings, sums := sums_of(inputs)):
        console.print(f"[bold]{stage}[/]: done before, nothing has changed ({folder / record.FILE})")
        _remove_replaced(folder, done)
        return done
    before = record.stated(folder)
    what = (record.changes(before, settings, sums) or ["its files are not as its record says"]) if before else []
    dry.check(stage, what)
    console.rule(f"[bold]{stage}")
    if what:
        more = [f"and {len(what) - TOLD} more"] if len(what) > TOLD else []
        console.print(f"{stage}: done again: {'; '.join([*what[:TOLD], *more])}", markup=False)
    if stage in WEIGHTS and (start := _first_checkpoint(inputs)):
        checkpoint.card(start)  # what is wrong with it shows before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise SlimError(f"cannot write to {folder}: {why(e, folder)}") from e
    of, begun = identity.begin(config.folder, identity.identity_of(config)), time.time()
    log.begin()
    try:
        outputs, metrics, details = work(folder)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise SlimError(f"{stage}: cannot use {e.filename or folder}: {why(e, e.filename or folder)}") from e
    if stage in WEIGHTS:
        sign(outputs["weights"], inputs, {"stage": stage, "settings": settings, **metrics})
        if stage in SLIM:
            outputs = {**outputs, **checkpoint.beside(outputs["weights"])}
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


def done_before(config: Complete, stage: str, settings: dict[str, Any], inputs: list[Path]) -> Record | None:
    """The record of a stage, if it was done with the same settings, inputs and code."""
    sums = sums_of([*inputs, *_described(config)])
    return record.unchanged(config.folder / stage, stage, _as_read_back(settings), sums)


def _as_read_back(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings))


def _described(config: Complete) -> list[Path]:
    """The YAML of the data set, an input of every stage."""
    return [data] if (data := yaml_of(config.data)) else []


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
    return next((path for path in inputs if checkpoint.is_stored(path)), None)


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


def finished(config: Complete, stage: str) -> Path | None:
    """The weights a stage has written, if it was finished."""
    done = record.read(config.folder / stage)
    return done.output(config.folder / stage) if done else None


def lineage(config: Complete, before: str | None = None) -> dict[str, Record]:
    """The finished stages that build on one another, from the original on; why others are left out is said.

    Args:
        config: of the run.
        before: a stage that is about to be done again: its own results do not matter.

    Raises:
        SlimError: what one of them has written is gone, or is not what it wrote: a stage before it would be taken for
            the last.
    """
    told, left_out = story(config.folder)
    for stage in WEIGHTS[: WEIGHTS.index(before) if before else None]:
        folder, whole = config.folder / stage, stage in told or stage in left_out
        if not whole and (done := record.stated(folder)) and "weights" in done.outputs:
            file = done.output(folder)
            what = "is not what it was written as: damaged, or replaced" if file.exists() else "is gone"
            raise SlimError(f"{file} {what}. Do that stage again, or delete {folder} to go on with what came before it")
    for stage, reason in left_out.items():
        console.print(f"{stage}: left out, {reason}", markup=False)
    return told


def slim_weights(config: Complete, done: dict[str, Record]) -> Path | None:
    """The weights of the last stage that made the detector slim, of a lineage."""
    stage = slimmest(done)
    return done[stage].output(config.folder / stage) if stage else None
