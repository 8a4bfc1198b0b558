"""Choose what goes, or follow a plan; cut, prove, recover."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels import Selection, Start, Trace, cut, silent, trace
from yolo_slim.config import Prune
from yolo_slim.importance import Evidence, mean_loss
from yolo_slim.pruning import depth
from yolo_slim.pruning.choose import NOTHING, Findings, follow_plan, plan_without
from yolo_slim.pruning.prove import agree, prove
from yolo_slim.pruning.recover import recover


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

    @property
    def narrower(self) -> dict[str, list[int]]:
        """The cut as a small list: only the convolutions that lost a channel."""
        return {name: kept for name, kept in self.kept.items() if len(kept) < len(self.trace.convs[name].outputs)}

    def __repr__(self) -> str:
        return (
            f"<Pruned: {self.cost.summary}, {len(self.narrower)} of {len(self.kept)} convolutions narrower, masked "
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
    gone: dict[str, list[int]] = {name: [] for name in whole.convs if name not in wiring.convs}
    outputs = gone | selection.plan.outputs(wiring)
    if outputs and hasattr(slim, "yaml"):
        marked = cast(checkpoint.Detector, slim)
        checkpoint.mark_slim(marked, outputs)
        marked.yaml = {**marked.yaml, "channels": whole.image_channels}  # Ultralytics' exporter goes by it
    everything = {name: list(range(len(c.outputs))) for name, c in whole.convs.items()}
    return Pruned(slim, {**everything, **outputs}, selection, whole, difference, lossless, tuple(blocks))
