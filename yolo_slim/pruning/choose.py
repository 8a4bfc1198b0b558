"""Which channels go: evidence, scores, selection."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from torch import nn
from ultralytics.nn.tasks import BaseModel

from yolo_slim import checkpoint
from yolo_slim.channels import Constraints, Costs, Curve, LayerTable, Plan, Selection, Start, Trace, cut, select
from yolo_slim.channels.costs import STORED_BYTES
from yolo_slim.config import Complete, Prune
from yolo_slim.data import one_class
from yolo_slim.data.batches import Batches, Drawn, Shown
from yolo_slim.data.facts import dataset_for
from yolo_slim.data.unlabelled import images_at
from yolo_slim.importance import Evidence, criterion_of, score, source_of
from yolo_slim.measure.loss import detection_loss, drawn_loss
from yolo_slim.pruning import depth
from yolo_slim.timing.layers import layer_table
from yolo_slim.timing.runner import Runner
from yolo_slim.timing.targets import TimeCut, as_fast, timer_of_cuts

Curves: TypeAlias = dict[str, Curve]
"""Group name -> what removing a share of its channels does."""


@dataclass(frozen=True)
class Findings:
    """What was measured on the detector before anything is chosen."""

    curves: Curves | None = None  # what solver sensitivity goes by
    layers: LayerTable | None = None  # what latency targets go by
    scores: Callable[[], dict[str, np.ndarray]] | None = None  # what `judge` says of it whole, when it is asked for
    timed: TimeCut | None = None  # what a cut for a latency target is held against
    tables: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)  # costs of the caller's own
    budgets: Mapping[str, float] = field(default_factory=dict)  # name of such a cost -> the share that may stay


NOTHING = Findings()


def findings(config: Complete, whole: nn.Module, scan: Path | None = None, *, timed: bool = True) -> Findings:
    """What a configuration asks to be measured: a scan that was made, and where a time is the target, layers and cuts.

    Args:
        config: of the run.
        whole: the original, before any cut.
        scan: what solver sensitivity goes by.
        timed: whether cuts are timed as well, or told by their layers alone.

    Raises:
        SlimError: the runtime is not installed, or the detector cannot be exported.
    """
    curves, asked = curves_in(scan) if scan else None, config.latency
    if not config.timing:
        return Findings(curves)
    runner = Runner.of(asked.runtime, asked.threads, config.imgsz, config.device)
    kept = Path(config.runs) / "latency"
    layers = layer_table(whole, runner, kept, samples=asked.samples, runs=asked.runs)
    return Findings(curves, layers, timed=timer_of_cuts(whole, runner, asked.runs) if timed else None)


CARD_BYTES = 3_000
"""What a model card takes at most: four steps, each with its settings."""

LEAST = -1e9
"""A score below all: finite, so that sums of scores stay numbers."""


def evidence_from(config: Complete, detector: nn.Module) -> Evidence:
    """What criteria and recovery look at: images and labelled batches of the training split, read when needed.

    Raises:
        SlimError: the data set cannot be used, or calls the detector's classes by other names.
    """
    # Other networks than Ultralytics' say what they find in ways of their own.
    drawn = drawn_loss if config.prune.fisher == "predicted" and isinstance(detector, BaseModel) else None
    if not config.data:
        seen = _pictures(config, cast(checkpoint.Detector, detector)) if config.images else ()
        return Evidence(images=seen, drawn=drawn)
    trained = cast(checkpoint.Detector, detector)  # others have no loss
    dataset_for(trained, config.data)
    seed, n, single = config.prune.seed, config.prune.calib_images, one_class(trained)
    labelled = Batches(config.data, config.imgsz, n, seed=seed, labelled=True, single_cls=single)
    return Evidence(
        images=Batches(config.data, config.imgsz, n, seed=seed),
        batches=Shown(labelled, config.prune.criterion or "obs"),
        loss=detection_loss,
        drawn=drawn,
    )


def _pictures(config: Complete, detector: checkpoint.Detector) -> Drawn:
    """Images of a folder, where there is no data set to take them from."""
    folder, chosen = str(config.images), config.prune
    found = images_at([folder], detector, config.imgsz)  # what is wrong with them shows before anything is scored
    return Drawn(lambda: found, "images", folder, chosen.calib_images, seed=chosen.seed)


def sources(*criteria: str | None) -> list[Path]:
    """The files of criteria of the user's own: a stage that used them is done again when they change."""
    return [Path(file) for name in criteria if name and (file := source_of(name))]


def criterion_for(chosen: Prune, evidence: Evidence) -> str:
    """What channels are judged by: what is asked for, else obs where there is what it looks at, else l1."""
    return chosen.criterion or ("obs" if evidence.batches or (evidence.images and evidence.drawn) else "l1")


def judge(detector: nn.Module, wiring: Trace, chosen: Prune, evidence: Evidence) -> dict[str, np.ndarray]:
    """What every channel is worth: group name -> (n,)."""
    criterion, images = criterion_for(chosen, evidence), evidence.images
    return score(
        detector,
        wiring,
        criterion,
        group_reduce=chosen.group_reduce,
        normalize=chosen.normalize,
        per_cost=chosen.per_cost,
        evidence=replace(
            evidence,
            images=Shown(images, criterion) if isinstance(images, Drawn) else images,
            bn_fold=chosen.bn_fold,
            mix_norm=chosen.mix_norm,
            points=chosen.points_per_image,
            seed=chosen.seed,
        ),
    )


def choose(
    detector: nn.Module,
    wiring: Trace,
    chosen: Prune,
    evidence: Evidence,
    *,
    start: Start | None = None,
    whole: Trace | None = None,
    gone: np.ndarray | None = None,
    found: Findings = NOTHING,
    scores: Mapping[str, np.ndarray] | None = None,
) -> Selection:
    """Score and select.

    Args:
        detector: to be cut.
        wiring: of the detector.
        chosen: the `prune:` section.
        evidence: what criteria look at.
        start: the detector before the first of several rounds, of which budgets and ratios are shares.
        whole: the trace before blocks were taken out, of which budgets are shares.
        gone: bool per channel; these go first, whatever they are worth.
        found: for solver sensitivity and latency targets; its scores spare scoring, unless blocks were taken out, and
            with `timed`, what is chosen for a latency target is timed, and chosen again where the table was off.
        scores: group name -> (n,), where they are known.
    """
    start = start or Start(wiring, Plan({}))
    target = {**(chosen.target.model_dump(exclude_none=True) if chosen.target else {}), **found.budgets}
    known = found.scores if whole is None else None
    additive = getattr(criterion_of(criterion_for(chosen, evidence)), "additive", False)
    by_sum = chosen.solver == "auto" and chosen.scope == "global" and target and additive
    solver = "knapsack" if by_sum else chosen.solver
    scores = dict(scores or (known() if known else judge(detector, wiring, chosen, evidence)))
    if gone is not None:
        scores = {g.name: np.where(gone[g.channels], LEAST, scores[g.name]) for g in wiring.groups}

    asked = Constraints(
        **chosen.model_dump(include={"scope", "ratio", "layers", "min_keep", "exclude"}),
        **chosen.widths._asdict(),
        solver=solver,
        target=target,
        tables=found.tables,
        overhead=overhead(detector, wiring) if "size_mb" in target else None,
        curves=found.curves,
        tolerance=chosen.sensitivity.tolerance,
        whole=whole,
        may_empty={*depth.may_empty(detector, wiring, chosen), *start.emptied(wiring)},
        latency=found.layers,
    )
    lifted = start.scores(wiring, scores)

    def at(target: Mapping[str, float]) -> Selection:
        selection = select(start.trace, lifted, replace(asked, target=target))
        return replace(selection, kept=start.kept(wiring, selection.kept), scores=scores)

    if not (watch := found.timed) or not target:
        return at(target)

    def timed(selection: Selection) -> dict[str, float] | None:
        kept = selection.kept
        if wiring.emptied(kept):  # the block is to go whole before that can run
            return None
        return watch(cut(detector, wiring, kept))

    return as_fast(at, target, timed)


def overhead(detector: nn.Module, wiring: Trace) -> int:
    """Bytes of a slim checkpoint beside its numbers: what the original's has, and at most this for the list of the cut.

    In that list an index takes up to three bytes, and a name its length and some twenty. The model card comes on top.
    """
    costs = Costs(wiring)
    full = costs.of(costs.full)
    listed = sum(3 * len(c.outputs) + len(c.name) + 32 for c in wiring.convs.values())
    return checkpoint.file_bytes(detector) - STORED_BYTES * (full.params + full.buffers) + listed + CARD_BYTES


def curves_in(scan: Path) -> Curves:
    """What a scan on disk has found: group name -> how much worse the detector gets."""
    found = json.loads(scan.read_text(encoding="utf-8"))
    sign = -1 if found["metric"] == "map50_95" else 1  # mAP falls where loss rises
    return {
        group["group"]: Curve(
            tuple(row["ratio"] for row in group["rows"]),
            tuple(sign * (row["value"] - found["base"]) for row in group["rows"]),
        )
        for group in found["groups"]
    }
