"""`sparse_train.mode=auto`: whether channels are landed before the cut is told by a cut that nothing has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_slim import checkpoint, record
from yolo_slim.config import Complete, SparseTrain
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.measure import accuracy
from yolo_slim.record import Record
from yolo_slim.runs.stage import run_stage
from yolo_slim.stages.common import look_of, looked_at
from yolo_slim.stages.cut import cut_stage
from yolo_slim.stages.labels import val_labelled
from yolo_slim.stages.landing_time import TooFewSteps, check_steps
from yolo_slim.stages.modes import RECOVERY, check_compatible, decisive
from yolo_slim.stages.original import original
from yolo_slim.stages.plan import plan_stage

STAGE = "trial"
ENOUGH = 0.97
"""Share of the original's mAP50-95 that a cut may keep at most without any training, for a landing to pay."""


def decided(config: Complete) -> Complete:
    """The configuration with a mode in the place of `auto`: targeted where a landing pays, none where it does not.

    Where it cannot be had (too few steps, residual branches or rounds), or told (no labels in val), there is none.
    """
    chosen = config.sparse_train
    if chosen.mode != "auto" or not chosen.epochs:
        return config
    lands = _with(config, mode="targeted")
    reason = _in_the_way(lands)
    if reason is None:
        found = trial(config).details
        kept = (
            f"cut as it is, the detector keeps {found['kept']:.0%} of the original's mAP50-95 on val "
            f"({found['cut']:.3f} of {found['original']:.3f})"
        )
        if found["kept"] < ENOUGH:
            console.print(f"sparse_train.mode=auto: {kept}: channels are landed before they are cut", markup=False)
            return lands
        reason = f"{kept}, and a landing would gain nothing"
    console.print(f"sparse_train.mode=auto: no sparse training: {reason}", markup=False)
    return _with(config, epochs=0)


def settled(config: Complete) -> Complete:
    """The same for a cut that is asked for alone: by what was decided, or trained, before; else there is none."""
    if config.sparse_train.mode != "auto" or not config.sparse_train.epochs:
        return config
    if record.read(config.folder / STAGE):
        return decided(config)
    sparse = record.read(config.folder / "sparse")
    return _with(config, mode=sparse.settings["mode"]) if sparse else _with(config, epochs=0)


def trial(config: Complete) -> Record:
    """runs/<name>/trial: what the cut of the original keeps once it has been recovered, on val; pruned/ holds it."""
    start = original(config).output(config.folder / "original")
    look = look_of(config, start)
    plan = plan_stage(config, "plan", start, config.prune, look)
    recovery = config.prune.model_dump(mode="json", include=RECOVERY)
    settings = {**decisive(config, config.prune), "recovery": recovery, **looked_at(config)}

    def work(folder: Path) -> tuple:
        cut = cut_stage(config, "pruned", start, config.prune, plan, look).output(config.folder / "pruned")
        before, after = (
            accuracy(checkpoint.load(file), config.dataset, config.imgsz, "val", config.device)["map50_95"]
            for file in (start, cut)
        )
        return {}, {}, {"original": before, "cut": after, "kept": after / before if before else 1.0}

    return run_stage(config, STAGE, settings, [start, plan.output(config.folder / plan.stage, "plan")], work)


def _in_the_way(config: Complete) -> str | None:
    """Why channels cannot be landed, or it cannot be told whether that pays; None: nothing."""
    if not val_labelled(config):
        return "no image of val has a label to judge by whether it pays"
    try:
        check_steps(config)
    except TooFewSteps as e:
        return str(e)
    try:
        check_compatible(config.prune, "targeted")
    except SlimError as e:
        return str(e)
    return None


def _with(config: Complete, **changed: Any) -> Complete:
    sparse = SparseTrain.model_copy(config.sparse_train, update=changed)
    return config.model_copy(update={"sparse_train": sparse})
