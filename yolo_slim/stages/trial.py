"""`sparse_train.mode=auto`: whether channels are landed before the cut is told by a cut that nothing has trained."""

from __future__ import annotations

from yolo_slim import checkpoint
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.record import Record
from yolo_slim.stages.auto import TRIAL, in_its_way, lands, said, trained, undecided
from yolo_slim.stages.common import look_of
from yolo_slim.stages.compress import whole
from yolo_slim.stages.cut import cut_stage
from yolo_slim.stages.labels import val_labelled, worth_on_val
from yolo_slim.stages.landing_time import TooFewSteps, check_steps
from yolo_slim.stages.plan import plan_stage


def decided(config: Complete) -> Complete:
    """The configuration with a mode in the place of `auto`: targeted where a landing pays, none where it does not.

    Where it cannot be had (too few steps, residual branches or rounds), or told (no labels in val), there is none.
    """
    if not undecided(config):
        return config
    landing = trained(config, mode="targeted")
    reason = in_the_way(landing)
    if reason is None:
        found = trial(landing)
        if lands(found):
            console.print(f"sparse_train.mode=auto: {said(found)}: its channels are landed first", markup=False)
            return landing
        reason = said(found) + (", and a landing would gain nothing" if found.details["kept"] is not None else "")
    console.print(f"sparse_train.mode=auto: no sparse training: {reason}", markup=False)
    return trained(config, epochs=0)


def trial(config: Complete) -> Record:
    """runs/<name>/trial/pruned.pt: the original, cut and recovered; what it keeps on val."""
    start = whole(config)
    look = look_of(config, start)
    plan = plan_stage(config, "plan", start, config.prune, look)

    def against_the_original(cut: float) -> dict[str, float | None]:
        whole = worth_on_val(config, checkpoint.load(start))
        return {"original": whole, "kept": cut / whole if whole else None}

    return cut_stage(config, TRIAL, start, config.prune, plan, look, split="val", more=against_the_original)


def in_the_way(config: Complete) -> str | None:
    """Why channels cannot be landed, or it cannot be told whether that pays; None: nothing."""
    if not val_labelled(config):
        return "no image of val has a label to judge by whether it pays"
    if reason := in_its_way(config):
        return reason
    try:
        check_steps(config)
    except TooFewSteps as e:
        return str(e)
    return None
