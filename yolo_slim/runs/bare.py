"""A slim file that no run has made, or of which no run is here: what is made of it is a run of its own."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from yolo_slim import checkpoint, record
from yolo_slim.config import Complete, Config
from yolo_slim.console import console
from yolo_slim.record import Record
from yolo_slim.runs import BARE, LONGEST, identity
from yolo_slim.runs.identity import Identity
from yolo_slim.runs.lineage import slimmest, story


def run_of(config: Config) -> Config:
    """The configuration with the run that a slim `model` belongs to, where that is not the one of its name.

    It is the run whose last slim detector the file is, by content; else one that is called as the file is.

    Raises:
        SlimError: the checkpoint cannot be read.
    """
    model = config.model
    if isinstance(config, Complete) or model is None or not _is_slim(model):
        return config
    now = Identity(model, identity.sum_of(model), None, None, 0)
    then = identity.read(config.folder)
    if then and identity.same_model(then, now):
        return config
    if then and _last(config.folder) == now.model_sum:
        return config.model_copy(update={"model": None})
    if "name" in config.model_fields_set:
        return config
    stem = re.sub(r"[^\w.-]", "_", Path(model).stem).lstrip(".")[:LONGEST] or BARE
    names = (stem if i == 1 else f"{stem}-{i}" for i in count(1))
    runs = Path(config.runs)
    name = next(n for n in names if not (found := identity.read(runs / n)) or identity.same_model(found, now))
    if name != config.name:
        console.print(
            f"{model} is of no run in {config.folder}: what is made of it goes to {runs / name}", markup=False
        )
    return config.model_copy(update={"name": name})


def with_file(config: Complete, done: dict[str, Record]) -> dict[str, Record]:
    """The stages of a run; where they begin with a slim file of no run, or are yet to, that file before them."""
    if "original" in done or not _is_slim(config.model):
        return done
    path = Path(config.model).absolute()
    file = Record(BARE, {}, {}, {"weights": str(path)}, {"weights": record.sha256(path)}, {}, 0.0)
    begun = next(iter(done.values()), None)
    return {BARE: file, **done} if begun is None or begun.source == file.sums["weights"] else done


def _is_slim(model: str) -> bool:
    return checkpoint.is_stored(model) and Path(model).is_file() and checkpoint.is_slim(checkpoint.load(model))


def _last(folder: Path) -> str | None:
    """The sha256 of the last slim detector of a run."""
    told = story(folder)[0]
    stage = slimmest(told)
    return told[stage].sums["weights"] if stage else None
