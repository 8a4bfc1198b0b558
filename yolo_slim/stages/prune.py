"""Prune: take residual branches out, score, select, cut, prove, recover."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim import checkpoint, record
from yolo_slim.channels import (
    Selection,
    Trace,
    absorb,
    cut,
    input_means,
    masked,
    relative_difference,
    select,
    silenced,
    trace,
)
from yolo_slim.channels.groups import same_wiring
from yolo_slim.config import Config, Prune
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence, mean_loss, score
from yolo_slim.record import Record
from yolo_slim.stages import depth
from yolo_slim.stages.common import console, finished, measured, run_stage, say
from yolo_slim.stages.original import original
from yolo_slim.training.calibrate import Batches, detection_loss, first, recalibrate

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Pruned:
    """A slim detector and how it came about."""

    model: nn.Module
    kept: dict[str, list[int]]  # every convolution -> indices of the output channels kept; none: it went with its block
    cost: Selection  # before, after, asked, achieved
    trace: Trace  # of the detector before the cut
    difference: float  # between the masked and the cut detector, relative
    blocks: tuple[str, ...] = ()  # residual branches that went whole


def prune(
    detector: nn.Module, *, imgsz: int = 640, calibration: Iterable[Tensor] | None = None, **settings: Any
) -> Pruned:
    """Cut a detector; the input is left alone.

    Args:
        detector: from `yolo_slim.load`.
        imgsz: image side in pixels that FLOPs are counted at.
        calibration: batches (B, 3, H, W) in [0, 1] to measure constants and batch-norm statistics on; without, neither
            is measured and removed channels are absorbed as act(beta).
        settings: names of the `prune:` section, e.g. `target={"flops": 0.5}, criterion="l1", round_to=8`.

    Raises:
        SlimError: settings that are wrong, a target that cannot be met, or a cut that fails its proof.
    """
    try:
        chosen = Prune.model_validate(settings)
    except ValueError as e:
        raise SlimError(f"prune: {e}") from e
    return cut_to_plan(detector, chosen, imgsz, Evidence(images=list(calibration or [])))


def evidence_from(config: Config) -> Evidence:
    """The images and labelled batches that criteria and recovery look at: from the training split, read when needed."""
    if not config.data:
        return Evidence()
    seed, n = config.prune.seed, config.prune.calib_images
    return Evidence(
        images=Batches(config.data, config.imgsz, n, seed=seed),
        batches=Batches(config.data, config.imgsz, n, seed=seed, labelled=True),
        loss=detection_loss,
    )


def cut_to_plan(detector: nn.Module, chosen: Prune, imgsz: int, evidence: Evidence) -> Pruned:
    """Take blocks out, score, select, cut, prove, absorb, recalibrate."""
    whole = trace(detector, imgsz)

    def loss_without(blocks: list[str]) -> float:
        _, base, wiring, selection = plan_without(detector, whole, blocks, chosen, evidence)
        slim = cut(base, wiring, selection.plan.kept)
        return mean_loss(_recover(slim, base, wiring, selection.plan.kept, chosen, imgsz, evidence), evidence)

    blocks = depth.chosen_blocks(detector, whole, chosen, evidence, loss_without)
    blocks, base, wiring, selection = plan_without(detector, whole, blocks, chosen, evidence)
    kept = selection.plan.kept
    slim = cut(base, wiring, kept)
    difference = prove(base, slim, wiring, kept, imgsz)
    slim = _recover(slim, base, wiring, kept, chosen, imgsz, evidence)
    outputs = {name: [] for name in whole.convs if name not in wiring.convs} | selection.plan.outputs(wiring)
    if outputs and hasattr(slim, "yaml"):
        checkpoint.mark_slim(slim, outputs)
    everything = {name: list(range(len(c.outputs))) for name, c in whole.convs.items()}
    return Pruned(slim, {**everything, **outputs}, selection, whole, difference, tuple(blocks))


def plan_without(
    detector: nn.Module, whole: Trace, blocks: list[str], chosen: Prune, evidence: Evidence
) -> tuple[list[str], nn.Module, Trace, Selection]:
    """Take these blocks out, then score and select. A block that loses all of an inner width goes as well.

    Returns:
        all blocks that are gone, the detector without them, its trace, and the selection among its channels.
    """
    while True:
        base, wiring = depth.without(detector, whole, blocks, _how(chosen, evidence.images), evidence.images)
        selection = choose(base, wiring, chosen, evidence, whole if blocks else None)
        empty = [g.name for g in wiring.free if not selection.plan.kept[g.channels].any()]
        if not empty:
            return blocks, base, wiring, selection
        owner = depth.may_empty(base, wiring, chosen)
        blocks = list(dict.fromkeys([*blocks, *(owner[name] for name in empty)]))


def choose(
    detector: nn.Module, wiring: Trace, chosen: Prune, evidence: Evidence, whole: Trace | None = None
) -> Selection:
    """Score and select; `whole` is the trace before blocks were taken out, of which budgets are shares."""
    scores = score(
        detector,
        wiring,
        chosen.criterion,
        group_reduce=chosen.group_reduce,
        normalize=chosen.normalize,
        evidence=replace(evidence, bn_fold=chosen.bn_fold, seed=chosen.seed),
    )
    return select(
        wiring,
        scores,
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


def rehearse(config: Config) -> None:
    """Plan a cut of the detector as it is: what is wrong with the `prune:` section shows before hours of training."""
    detector = checkpoint.load(config.model)
    whole = trace(detector, config.imgsz)
    blocks = depth.any_blocks(whole, config.prune)
    base, wiring = depth.without(detector, whole, blocks, "none", ())
    choose(base, wiring, config.prune, evidence_from(config), whole if blocks else None)


def prove(detector: nn.Module, slim: nn.Module, wiring: Trace, kept: np.ndarray, imgsz: int) -> float:
    """The masked detector and the cut one must agree, and the cut one must be wired as the plan says.

    Returns:
        the relative difference, in fp64 on a random image.

    Raises:
        SlimError: they do not; nothing may be written then.
    """
    first = next(m for m in detector.modules() if isinstance(m, nn.Conv2d))
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, first.in_channels, imgsz, imgsz, generator=generator, dtype=torch.float64)
    silent = masked(detector, wiring, kept).double().cpu()
    difference = relative_difference(silent, _double(slim), image)
    if not difference < TOLERANCE:
        raise SlimError(
            f"the cut changed the detector: masked and cut outputs differ by {difference:.1e} "
            f"(allowed {TOLERANCE:.0e}). Nothing was written. This is a bug in yolo-slim: please report it"
        )
    if not same_wiring(wiring, kept, trace(slim, imgsz)):
        raise SlimError("the cut detector is not wired as planned. This is a bug in yolo-slim; please report it")
    return difference


def _double(detector: nn.Module) -> nn.Module:
    return copy.deepcopy(detector).double().cpu()


def _recover(
    slim: nn.Module,
    detector: nn.Module,
    wiring: Trace,
    kept: np.ndarray,
    chosen: Prune,
    imgsz: int,
    evidence: Evidence,
) -> nn.Module:
    """Absorb and recalibrate."""
    slim = _absorb(slim, detector, wiring, kept, chosen, imgsz, evidence.images)
    if evidence.images and chosen.recalibrate:
        recalibrate(slim, first(evidence.images, chosen.recalibrate))
    return slim


def _how(chosen: Prune, images: Iterable[Tensor]) -> str:
    """Whether constants are absorbed as measured, as beta says, or not at all."""
    how = chosen.absorb or ("measured" if images else "beta")
    if how == "measured" and not images:
        raise SlimError("prune.absorb=measured needs images: give data= (or calibration=), or use absorb=beta")
    return how


def _absorb(
    slim: nn.Module,
    detector: nn.Module,
    wiring: Trace,
    kept: np.ndarray,
    chosen: Prune,
    imgsz: int,
    images: Iterable[Tensor],
) -> nn.Module:
    how = _how(chosen, images)
    if how == "none" or kept.all():
        return slim
    if how == "measured":
        means = input_means(detector, wiring, images)
    else:  # with its scale at zero a removed channel is constant on any image
        first = next(m for m in detector.modules() if isinstance(m, nn.Conv2d))
        means = input_means(silenced(detector, wiring, kept), wiring, [torch.zeros(1, first.in_channels, imgsz, imgsz)])
    return absorb(slim, detector, wiring, kept, means)


def prune_stage(config: Config) -> Record:
    """runs/<name>/pruned/pruned.pt and kept.json, the cut as a list to replay."""
    start = finished(config, "sparse") if config.sparse_train.epochs else None
    if start is None and config.sparse_train.epochs and (config.folder / "sparse" / "started.json").exists():
        raise SlimError(
            f"sparse training was begun in {config.folder / 'sparse'} and is not finished: run `yolo-slim "
            "sparse-train` again, it goes on; or prune without it: sparse_train.epochs=0"
        )
    if start is not None and not _of_this_model(config):
        raise SlimError(
            f"{config.folder / 'sparse'} was trained from another detector than {config.model}: run `yolo-slim "
            "sparse-train` first, prune without it (sparse_train.epochs=0), or give this one a name= of its own"
        )
    if start is None:
        console.print("no sparse training in this run: pruning the original")
        start = original(config).output(config.folder / "original")
    chosen = config.prune
    settings = {**chosen.model_dump(), "imgsz": config.imgsz, "data": config.data}

    def work(folder: Path) -> tuple:
        detector = checkpoint.load(start)
        if not config.data:
            console.print("no data: nothing is measured, and batch norm is not recalibrated")
        result = cut_to_plan(detector, chosen, config.imgsz, evidence_from(config))
        _tell(result)
        weights = checkpoint.save(result.model, folder / "pruned.pt")
        record.write_json(folder / "kept.json", _narrower(result))
        row = measured(config, weights)
        say("pruned", row, weights)
        return {"weights": weights, "kept": folder / "kept.json"}, row, _details(result)

    return run_stage(config, "pruned", settings, [start], work)


def _of_this_model(config: Config) -> bool:
    """Whether the sparse detector comes from the original, and that from `model`."""
    first, sparse = (record.read(config.folder / stage) for stage in ("original", "sparse"))
    if first is None or sparse is None or not set(first.sums.values()) & set(sparse.inputs.values()):
        return False
    model = Path(config.model)
    return model.suffix != ".pt" or not model.is_file() or record.sha256(model) in first.inputs.values()


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
        "looser": cost.looser,
        "masked_vs_cut": result.difference,
        "blocks": list(result.blocks),
        "widths": widths,
    }


def _tell(result: Pruned) -> None:
    cost = result.cost
    asked = ", ".join(f"{k} x{v:.3f}" for k, v in cost.asked.items()) or "ratios by layer"
    got = ", ".join(f"{k} x{v:.3f}" for k, v in cost.achieved.items())
    looser = (
        f" (one channel fewer removed: {', '.join(f'{k} x{cost.looser[k]:.3f}' for k in cost.asked)})"
        if cost.looser
        else ""
    )
    console.print(f"asked for {asked}; achieved {got}{looser}")
    if result.blocks:
        console.print(f"taken out whole: {', '.join(result.blocks)}")
    whole = [g for g in result.trace.groups if g.reason]
    console.print(
        f"{len(_narrower(result))} of {len(result.trace.convs)} convolutions are narrower, "
        f"{len(whole)} widths must stay; "
        f"masked and cut detector differ by {result.difference:.1e}"
    )
