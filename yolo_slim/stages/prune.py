"""Prune: score, select, cut, prove, recover."""

from __future__ import annotations

import copy
import json
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
    silent,
    trace,
)
from yolo_slim.channels.groups import same_wiring
from yolo_slim.config import Config, Prune
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence, score
from yolo_slim.record import Record
from yolo_slim.stages.common import console, finished, measured, run_stage, say
from yolo_slim.stages.landed import follow, landed_plan
from yolo_slim.stages.original import original
from yolo_slim.training.calibrate import Batches, detection_loss, first, recalibrate

TOLERANCE = 1e-5
LEAST = -1e9
"""A score below all: finite, so that sums of scores stay numbers."""


@dataclass(frozen=True)
class Pruned:
    """A slim detector and how it came about."""

    model: nn.Module
    kept: dict[str, list[int]]  # every convolution -> indices of the output channels kept
    cost: Selection  # before, after, asked, achieved
    trace: Trace  # of the detector before the cut
    difference: float  # between the masked and the cut detector, relative
    lossless: bool = False  # every channel removed was exactly zero: neither absorbed nor recalibrated


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


def cut_to_plan(
    detector: nn.Module,
    chosen: Prune,
    imgsz: int,
    evidence: Evidence,
    outputs: dict[str, list[int]] | None = None,
) -> Pruned:
    """Score and select, or follow a plan that was made before (`outputs`, as kept.json); cut, prove, recover."""
    wiring = trace(detector, imgsz)
    selection = choose(detector, wiring, chosen, evidence) if outputs is None else follow(wiring, outputs, chosen)
    kept = selection.plan.kept
    slim = cut(detector, wiring, kept)
    difference = prove(detector, slim, wiring, kept, imgsz)
    # Where all that goes was silent there is nothing to recover, and recalibration would only exchange the statistics
    # that the weights were trained to the end with for those of unaugmented images.
    lossless = not kept.all() and silent(detector, wiring, kept) and _agree(detector, slim, imgsz)
    if not lossless:
        slim = _absorb(slim, detector, wiring, kept, chosen, imgsz, evidence.images)
    if evidence.images and chosen.recalibrate and not lossless:
        recalibrate(slim, first(evidence.images, chosen.recalibrate))
    outputs = selection.plan.outputs(wiring)
    if outputs and hasattr(slim, "yaml"):
        checkpoint.mark_slim(slim, outputs)
    whole = {name: list(range(len(c.outputs))) for name, c in wiring.convs.items()}
    return Pruned(slim, {**whole, **outputs}, selection, wiring, difference, lossless)


def choose(
    detector: nn.Module, wiring: Trace, chosen: Prune, evidence: Evidence, gone: np.ndarray | None = None
) -> Selection:
    """Score and select; `gone` (bool per channel) go first, whatever they are worth."""
    scores = score(
        detector,
        wiring,
        chosen.criterion,
        group_reduce=chosen.group_reduce,
        normalize=chosen.normalize,
        evidence=replace(evidence, bn_fold=chosen.bn_fold, seed=chosen.seed),
    )
    if gone is not None:
        scores = {g.name: np.where(gone[g.channels], LEAST, scores[g.name]) for g in wiring.groups}
    selection = select(
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
    )
    return replace(selection, scores=scores)


def rehearse(config: Config) -> None:
    """Plan a cut of the detector as it is: what is wrong with the `prune:` section shows before hours of training."""
    detector = checkpoint.load(config.model)
    choose(detector, trace(detector, config.imgsz), config.prune, evidence_from(config))


def prove(detector: nn.Module, slim: nn.Module, wiring: Trace, kept: np.ndarray, imgsz: int) -> float:
    """The masked detector and the cut one must agree, and the cut one must be wired as the plan says.

    Returns:
        the relative difference, in fp64 on a random image.

    Raises:
        SlimError: they do not; nothing may be written then.
    """
    mute = masked(detector, wiring, kept).double().cpu()
    difference = relative_difference(mute, _double(slim), _noise(detector, imgsz))
    if not difference < TOLERANCE:
        raise SlimError(
            f"the cut changed the detector: masked and cut outputs differ by {difference:.1e} "
            f"(allowed {TOLERANCE:.0e}). Nothing was written. This is a bug in yolo-slim: please report it"
        )
    if not same_wiring(wiring, kept, trace(slim, imgsz)):
        raise SlimError("the cut detector is not wired as planned. This is a bug in yolo-slim; please report it")
    return difference


def _agree(detector: nn.Module, slim: nn.Module, imgsz: int) -> bool:
    return relative_difference(_double(detector), _double(slim), _noise(detector, imgsz)) < TOLERANCE


def _noise(detector: nn.Module, imgsz: int) -> Tensor:
    first = next(m for m in detector.modules() if isinstance(m, nn.Conv2d))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, first.in_channels, imgsz, imgsz, generator=generator, dtype=torch.float64)


def _double(detector: nn.Module) -> nn.Module:
    return copy.deepcopy(detector).double().cpu()


def _absorb(
    slim: nn.Module,
    detector: nn.Module,
    wiring: Trace,
    kept: np.ndarray,
    chosen: Prune,
    imgsz: int,
    images: Iterable[Tensor],
) -> nn.Module:
    how = chosen.absorb or ("measured" if images else "beta")
    if how == "none" or kept.all():
        return slim
    if how == "measured":
        if not images:
            raise SlimError("prune.absorb=measured needs images: give data= (or calibration=), or use absorb=beta")
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
    plan = landed_plan(config)
    if start is None:
        console.print("no sparse training in this run: pruning the original")
        start = original(config).output(config.folder / "original")
    chosen = config.prune
    settings = {**chosen.model_dump(), "imgsz": config.imgsz, "data": config.data}

    def work(folder: Path) -> tuple:
        detector = checkpoint.load(start)
        if not config.data:
            console.print("no data: nothing is measured, and batch norm is not recalibrated")
        if plan:
            console.print(f"following the plan that sparse training has landed: {plan}")
        outputs = json.loads(plan.read_text(encoding="utf-8")) if plan else None
        result = cut_to_plan(detector, chosen, config.imgsz, evidence_from(config), outputs)
        _tell(result)
        weights = checkpoint.save(result.model, folder / "pruned.pt")
        record.write_json(folder / "kept.json", _narrower(result))
        row = measured(config, weights)
        say("pruned", row, weights)
        if plan and row["map50_95"] is not None:
            before = record.read(config.folder / "sparse").metrics["map50_95"]
            console.print(f"mAP50-95 before the cut {before:.4f}, after it {row['map50_95']:.4f}")
        return {"weights": weights, "kept": folder / "kept.json"}, row, _details(result)

    return run_stage(config, "pruned", settings, [start, plan] if plan else [start], work)


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
        "lossless": result.lossless,
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
    whole = [g for g in result.trace.groups if g.reason]
    console.print(
        f"{len(_narrower(result))} of {len(result.trace.convs)} convolutions are narrower, "
        f"{len(whole)} widths must stay; "
        f"masked and cut detector differ by {result.difference:.1e}"
    )
    if result.lossless:
        console.print("all that was removed was exactly zero: nothing is lost, absorbed or recalibrated")
