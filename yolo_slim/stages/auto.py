"""`sparse_train.mode=auto` as it is read by stages that train nothing: what was decided, or trained, before holds."""

from __future__ import annotations

from typing import Any

from yolo_slim import record
from yolo_slim.config import Complete
from yolo_slim.errors import SlimError
from yolo_slim.record import Record
from yolo_slim.runs.stage import done_before, finished
from yolo_slim.stages.chain import whole_stage
from yolo_slim.stages.common import cut_settings

TRIAL = "trial"
"""The stage that tries the cut."""
BESIDE = ("original", "kept")
"""What its record holds beside the details of a cut."""
ENOUGH = 0.95
"""Share of the original's mAP50-95 that a cut may keep at most without any training, for a landing to pay. In twenty
epochs it gained .8 points where 94 % was kept (bccd at FLOPs x0.25), and cost as much at 96 % (cards at x0.5)."""


def undecided(config: Complete) -> bool:
    """Whether it is still to be told if there is a sparse training, and which."""
    return config.sparse_train.mode == "auto" and config.sparse_train.epochs > 0


def trained(config: Complete, **changed: Any) -> Complete:
    """The configuration with another `mode` of sparse training, or other `epochs`."""
    return config.model_copy(update={"sparse_train": config.sparse_train.model_copy(update=changed)})


def in_its_way(config: Complete) -> str | None:
    """Why what `prune:` asks for cannot be landed; None: nothing."""
    if config.prune.depth and config.prune.depth.blocks:
        return "prune.depth takes residual branches out whole, which do not land"
    if config.prune.iterations.rounds > 1:
        return "prune.iterations.rounds trains between its cuts"
    return None


def settled(config: Complete) -> Complete:
    """The configuration with a mode in the place of `auto`, or no sparse training; nothing is tried for it.

    Raises:
        SlimError: a landing was decided for, and has not been made.
    """
    if not undecided(config):
        return config
    found, sparse = verdict(config), record.read(config.folder / "sparse")
    if in_its_way(config) or (found and not lands(found)):
        return trained(config, epochs=0)
    if found and not sparse:
        raise SlimError(
            f"{said(found)}: its channels are to be landed first. Run `yolo-slim sparse-train` with the same "
            "configuration, or cut the original as it is: sparse_train.epochs=0"
        )
    return trained(config, mode=sparse.settings["mode"]) if sparse else trained(config, epochs=0)


def verdict(config: Complete) -> Record | None:
    """The record of a trial of this very cut, if there was one."""
    start = finished(config, whole_stage(config))
    plan = record.read(config.folder / "plan")
    if start is None or plan is None:
        return None
    inputs = [start, plan.output(config.folder / plan.stage, "plan")]
    return done_before(config, TRIAL, cut_settings(config, config.prune), inputs)


def lands(found: Record) -> bool:
    """Whether a landing pays, as a trial tells it; without a figure there is none."""
    kept = found.details["kept"]
    return kept is not None and kept < ENOUGH


def said(found: Record) -> str:
    """What a trial has come to."""
    if found.details["kept"] is None:
        return "the original finds nothing on val by which a cut of it could be judged"
    return (
        f"cut as it is, the detector keeps {found.details['kept']:.1%} of the original's mAP50-95 on val "
        f"({found.metrics['map50_95']:.3f} of {found.details['original']:.3f})"
    )
