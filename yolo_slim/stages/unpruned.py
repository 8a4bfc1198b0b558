"""The weights that are pruned: what sparse training has made, or the original."""

from __future__ import annotations

from pathlib import Path

from yolo_slim import record
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.runs.stage import finished
from yolo_slim.stages.chain import whole_stage
from yolo_slim.stages.compress import whole
from yolo_slim.training.resuming import STARTED


def unpruned(config: Complete) -> Path:
    """The sparse-trained weights where the configuration has that stage and it was done, else the original.

    Raises:
        SlimError: sparse training was begun and not finished, or began with another detector.
    """
    start = finished(config, "sparse") if config.sparse_train.epochs else None
    if start is None and config.sparse_train.epochs and (config.folder / "sparse" / "train" / STARTED).exists():
        raise SlimError(
            f"sparse training was begun in {config.folder / 'sparse'} and is not finished: run `yolo-slim "
            "sparse-train` again, it goes on; or prune without it: sparse_train.epochs=0"
        )
    if start is not None and not _of_this_model(config):
        raise SlimError(
            f"{config.folder / 'sparse'} was trained from another detector than {config.model}: run `yolo-slim "
            "sparse-train` first, prune without it (sparse_train.epochs=0), or give this one a name= of its own"
        )
    if start is None:
        console.print("without sparse training: the original is pruned")
        start = whole(config)
    return start


def _of_this_model(config: Complete) -> bool:
    """Whether the sparse detector comes from the original that is there now, or what methods before made of it."""
    first, sparse = (record.read(config.folder / stage) for stage in (whole_stage(config), "sparse"))
    return bool(first and sparse and sparse.source == first.sums["weights"])
