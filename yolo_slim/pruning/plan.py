"""Which residual branches and channels go: chosen here, as a plan, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from yolo_slim import record
from yolo_slim.channels import LayerTable, Meter, Plan, Selection, Start, Trace
from yolo_slim.channels.patterns import counted
from yolo_slim.config import Prune
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence, mean_loss
from yolo_slim.pruning import depth
from yolo_slim.pruning.choose import NOTHING, Findings, overhead
from yolo_slim.pruning.recover import absorption
from yolo_slim.pruning.refine import Around


def make_plan(
    detector: nn.Module,
    whole: Trace,
    chosen: Prune,
    evidence: Evidence,
    *,
    start: Start | None = None,
    found: Findings = NOTHING,
) -> tuple[Plan, Selection]:
    """What the `prune:` section takes out of a detector, and what it comes to.

    Args:
        detector: whole; left alone.
        whole: its trace.
        chosen: the section.
        evidence: what criteria, and losses by which branches are compared, look at.
        start: the detector before the first of several rounds, of which budgets and ratios are shares.
        found: for solver sensitivity and latency targets.
    """

    def loss_without(blocks: list[str]) -> float:
        untimed = replace(found, timed=None)  # branches are compared by their loss alone
        around, selection = _around(detector, whole, blocks, chosen, evidence, None, untimed)
        return mean_loss(around.recovered(selection.kept, evidence.images), evidence)

    blocks = depth.chosen_blocks(detector, whole, chosen, evidence, loss_without)
    while True:
        around, selection = _around(detector, whole, blocks, chosen, evidence, start, found)
        selection = around.refined(selection)
        if not (empty := around.emptied(selection)):
            break
        blocks = list(dict.fromkeys([*around.blocks, *empty]))
    gone = [conv for name in around.blocks for conv in whole.blocks[name].convs]
    return Plan.of(around.wiring, selection.kept, selection.scores, gone), selection


def _around(
    detector: nn.Module,
    whole: Trace,
    blocks: list[str],
    chosen: Prune,
    evidence: Evidence,
    start: Start | None,
    found: Findings,
) -> tuple[Around, Selection]:
    """Take these blocks out, then score and select. A block that loses all of an inner width goes as well.

    Returns:
        what the choice was made in, without all blocks that are gone, and the selection among its channels.
    """
    how = absorption(chosen, evidence.images)
    while True:
        base, wiring = depth.without(detector, whole, blocks, how, evidence.images)
        around = Around(detector, whole, base, wiring, tuple(blocks), chosen, evidence, start, found)
        selection = around.choice(timed=True)
        if not (empty := around.emptied(selection)):
            return around, selection
        blocks = list(dict.fromkeys([*blocks, *empty]))


def cost_of(
    plan: Plan, base: nn.Module, wiring: Trace, whole: Trace, chosen: Prune, layers: LayerTable | None = None
) -> Selection:
    """What a plan that was made before comes to, told as `make_plan` tells it.

    Args:
        plan: for `whole`.
        base: the detector without the branches that it takes out.
        wiring: of `base`.
        whole: trace of the detector with them.
        chosen: the `prune:` section.
        layers: what every convolution takes, where that is asked for.
    """
    kept = plan.without(plan.branches(whole)).kept(wiring)
    asked = chosen.target.model_dump(exclude_none=True) if chosen.target else {}
    beside = overhead(base, wiring) if "size_mb" in asked else None
    among = counted(wiring, chosen.exclude, chosen.layers, may_miss=True)  # a layer that went in an earlier round
    meter = Meter(wiring, among, overhead=beside, whole=None if wiring is whole else whole, layers=layers)
    if chosen.ratio is not None:
        asked["channels"] = 1 - chosen.ratio
    keeps = wiring.widths(kept)
    return Selection(kept, meter.before, meter.costs.of(keeps), asked, meter.of(keeps))


def read_plan(file: Path) -> Plan:
    """A plan on disk, of this version or an earlier one.

    Raises:
        SlimError: the file holds none.
    """
    try:
        return Plan.of_json(record.read_json(file))
    except SlimError as e:
        raise SlimError(f"{file} {e}") from e
