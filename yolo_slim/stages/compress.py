"""Compress: methods beside channel pruning, one after the other: planned, applied, proven, refitted, trained, measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from yolo_slim import checkpoint
from yolo_slim.compress import Material, Plan
from yolo_slim.compress.refit import refit
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import finished, lineage, run_stage
from yolo_slim.stages.chain import Turn, chain_of
from yolo_slim.stages.common import looked_at, say
from yolo_slim.stages.entry import begins, continues
from yolo_slim.stages.original import original
from yolo_slim.stages.tuning import Taught, trained_on
from yolo_slim.training.holding import SETTINGS, HoldingTrainer
from yolo_slim.training.plans import load_plan, save_plan

WEIGHTS, PLAN = "step.pt", "plan.pt"


@continues
def compress(config: Complete) -> Record:
    """runs/<name>/compressed/compressed.pt: the detector as it is now, after what is named behind `prune`."""
    chain = chain_of(config)
    if not chain.behind:
        raise SlimError(
            "compress: names no method behind prune; say which, e.g. compress=[prune, {weights: {pattern: '2:4'}}]"
        )
    if not chain.prunes:
        return _in_turn(config, "compressed", original(config).output(config.folder / "original"), chain.behind)
    done = lineage(config, "compressed")
    if "pruned" not in done:
        raise SlimError(
            f"nothing pruned yet in {config.folder} from what is there now: run `yolo-slim prune` with the same "
            "configuration first, or leave prune out of compress"
        )
    last = list(done)[-1]
    return _in_turn(config, "compressed", done[last].output(config.folder / last), chain.behind)


def whole(config: Complete) -> Path:
    """What channels are pruned from: the original, or what methods before `prune` make of it (runs/<name>/reshaped)."""
    start = original(config).output(config.folder / "original")
    if not (turns := chain_of(config).before):
        return start
    return _in_turn(config, "reshaped", start, turns).output(config.folder / "reshaped")


def _in_turn(config: Complete, stage: str, start: Path, turns: tuple[Turn, ...]) -> Record:
    weights, plans, rows = start, list[Path](), {}
    for turn in turns:
        done = _turn(config, f"{stage}/{turn.name}", weights, turn, plans)
        folder = config.folder / done.stage
        weights, plans = done.output(folder), [*plans, done.output(folder, "plan")]
        rows[turn.name] = {**done.metrics, **done.details}

    def work(folder: Path) -> tuple:
        final = folder / f"{stage}.pt"
        shutil.copyfile(weights, final)
        row = dict(list(rows.values())[-1])
        return {"weights": final}, measured_of(row), {"steps": list(rows)}

    return run_stage(config, stage, {"steps": [turn.said for turn in turns]}, [start, weights], work)
