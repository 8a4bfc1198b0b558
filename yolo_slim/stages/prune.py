"""Prune: score, select, cut, prove, recover."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim import checkpoint, record
from yolo_slim.channels import (
    Costs,
    Curve,
    Selection,
    Trace,
    cut,
    masked,
    relative_difference,
    select,
    trace,
)
from yolo_slim.channels.costs import STORED_BYTES
from yolo_slim.channels.groups import same_wiring
from yolo_slim.channels.select import amount
from yolo_slim.config import Config, Prune
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence, score
from yolo_slim.record import Record
from yolo_slim.stages.common import console, finished, measured, run_stage, say
from yolo_slim.stages.original import original
from yolo_slim.stages.recover import recover
from yolo_slim.training.calibrate import Batches, Shown, detection_loss

TOLERANCE = 1e-5

Curves: TypeAlias = dict[str, Curve]
"""Group name -> what removing a share of its channels does."""


@dataclass(frozen=True)
class Pruned:
    """A slim detector and how it came about."""

    model: nn.Module
    kept: dict[str, list[int]]  # every convolution -> indices of the output channels kept
    cost: Selection  # before, after, asked, achieved
    trace: Trace  # of the detector before the cut
    difference: float  # between the masked and the cut detector, relative


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
        batches=Shown(Batches(config.data, config.imgsz, n, seed=seed, labelled=True), config.prune.criterion or "obs"),
        loss=detection_loss,
    )


def cut_to_plan(
    detector: nn.Module, chosen: Prune, imgsz: int, evidence: Evidence, curves: Curves | None = None
) -> Pruned:
    """Score, select, cut, prove, recover; `curves` of the detector are what prune.solver=sensitivity goes by."""
    wiring = trace(detector, imgsz)
    selection = choose(detector, wiring, chosen, evidence, curves)
    kept = selection.plan.kept
    slim = cut(detector, wiring, kept)
    difference = prove(detector, slim, wiring, kept, imgsz)
    slim = recover(slim, detector, wiring, kept, chosen, imgsz, evidence.images)
    outputs = selection.plan.outputs(wiring)
    if outputs and hasattr(slim, "yaml"):
        checkpoint.mark_slim(slim, outputs)
    whole = {name: list(range(len(c.outputs))) for name, c in wiring.convs.items()}
    return Pruned(slim, {**whole, **outputs}, selection, wiring, difference)


def judge(detector: nn.Module, wiring: Trace, chosen: Prune, evidence: Evidence) -> dict[str, np.ndarray]:
    """What every channel is worth: group name -> (n,)."""
    return score(
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


def choose(
    detector: nn.Module, wiring: Trace, chosen: Prune, evidence: Evidence, curves: Curves | None = None
) -> Selection:
    """Score and select."""
    target = chosen.target.model_dump(exclude_none=True) if chosen.target else None
    return select(
        wiring,
        judge(detector, wiring, chosen, evidence),
        solver=chosen.solver,
        scope=chosen.scope,
        ratio=chosen.ratio,
        target=target,
        layers=chosen.layers,
        min_keep=chosen.min_keep,
        min_channels=chosen.min_channels,
        round_to=chosen.round_to,
        exclude=chosen.exclude,
        overhead=overhead(detector, wiring) if target and "size_mb" in target else None,
        curves=curves,
        tolerance=chosen.sensitivity.tolerance,
    )


def overhead(detector: nn.Module, wiring: Trace) -> int:
    """Bytes of a slim checkpoint beside its numbers: what the original's has, and at most this for the list of the cut.

    In that list an index takes up to three bytes, and a name its length and some twenty.
    """
    costs = Costs(wiring)
    full = costs.of(costs.full)
    listed = sum(3 * len(c.outputs) + len(c.name) + 32 for c in wiring.convs.values())
    return checkpoint.file_bytes(detector) - STORED_BYTES * (full.params + full.buffers) + listed


def rehearse(config: Config) -> None:
    """Plan a cut of the detector as it is: what is wrong with the `prune:` section shows before hours of training."""
    detector = checkpoint.load(config.model)
    wiring = trace(detector, config.imgsz)
    harmless = {g.name: Curve((1.0,), (0.0,)) for g in wiring.free}  # a scan would take minutes
    choose(detector, wiring, config.prune, evidence_from(config), harmless)


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


def unpruned(config: Config) -> Path:
    """The weights that are pruned: sparse-trained ones where the configuration has that stage, else the original.

    Raises:
        SlimError: sparse training was begun and not finished, or began with another detector.
    """
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
    return start


def prune_stage(config: Config) -> Record:
    """runs/<name>/pruned/pruned.pt and kept.json, the cut as a list to replay."""
    start, scan, curves = unpruned(config), [], None
    if config.prune.solver == "sensitivity":
        from yolo_slim.stages.sensitivity import curves_of  # only now: it judges channels with what is in this file

        scan, curves = curves_of(config)
    chosen = config.prune
    settings = {**chosen.model_dump(), "imgsz": config.imgsz, "data": config.data}

    def work(folder: Path) -> tuple:
        detector = checkpoint.load(start)
        if not config.data:
            console.print("no data: nothing is measured, and batch norm is not recalibrated")
        result = cut_to_plan(detector, chosen, config.imgsz, evidence_from(config), curves)
        _tell(result)
        weights = checkpoint.save(result.model, folder / "pruned.pt")
        record.write_json(folder / "kept.json", _narrower(result))
        row = measured(config, weights)
        say("pruned", row, weights)
        return {"weights": weights, "kept": folder / "kept.json"}, row, _details(result)

    return run_stage(config, "pruned", settings, [start, *scan], work)


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
        "widths": widths,
    }


def _tell(result: Pruned) -> None:
    cost = result.cost
    asked = ", ".join(f"{k} {amount(k, v)}" for k, v in cost.asked.items()) or "ratios by layer"
    got = ", ".join(f"{k} {amount(k, v)}" for k, v in cost.achieved.items())
    looser = (
        f" (one step less removed: {', '.join(f'{k} {amount(k, cost.looser[k])}' for k in cost.asked)})"
        if cost.looser and cost.asked
        else ""
    )
    console.print(f"asked for {asked}; achieved {got}{looser}")
    whole = [g for g in result.trace.groups if g.reason]
    console.print(
        f"{len(_narrower(result))} of {len(result.trace.convs)} convolutions are narrower, "
        f"{len(whole)} widths must stay; "
        f"masked and cut detector differ by {result.difference:.1e}"
    )
