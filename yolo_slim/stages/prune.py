"""Prune: the detector as it is now is cut by its plan, in one go or in rounds."""

from __future__ import annotations

from yolo_slim.config import Complete
from yolo_slim.record import Record
from yolo_slim.runs.stage import finished
from yolo_slim.stages.auto import settled
from yolo_slim.stages.common import look_of
from yolo_slim.stages.cut import cut_stage
from yolo_slim.stages.entry import begins
from yolo_slim.stages.modes import check_compatible, landing_mode
from yolo_slim.stages.plan import planned
from yolo_slim.stages.rounds import prune_in_rounds
from yolo_slim.stages.unpruned import unpruned


@begins
def prune_stage(config: Complete) -> Record:
    """runs/<name>/pruned/pruned.pt, by the plan in runs/<name>/plan, or that which sparse training has ended with."""
    config = settled(config)
    start = unpruned(config)
    landed = landing_mode(config) if start == finished(config, "sparse") else None
    check_compatible(config.prune, landed)
    if config.prune.iterations.rounds > 1:
        return prune_in_rounds(config, start)
    look = look_of(config, start)
    return cut_stage(config, "pruned", start, config.prune, planned(config, start, look), look)
