"""Choose what goes, or follow a plan; cut, prove, recover."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels import Plan, Selection, Start, Trace, cut, silent, trace
from yolo_slim.config import Prune
from yolo_slim.importance import Evidence
from yolo_slim.pruning import depth
from yolo_slim.pruning.choose import NOTHING, Findings
from yolo_slim.pruning.plan import cost_of, make_plan
from yolo_slim.pruning.prove import agree, prove
from yolo_slim.pruning.recover import absorption, recover


@dataclass(frozen=True)
class Pruned:
    """A slim detector and how it came about."""

    model: nn.Module
    plan: Plan  # what was taken out
    cost: Selection  # before, after, asked, achieved
    trace: Trace  # of the detector before the cut
    difference: float  # between the masked and the cut detector, relative
    lossless: bool = False  # every channel removed was exactly zero: neither absorbed nor recalibrated
    blocks: tuple[str, ...] = ()  # residual branches that went whole

    @property
    def kept(self) -> dict[str, list[int]]:
        """Every convolution -> indices of the output channels kept; none: it went with its block."""
        return self.plan.every(self.trace)

    @property
    def narrower(self) -> dict[str, list[int]]:
        """The cut as a small list: only the convolutions that lost a channel."""
        return {name: list(kept) for name, kept in self.plan.outputs.items()}

    def __repr__(self) -> str:
        return (
            f"<Pruned: {self.cost.summary}, {len(self.plan.outputs)} of {len(self.trace.convs)} convolutions narrower, "
            f"masked and cut differ by {self.difference:.1e}>"
        )


def cut_to_plan(
    detector: nn.Module,
    chosen: Prune,
    imgsz: int,
    evidence: Evidence,
    *,
    start: Start | None = None,
    follow: Plan | None = None,
    found: Findings = NOTHING,
) -> Pruned:
    """Follow a plan, or make one first; cut, prove, recover.

    With a `start`, shares and costs are those of that detector; `found` is what prune.solver=sensitivity and latency
    targets go by.
    """
    whole, cost = trace(detector, imgsz), None
    if follow is None:
        follow, cost = make_plan(detector, whole, chosen, evidence, start=start, found=found)
    blocks = follow.branches(whole)
    how = absorption(chosen, evidence.images) if blocks else "none"
    base, wiring = depth.without(detector, whole, blocks, how, evidence.images)
    cost = cost or cost_of(follow, base, wiring, whole, chosen, found.layers)
    kept = cost.kept
    slim = cut(base, wiring, kept)
    if found.timed and not cost.measured and not kept.all():  # a plan that was made before
        cost = replace(cost, measured=found.timed(slim))
    difference = prove(base, slim, wiring, kept)
    # Where all that goes was silent there is nothing to recover, and recalibration would only exchange the statistics
    # that the weights were trained to the end with for those of unaugmented images.
    lossless = not kept.all() and not blocks and silent(base, wiring, kept) and agree(base, slim, wiring)
    if not lossless:
        also = depth.readers_of(whole, blocks)
        slim = recover(slim, base, wiring, kept, chosen, evidence.images, original=detector, also=also)
    if follow.outputs and hasattr(slim, "yaml"):
        marked = cast(checkpoint.Detector, slim)
        checkpoint.mark_slim(marked, {name: list(stay) for name, stay in follow.outputs.items()})
        marked.yaml = {**marked.yaml, "channels": whole.image_channels}  # Ultralytics' exporter goes by it
    return Pruned(slim, follow, cost, whole, difference, lossless, tuple(blocks))
