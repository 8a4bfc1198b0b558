"""What `import yolo_slim` offers: a detector may be given as a path, as an Ultralytics YOLO object, or as a module."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from ultralytics.nn.tasks import BaseModel

from yolo_slim import channels, checkpoint, measure
from yolo_slim.channels import Trace
from yolo_slim.config import Complete, Target, check
from yolo_slim.errors import SlimError
from yolo_slim.given import Given, batches_of, checkpoint_path, detector_from, own_size, path_of, plain, size_of
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
    **settings: Any,
) -> Pruned:
    """Cut a detector; the input is left alone.

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
        settings: names of the `prune:` section, e.g. `target={"flops": 0.5}, criterion="l1", round_to=8`.

    Raises:
        SlimError: no detector, settings that are wrong or need training (rounds), images that it cannot look at, a
            target that cannot be met, or a cut that fails its proof.
    """
    module = detector_from(detector)
    settings = {name: plain(value) for name, value in settings.items()}
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
