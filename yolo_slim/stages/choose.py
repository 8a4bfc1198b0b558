"""Which channels go: evidence, scores, selection; or a plan that was made before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels import Costs, Selection, Start, Trace, plan_from_kept, select, trace
from yolo_slim.config import Config, Prune
from yolo_slim.errors import SlimError
from yolo_slim.importance import CRITERIA, Evidence, score
from yolo_slim.stages import depth
from yolo_slim.stages.recover import absorption
from yolo_slim.training.calibrate import Batches, Shown, detection_loss

LEAST = -1e9
"""A score below all: finite, so that sums of scores stay numbers."""


def evidence_from(config: Config) -> Evidence:
    """The images and labelled batches that criteria and recovery look at: from the training split, read when needed."""
    if not config.data:
        return Evidence()
    seed, n = config.prune.seed, config.prune.calib_images
    return Evidence(
        images=Batches(config.data, config.imgsz, n, seed=seed),
        batches=Shown(Batches(config.data, config.imgsz, n, seed=seed, labelled=True), config.prune.criterion or "obs"),
        loss=detection_loss,
    )


def plan_without(
    detector: nn.Module,
    whole: Trace,
    blocks: list[str],
    chosen: Prune,
    evidence: Evidence,
    start: Start | None = None,
) -> tuple[list[str], nn.Module, Trace, Selection]:
    """Take these blocks out, then score and select. A block that loses all of an inner width goes as well.

    Returns:
        all blocks that are gone, the detector without them, its trace, and the selection among its channels.
    """
    how = absorption(chosen, evidence.images)
    while True:
        base, wiring = depth.without(detector, whole, blocks, how, evidence.images)
        selection = choose(base, wiring, chosen, evidence, start=start, whole=whole if blocks else None)
        empty = [g.name for g in wiring.free if not selection.plan.kept[g.channels].any()]
        if not empty:
            return blocks, base, wiring, selection
        owner = depth.may_empty(base, wiring, chosen)
        blocks = list(dict.fromkeys([*blocks, *(owner[name] for name in empty)]))


def choose(
    detector: nn.Module,
    wiring: Trace,
    chosen: Prune,
    evidence: Evidence,
    *,
    start: Start | None = None,
    whole: Trace | None = None,
    gone: np.ndarray | None = None,
) -> Selection:
    """Score and select.

    Args:
        start: the detector before the first of several rounds, of which budgets and ratios are shares.
        whole: the trace before blocks were taken out, of which budgets are shares.
        gone: bool per channel; these go first, whatever they are worth.
    """
    start = start or Start(wiring, {})
    scores = score(
        detector,
        wiring,
        chosen.criterion or ("obs" if evidence.batches else "l1"),
        group_reduce=chosen.group_reduce,
        normalize=chosen.normalize,
        per_cost=chosen.per_cost,
        evidence=replace(
            evidence,
            bn_fold=chosen.bn_fold,
            mix_norm=chosen.mix_norm,
            points=chosen.points_per_image,
            seed=chosen.seed,
        ),
    )
    if gone is not None:
        scores = {g.name: np.where(gone[g.channels], LEAST, scores[g.name]) for g in wiring.groups}
    selection = select(
        start.trace,
        start.scores(wiring, scores),
        scope=chosen.scope,
        ratio=chosen.ratio,
        target=chosen.target.model_dump(exclude_none=True) if chosen.target else None,
        layers=chosen.layers,
        min_keep=chosen.min_keep,
        min_channels=chosen.min_channels,
        round_to=chosen.round_to,
        exclude=chosen.exclude,
        whole=whole,
        may_empty=depth.may_empty(detector, wiring, chosen),
    )
    return replace(selection, plan=start.plan(wiring, selection.plan), scores=scores)


def follow_plan(wiring: Trace, outputs: dict[str, list[int]], chosen: Prune) -> Selection:
    """The plan as it stands, with what it comes to."""
    plan, costs = plan_from_kept(wiring, outputs), Costs(wiring)
    before, after = costs.of(costs.full), costs.of(plan.keeps(wiring))
    free = np.concatenate([g.channels for g in wiring.free])
    achieved = {
        "flops": after.macs / before.macs,
        "params": after.params / before.params,
        "channels": float(plan.kept[free].mean()),
    }
    asked = chosen.target.model_dump(exclude_none=True) if chosen.target else {}
    if chosen.ratio is not None:
        asked["channels"] = 1 - chosen.ratio
    return Selection(plan, before, after, asked, achieved)


def rehearse(config: Config) -> None:
    """Plan a cut of the detector as it is: what is wrong with the `prune:` section shows before hours of training.

    Raises:
        SlimError: an unknown criterion, a pattern that matches nothing, a target that cannot be met.
    """
    chosen = config.prune
    if chosen.criterion is not None and chosen.criterion not in CRITERIA:
        raise SlimError(f"expected prune.criterion to be one of {', '.join(CRITERIA)}, got {chosen.criterion}")
    detector = checkpoint.load(config.model)
    whole = trace(detector, config.imgsz)
    blocks = depth.any_blocks(whole, chosen)
    base, wiring = depth.without(detector, whole, blocks, "none", ())
    any_scores = chosen.model_copy(update={"criterion": "random"})  # budgets are met or not whatever they are
    choose(base, wiring, any_scores, Evidence(), whole=whole if blocks else None)
