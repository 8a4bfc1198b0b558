"""Prune: take residual branches out, score, select, cut, prove, recover."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from yolo_slim import checkpoint, record
from yolo_slim.channels import Start
from yolo_slim.channels.select import amount
from yolo_slim.config import Complete, Prune
from yolo_slim.console import console
from yolo_slim.data.unlabelled import sum_of_pictures
from yolo_slim.pruning.choose import Findings, curves_in, evidence_from, sources
from yolo_slim.pruning.cut import Pruned, cut_to_plan
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import run_stage
from yolo_slim.stages.common import say
from yolo_slim.stages.entry import begins
from yolo_slim.stages.landed import compatible, landed_plan
from yolo_slim.stages.unpruned import unpruned
from yolo_slim.timing.clock import layer_table, timing
from yolo_slim.timing.stopwatch import said, stopwatch


@begins
def prune_stage(config: Complete) -> Record:
    """runs/<name>/pruned/pruned.pt and kept.json, the cut as a list to replay."""
    start, plan = unpruned(config), landed_plan(config)
    compatible(config.prune, config.sparse_train.mode if plan else None)
    if config.prune.iterations.rounds > 1:
        from yolo_slim.stages.rounds import prune_in_rounds  # only now: a round is made of what is in this file

        return prune_in_rounds(config, start)
    return cut_stage(config, "pruned", start, config.prune, plan=plan)


def cut_stage(
    config: Complete,
    stage: str,
    weights: Path,
    chosen: Prune,
    *,
    start: Start | None = None,
    split: str | None = None,
    plan: Path | None = None,
    origin: Path | None = None,
) -> Record:
    """runs/<name>/<stage>/pruned.pt and kept.json: one cut of `weights`, measured on `split` (or the report's).

    Latencies refer to `origin`, the weights before the first of several rounds; None: to `weights`. In every round,
    solver sensitivity goes by the scan of the detector before the first: its shares are of the channels of then.
    """
    scan = None
    if chosen.solver == "sensitivity" and not plan:
        from yolo_slim.stages.sensitivity import scanned  # only now: most cuts need no scan

        scan = scanned(config)
    settings = {
        **chosen.model_dump(exclude={"iterations"}),
        "imgsz": config.imgsz,
        "data": config.data,
        **timing(config),
    }
    if config.images and not config.data:
        settings |= {"images": config.images, "images_sum": sum_of_pictures(config.images, "images")}

    def work(folder: Path) -> tuple:
        detector = checkpoint.load(weights)
        if not config.data:
            console.print(
                f"no data: mAP is not measured, and channels are judged by the pictures in {config.images}"
                if config.images
                else "no data: nothing is measured, and batch norm is not recalibrated"
            )
        if plan:
            console.print(f"following the plan that sparse training has landed: {plan}")
        follow = json.loads(plan.read_text(encoding="utf-8")) if plan else None
        whole = checkpoint.load(origin) if origin else detector
        curves, layers = curves_in(scan) if scan else None, layer_table(config, whole)
        found = Findings(curves, layers, timed=stopwatch(config, whole))
        evidence = evidence_from(config, detector)
        result = cut_to_plan(detector, chosen, config.imgsz, evidence, start=start, follow=follow, found=found)
        _tell(result, config)
        pruned = checkpoint.save(result.model, folder / "pruned.pt")
        record.write_json(folder / "kept.json", result.narrower)
        row = measured(config, pruned, split)
        say(stage, row, pruned)
        if plan and row["map50_95"] is not None:
            sparse = record.read(config.folder / "sparse")
            assert sparse is not None, "it has just been followed"
            before = sparse.metrics["map50_95"]
            console.print(f"mAP50-95 before the cut {before:.4f}, after it {row['map50_95']:.4f}")
        return {"weights": pruned, "kept": folder / "kept.json"}, row, _details(result)

    found = [file for file in (plan, scan) if file]
    return run_stage(config, stage, settings, [weights, *found, *sources(chosen.criterion)], work)


def _details(result: Pruned) -> dict[str, Any]:
    reasons = {name: g.reason for g in result.trace.groups for name in g.producers if g.reason}
    widths = [
        {
            "layer": c.name,
            "before": len(c.outputs),
            "after": len(result.kept[c.name]),
            "reason": reasons.get(c.name),
        }
        for c in result.trace.convs.values()
    ]
    cost = result.cost
    return {
        "asked": cost.asked,
        "achieved": cost.achieved,
        "measured": cost.measured,
        "looser": cost.looser,
        "tighter": cost.tighter,
        "masked_vs_cut": result.difference,
        "lossless": result.lossless,
        "blocks": list(result.blocks),
        "widths": widths,
    }


def _tell(result: Pruned, config: Complete) -> None:
    cost = result.cost
    asked = ", ".join(f"{k} {amount(k, v)}" for k, v in cost.asked.items()) or "ratios by layer"
    got = ", ".join(f"{k} {amount(k, v)}" for k, v in cost.achieved.items())
    beside = [
        f"one step {word} removed: {', '.join(f'{k} {amount(k, other[k])}' for k in cost.asked)}"
        for word, other in (("less", cost.looser), ("more", cost.tighter))
        if other and cost.asked
    ]
    console.print(f"asked for {asked}; achieved {got}" + (f" ({'; '.join(beside)})" if beside else ""))
    for line in said(cost, config.latency.runtime):
        console.print(line)
    if result.blocks:
        console.print(f"taken out whole: {', '.join(result.blocks)}")
    whole = [g for g in result.trace.groups if g.reason]
    console.print(
        f"{len(result.narrower)} of {len(result.trace.convs)} convolutions are narrower, "
        f"{len(whole)} widths must stay; "
        f"masked and cut detector differ by {result.difference:.1e}"
    )
    if result.lossless:
        console.print("all that was removed was exactly zero: nothing is lost, absorbed or recalibrated")
