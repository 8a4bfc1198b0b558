"""Cut: follow a plan, prove, recover, measure; a stage of its own for whoever has a plan."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolo_slim import checkpoint
from yolo_slim.config import Complete, Prune
from yolo_slim.console import console
from yolo_slim.pruning.choose import NOTHING, findings
from yolo_slim.pruning.cut import Pruned, cut_to_plan
from yolo_slim.pruning.plan import read_plan
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import done_before, run_stage
from yolo_slim.stages.auto import BESIDE, TRIAL
from yolo_slim.stages.common import Look, cut_settings, say
from yolo_slim.stages.device import tell_padded
from yolo_slim.stages.plan import FIGURES, tell_cost


def cut_stage(
    config: Complete,
    stage: str,
    weights: Path,
    chosen: Prune,
    by: Record,
    look: Look,
    *,
    split: str | None = None,
    more: Callable[[float], dict[str, Any]] = lambda worth: {},
) -> Record:
    """runs/<name>/<stage>/pruned.pt: `weights` cut by the plan that another stage has made.

    Args:
        config: of the run.
        stage: this one's name.
        weights: what is cut.
        chosen: the `prune:` section.
        by: the stage that made the plan.
        look: what is looked at.
        split: what the cut is measured on; None: the report's.
        more: details of the record beside the cut's own, from its mAP50-95.
    """
    plan, landed = by.output(config.folder / by.stage, "plan"), by.stage == "sparse"
    settings, inputs = cut_settings(config, chosen), [weights, plan]

    def work(folder: Path) -> tuple:
        pruned = folder / "pruned.pt"
        if stage != TRIAL and (tried := done_before(config, TRIAL, settings, inputs)):
            console.print("the cut that was tried is taken")
            shutil.copyfile(tried.output(config.folder / TRIAL), pruned)
            details = {key: value for key, value in tried.details.items() if key not in BESIDE}
        else:
            details = made(pruned)
        row = measured(config, pruned, split)
        say(config, stage, row, pruned)
        if landed and row["map50_95"] is not None:
            console.print(f"mAP50-95 before the cut {by.metrics['map50_95']:.4f}, after it {row['map50_95']:.4f}")
        return {"weights": pruned}, row, {**details, **more(row["map50_95"])}

    def made(pruned: Path) -> dict[str, Any]:
        detector, found = checkpoint.load(weights), NOTHING
        if not config.data:
            console.print(
                f"no data: mAP is not measured, and what reads removed channels is refitted on {config.images}"
                if config.images
                else "no data: nothing is measured, and batch norm is not recalibrated"
            )
        if landed:
            console.print(f"following the plan that sparse training has landed: {plan}")
            found = findings(config, detector)
        result = cut_to_plan(detector, chosen, config.imgsz, look(), follow=read_plan(plan), found=found)
        if landed:
            tell_cost(result.cost, config)
        _tell(result)
        padded = tell_padded(chosen, stage, result.model, config.imgsz)
        checkpoint.save(result.model, pruned)
        return {**_details(result), **padded, **{key: by.details[key] for key in FIGURES if key in by.details}}

    return run_stage(config, stage, settings, inputs, work)


def _details(result: Pruned) -> dict[str, Any]:
    kept, reasons = result.kept, {name: g.reason for g in result.trace.groups for name in g.producers if g.reason}
    widths = [
        {
            "layer": c.name,
            "before": len(c.outputs),
            "after": len(kept[c.name]),
            "reason": reasons.get(c.name),
        }
        for c in result.trace.convs.values()
    ]
    return {
        **{key: getattr(result.cost, key) for key in FIGURES},
        "masked_vs_cut": result.difference,
        "lossless": result.lossless,
        "blocks": list(result.blocks),
        "widths": widths,
    }


def _tell(result: Pruned) -> None:
    whole = [g for g in result.trace.groups if g.reason]
    console.print(
        f"{len(result.plan.outputs)} of {len(result.trace.convs)} convolutions are narrower, "
        f"{len(whole)} widths must stay; "
        f"masked and cut detector differ by {result.difference:.1e}"
    )
    if result.lossless:
        console.print("all that was removed was exactly zero: nothing is lost, absorbed or recalibrated")
