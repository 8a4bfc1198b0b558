"""What `import yolo_slim` offers: a detector may be given as a path, as an Ultralytics YOLO object, or as a module."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from ultralytics.nn.tasks import BaseModel

from yolo_slim import channels, checkpoint, measure
from yolo_slim.channels import Trace
from yolo_slim.config import Complete, Prune, Target, check
from yolo_slim.errors import SlimError
from yolo_slim.given import (
    Given,
    batches_of,
    checkpoint_path,
    chosen_of,
    detector_from,
    own_size,
    path_of,
    plain,
    size_of,
)
from yolo_slim.measure import Cost
from yolo_slim.pruning.choose import Findings, evidence_from
from yolo_slim.pruning.cut import Pruned, cut_to_plan


def load(path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Read a detector: fp32, eval mode, every parameter trainable.

    Args:
        path: a checkpoint `.pt` of Ultralytics or of ultralytics/yolov5, a Darknet `.cfg` with its weights beside it,
            or a model `.yaml` for an untrained detector.
        weights: of a Darknet cfg, where they do not lie beside it.

    Raises:
        SlimError: the file is missing, damaged, names code outside the allow-list, holds no detector, or one that is
            fused or made for another task.
    """
    return checkpoint.load(path_of(path), None if weights is None else str(path_of(weights)))


def save(detector: Given, path: str | os.PathLike[str], **extra: Any) -> Path:
    """Write a detector as its family writes a finished training: fp16, no optimizer, whole or not at all.

    What came from a checkpoint of ultralytics/yolov5 becomes one again; any other is Ultralytics'.

    Args:
        detector: from `load` or `prune(...).model`; left alone.
        path: of the checkpoint; ends in `.pt`, or for a detector of Darknet in `.cfg`. Its folder is made.
        extra: further plain entries of the checkpoint's dict.

    Raises:
        SlimError: no detector of Ultralytics, a path that is no checkpoint's, a name that Ultralytics would look up as
            another file, or a disk that cannot take it.
    """
    module, target = detector_from(detector), path_of(path)
    if not isinstance(module, BaseModel):
        raise SlimError(
            f"expected a detector of Ultralytics to save, as from load() or prune(...).model, got a "
            f"{type(module).__name__}: nothing would load its checkpoint. torch.save() keeps other modules"
        )
    try:
        return checkpoint.save(module, checkpoint_path(target, *checkpoint.suffixes(module)), **extra)
    except OSError as e:
        raise SlimError(f"cannot write {target}: {e.strerror or e}. Choose another folder") from e


def trace(detector: Given, imgsz: int | tuple[int, int] | None = None) -> Trace:
    """Find the channels of a detector, the groups they form, and why some of them must stay.

    Args:
        detector: a path, a YOLO object or a module; left alone.
        imgsz: side, or (height, width), in pixels at which output positions are counted; None: the detector's own.

    Raises:
        SlimError: no detector, or one that holds no convolution, or cannot run at this size.
    """
    module = detector_from(detector)
    return channels.trace(module, size_of(module, imgsz))


def cost(detector: Given, imgsz: int | tuple[int, int] | None = None) -> Cost:
    """Parameters and MACs of a detector for one image.

    Args:
        detector: a path, a YOLO object or a module; left alone.
        imgsz: side, or (height, width), in pixels; None: the detector's own.

    Raises:
        SlimError: no detector, or one that cannot run at this size.
    """
    module = detector_from(detector)
    return measure.cost(module, size_of(module, imgsz))


def prune(
    detector: Given,
    *,
    imgsz: int | None = None,
    data: str | os.PathLike[str] | None = None,
    calibration: Tensor | Iterable[Tensor] | None = None,
    tables: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    criterion: str | None = None,
    fisher: Literal["predicted", "labels"] = "predicted",
    solver: Literal["auto", "threshold", "knapsack", "sensitivity"] = "auto",
    scope: Literal["global", "layer"] = "global",
    ratio: float | None = None,
    target: Mapping[str, float] | None = None,
    sensitivity: Mapping[str, Any] | None = None,
    rescore: int | None = None,
    search: Mapping[str, Any] | None = None,
    layers: Mapping[str, float] | None = None,
    min_keep: float = 0.1,
    device: str | None = None,
    min_channels: int | None = None,
    round_to: int | None = None,
    exclude: Sequence[str] = (),
    normalize: Literal["auto", "none", "mean", "l2", "lamp"] = "auto",
    per_cost: Literal["auto", "none", "memory", "flops", "params"] = "auto",
    group_reduce: Literal["max", "mean", "sum", "l2", "first"] = "l2",
    depth: Mapping[str, Any] | None = None,
    bn_fold: bool = False,
    mix_norm: float = 0.0,
    points_per_image: int = 10,
    absorb: Literal["measured", "beta", "none"] | None = None,
    reconstruct: Literal["lstsq", "none"] | None = None,
    recalibrate: int | None = None,
    calib_images: int = 256,
    seed: int = 0,
    iterations: Mapping[str, Any] | None = None,
) -> Pruned:
    """Cut a detector; the input is left alone.

    All but the first five are the settings of the `prune:` section, with its defaults.

    Args:
        detector: a path, a YOLO object or a module, e.g. from `yolo_slim.load`. The cut is made, and stays, on the CPU.
        imgsz: image side in pixels that FLOPs are counted at; None: the one that the detector was trained at, 640 if
            it does not say.
        data: an Ultralytics data-set YAML; criteria and recovery look at `calib_images` of its training images, with
            their labels where the loss is asked for.
        calibration: batches (B, C, H, W) in [0, 1], to look at instead, without labels; or one of them. Without either
            nothing is measured, and removed channels are absorbed as act(beta).
        tables: costs of your own: name -> {group name: (n + 1,) cost of keeping 0..n of its channels}, added up over
            the groups of `yolo_slim.trace(detector, imgsz)`. `target` takes their names, as shares to keep.
        criterion: what a channel is worth: by weights bn_scale, l1, l2, fpgm; on images act_std, act_mean, apoz, lasso,
            obs; by the loss on labelled images taylor, group_fisher; a control: random; module:function, of your own
            (default: obs where there are images, else l1).
        fisher: obs: whose gradients say what a layer's outputs matter: predicted (of targets drawn from the detector's
            own predictions: no label is read) or labels (of the loss on labelled images).
        solver: threshold: the lowest scores go first; knapsack: the largest sum of scores that the budget buys;
            sensitivity: what a scan of the detector says hurts least; auto: knapsack for targets with obs, whose scores
            add up, and for latency targets, else threshold.
        scope: global: compare over the whole detector; layer: the same share everywhere.
        ratio: share of the prunable channels to remove (or give a target).
        target: any of {flops, params, latency: share to keep; size_mb: megabytes; latency_ms: milliseconds}.
        sensitivity: the scan of solver sensitivity.
        rescore: times that channels are scored on the way to the cut, each time in the detector as it is by then, cut
            so far and refitted (default: 3 with obs, which asks what is lost from there on, else 1).
        search: search for better widths, by what the cut detector says of images without labels: {seconds: 300} or
            {trials: 200}; null: the scores alone decide.
        layers: module-name pattern -> share to remove there, e.g. {model.2.*: 0.3}; the rest follows the above.
        min_keep: share of every group's channels that stays at least.
        device: what the slim detector will run on, onnxruntime, tensorrt, rknn and others of docs/devices, or at a
            precision, as rknn:fp16: `round_to` and `min_channels` follow it.
        min_channels: channels of every group that stay at least; with min_keep 0, branches may empty (default: the
            device's, else 8).
        round_to: kept widths are multiples of this (default: the device's, else 8).
        exclude: module-name patterns that stay whole, e.g. [model.0, model.24].
        normalize: make groups comparable: divide scores by the group's mean or l2, or squares by all that are not
            smaller (lamp); auto: mean for l1, l2, fpgm, act_std, act_mean.
        per_cost: divide scores by what removing the channel saves; auto: memory for group_fisher.
        group_reduce: joins the scores of layers tied into one group: l2 (root mean square), max (for scales trained
            with sparse_train.penalty=l1), mean, sum, first.
        depth: {blocks: how many residual branches go whole, score: which}.
        bn_fold: score filters as batch norm scales them (l1, l2, fpgm, act_std, act_mean).
        mix_norm: fpgm: share of the channels to go that go by l2 norm instead (paper's mix: 0.25).
        points_per_image: lasso: random positions looked at in each image.
        absorb: what removed channels carried goes into their readers: measured on images, or act(beta) (default:
            measured where there is data, else beta).
        reconstruct: lstsq: refit what reads removed channels to its outputs in the original, absorption included
            (default: lstsq where there is data, else none).
        recalibrate: training images to measure batch-norm statistics on anew; 0: off (default: off after
            reconstruction, else calib_images).
        calib_images: training images that criteria and recovery look at.
        seed: of criterion random and of the calibration images.
        iterations: as the section of this name.

    Raises:
        SlimError: no detector, settings that are wrong or need training (rounds), images that it cannot look at, a
            target that cannot be met, or a cut that fails its proof.
    """
    settings = chosen_of(Prune, locals())
    module = detector_from(detector)
    budgets = _budgets(settings.get("target"), tables)
    if budgets:
        settings = {**settings, "target": {k: v for k, v in settings["target"].items() if k not in budgets}}
    side = plain(imgsz) if imgsz is not None else own_size(module)
    asked = {"model": "the detector given", "imgsz": side, "prune": settings}
    asked["data"] = os.fspath(data) if isinstance(data, os.PathLike) else data
    config = Complete.of(check(asked, "yolo_slim.prune()"))
    chosen = config.prune
    if (rounds := chosen.iterations.rounds) > 1:
        raise SlimError(
            f"yolo_slim.prune() cuts once and trains nothing, but iterations.rounds is {rounds}, with fine-tuning in "
            "between: leave it at 1, or run `yolo-slim prune` with a data set"
        )
    size_of(module, config.imgsz)
    if config.data and not isinstance(module, BaseModel):
        raise SlimError(
            f"data: the loss on labelled images is that of Ultralytics' detectors, and this is a "
            f"{type(module).__name__}: give calibration= instead"
        )
    evidence = evidence_from(config, module)
    if calibration is not None:
        evidence = replace(evidence, images=batches_of(calibration, module, config.imgsz))
    return cut_to_plan(module, chosen, config.imgsz, evidence, found=Findings(tables=tables or {}, budgets=budgets))


def _budgets(target: Any, tables: Any) -> dict[str, float]:
    """The part of a target that the caller's own tables are for; what else is wrong with it, the settings say."""
    if tables is not None and not isinstance(tables, Mapping):
        raise SlimError(f"expected tables to be name -> {{group name: costs}}, got a {type(tables).__name__}")
    if not tables or not isinstance(target, Mapping):
        return {}
    if unknown := [name for name in target if name not in tables and name not in Target.model_fields]:
        raise SlimError(
            f"prune.target.{unknown[0]} is neither a cost that is known ({', '.join(Target.model_fields)}) nor the "
            f"name of one of the tables ({', '.join(tables)})"
        )
    own = {name: share for name, share in target.items() if name in tables}
    for name, share in own.items():
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share < 1:  # type: ignore[operator]
            raise SlimError(f"prune.target.{name}: expected the share to keep, above 0 and below 1, got {share!r}")
    return own
