"""What the settings leave open: `model`, `weights`, `data` and `imgsz` are the run's, then the checkpoint's.

From here on a configuration is complete: no other file asks what is meant by null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_slim.config import Complete, Config, check
from yolo_slim.errors import SlimError
from yolo_slim.runs import identity
from yolo_slim.runs.identity import Identity

IMGSZ = 640
"""Where neither the settings nor the run nor the checkpoint say."""


def complete(config: Config) -> Complete:
    """The configuration with what it leaves open taken from the run of its name, if that is of this model.

    The image side is else what the checkpoint was trained at. The data set is not: the path in a checkpoint is
    somebody else's, and so may be what lies there.

    Raises:
        SlimError: no model, and no run that has one.
    """
    if isinstance(config, Complete):
        return config
    run = identity.read(config.folder)
    model = config.model or (run.model if run else None)
    if model is None:
        raise SlimError(f"model: needed, e.g. model=best.pt (there is no run in {config.folder} that says which)")
    run = run if run and _is_of(run, config) else None
    data = config.data or (run.data if run else None)
    weights = config.weights or (run.weights if run else None)
    imgsz = config.imgsz or (run.imgsz if run else _trained_at(model, weights))
    # As if they had been typed: a run may be somebody else's.
    found = check(
        {"model": model, "data": data, "imgsz": imgsz, "weights": weights}, f"{config.folder / identity.FILE}"
    )
    return Complete.of(config, model=found.model, data=found.data, imgsz=found.imgsz, weights=found.weights)


def _is_of(run: Identity, config: Config) -> bool:
    """Whether a run is of the model that is given, or none is given."""
    if config.model is None or config.model == run.model:
        return True
    now = Identity(config.model, identity.sum_of(config.model), None, None, 0)
    return identity.same_model(run, now)


def _trained_at(model: str, weights: str | None) -> int:
    """The image side that a checkpoint was trained at, as the next one that strides of 32 divide."""
    if model.endswith((".yaml", ".yml")) or not Path(model).is_file():  # what is wrong with it is told where it is read
        return IMGSZ
    from yolo_slim import checkpoint  # only now: it needs torch

    if not checkpoint.is_stored(model):
        return IMGSZ

    ckpt = checkpoint.read(model, weights)
    side = _fitting(checkpoint.detector_of(ckpt, model).args.get("imgsz"))
    if side is None:
        return IMGSZ
    why = f", as {model} was trained at" if checkpoint.says_size(ckpt) else f": {model} does not say its own"
    print(f"imgsz={side}{why}")
    return side


def _fitting(value: Any) -> int | None:
    """A side as the settings allow it; None: no such thing."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 16:
        return None
    try:
        return check({"model": "any", "imgsz": -(-value // 32) * 32}).imgsz
    except SlimError:
        return None
