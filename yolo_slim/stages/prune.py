"""Prune: take residual branches out, score, select, cut, prove, recover."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from yolo_slim import checkpoint, record
from yolo_slim.channels import Selection, Start, Trace, cut, silent, trace
from yolo_slim.channels.select import amount
from yolo_slim.config import Config, Prune
from yolo_slim.importance import Evidence, mean_loss
from yolo_slim.record import Record
from yolo_slim.stages import depth
from yolo_slim.stages.choose import NOTHING, Findings, curves_in, evidence_from, follow_plan, plan_without, sources
from yolo_slim.stages.clock import layer_table, timing
from yolo_slim.stages.common import console, measured, run_stage, say
from yolo_slim.stages.entry import begins
from yolo_slim.stages.landed import compatible, landed_plan
from yolo_slim.stages.prove import agree, prove
from yolo_slim.stages.recover import recover
from yolo_slim.stages.stopwatch import said, stopwatch
from yolo_slim.stages.unpruned import unpruned


@dataclass(frozen=True)
class Pruned:
    """A slim detector and how it came about."""

    model: nn.Module
    kept: dict[str, list[int]]  # every convolution -> indices of the output channels kept; none: it went with its block
    cost: Selection  # before, after, asked, achieved
    trace: Trace  # of the detector before the cut
    difference: float  # between the masked and the cut detector, relative
    lossless: bool = False  # every channel removed was exactly zero: neither absorbed nor recalibrated
    blocks: tuple[str, ...] = ()  # residual branches that went whole

    def __repr__(self) -> str:
        return (
            f"<Pruned: {self.cost.summary}, {len(_narrower(self))} of {len(self.kept)} convolutions narrower, masked "
            f"and cut differ by {self.difference:.1e}>"
        )


def cut_to_plan(
    detector: nn.Module,
    chosen: Prune,
    imgsz: int,
    evidence: Evidence,
    *,
    start: Start | None = None,
    follow: dict[str, list[int]] | None = None,
    found: Findings = NOTHING,
) -> Pruned:
    """Take blocks out, score and select, or follow a plan that was made before (as kept.json); cut, prove, recover.

    With a `start`, shares and costs are those of that detector; `found` is what prune.solver=sensitivity and latency
    targets go by.
    """
    whole = trace(detector, imgsz)

    def recovered(blocks: list[str], base: nn.Module, wiring: Trace, kept: np.ndarray, slim: nn.Module) -> nn.Module:
        also = depth.readers_of(whole, blocks)
        return recover(slim, base, wiring, kept, chosen, evidence.images, original=detector, also=also)

    def loss_without(blocks: list[str]) -> float:
        untimed = replace(found, timed=None)  # branches are compared by their loss alone
        blocks, base, wiring, selection = plan_without(detector, whole, blocks, chosen, evidence, found=untimed)
        kept = selection.plan.kept
        return mean_loss(recovered(blocks, base, wiring, kept, cut(base, wiring, kept)), evidence)

    if follow is not None:
        blocks, base, wiring = [], detector, whole
        selection = follow_plan(detector, whole, follow, chosen, found.layers)
    else:
        blocks = depth.chosen_blocks(detector, whole, chosen, evidence, loss_without)
        blocks, base, wiring, selection = plan_without(
            detector, whole, blocks, chosen, evidence, start=start, found=found
        )
    kept = selection.plan.kept
    slim = cut(base, wiring, kept)
    if found.timed and not selection.measured and not kept.all():  # a plan that was made before
        selection = replace(selection, measured=found.timed(slim))
    difference = prove(base, slim, wiring, kept)
    # Where all that goes was silent there is nothing to recover, and recalibration would only exchange the statistics
    # that the weights were trained to the end with for those of unaugmented images.
    lossless = not kept.all() and not blocks and silent(base, wiring, kept) and agree(base, slim, wiring)
    if not lossless:
        slim = recovered(blocks, base, wiring, kept, slim)
    outputs = {name: [] for name in whole.convs if name not in wiring.convs} | selection.plan.outputs(wiring)
    if outputs and hasattr(slim, "yaml"):
        checkpoint.mark_slim(slim, outputs)
        slim.yaml = {**slim.yaml, "channels": whole.image_channels}  # Ultralytics' exporter goes by it
    everything = {name: list(range(len(c.outputs))) for name, c in whole.convs.items()}
    return Pruned(slim, {**everything, **outputs}, selection, whole, difference, lossless, tuple(blocks))


@begins
def prune_stage(config: Config) -> Record:
    """runs/<name>/pruned/pruned.pt and kept.json, the cut as a list to replay."""
    start, plan = unpruned(config), landed_plan(config)
    compatible(config.prune, config.sparse_train.mode if plan else None)
    if config.prune.iterations.rounds > 1:
        from yolo_slim.stages.rounds import prune_in_rounds  # only now: a round is made of what is in this file

        return prune_in_rounds(config, start)
    return cut_stage(config, "pruned", start, config.prune, plan=plan)


def cut_stage(
    config: Config,
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

    def work(folder: Path) -> tuple:
        detector = checkpoint.load(weights)
        if not config.data:
            console.print("no data: nothing is measured, and batch norm is not recalibrated")
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
        record.write_json(folder / "kept.json", _narrower(result))
        row = measured(config, pruned, split)
        say(stage, row, pruned)
        if plan and row["map50_95"] is not None:
            before = record.read(config.folder / "sparse").metrics["map50_95"]
            console.print(f"mAP50-95 before the cut {before:.4f}, after it {row['map50_95']:.4f}")
        return {"weights": pruned, "kept": folder / "kept.json"}, row, _details(result)

    found = [file for file in (plan, scan) if file]
    return run_stage(config, stage, settings, [weights, *found, *sources(chosen.criterion)], work)


def _narrower(result: Pruned) -> dict[str, list[int]]:
    """The cut as a small list: only the convolutions that lost a channel."""
    return {name: kept for name, kept in result.kept.items() if len(kept) < len(result.trace.convs[name].outputs)}


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


def _tell(result: Pruned, config: Config) -> None:
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
        f"{len(_narrower(result))} of {len(result.trace.convs)} convolutions are narrower, "
        f"{len(whole)} widths must stay; "
        f"masked and cut detector differ by {result.difference:.1e}"
    )
    if result.lossless:
        console.print("all that was removed was exactly zero: nothing is lost, absorbed or recalibrated")
