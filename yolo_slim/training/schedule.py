"""How fast a trained detector is trained on. Ultralytics' defaults are made for a hundred epochs of one that is not.

A rate that is right for long trainings takes a detector away from where it is at first, and gives back what it cost
only over some hundred steps; a short training ends before. Where a cut has lost much there is little to spoil.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from yolo_slim.training.steps import optimizer_steps

STEPS = 300
"""Of the optimizer, from which on a training takes the full rate."""
LOST = 0.5
"""Share of the original's mAP50-95 that is lost, from which on it takes the full rate however short it is."""
UNKNOWN = 0.25
"""What counts as lost where nothing tells: half of the rate at least."""
LEAST = 0.02
"""Of the full rate, what a training of a few steps takes."""
WARM = 0.1
"""Share of the epochs over which the rate rises, where they are few."""
LONG, GATHERED = 10_000, 64
"""Steps of so many images from which on Ultralytics takes another optimizer, with which this has not been tried."""


def schedule(images: int, epochs: int, train: Mapping[str, Any], *, classes: int, lost: float | None) -> dict[str, Any]:
    """Ultralytics' arguments for training a trained detector on, but for those that `train` gives.

    A step each batch, AdamW at the rate that Ultralytics' `optimizer=auto` takes for so many classes, or at a part of
    it: as large a part as the steps are of `STEPS`, or what was lost is of `LOST`, whichever is more. A training by the
    clock, of as many images at a time as fit, or of more than `LONG` steps is left as it is, and so is one that says
    optimizer=auto; but a rate that `train` gives always holds.

    Args:
        images: to train on.
        epochs: over them.
        train: arguments that were chosen.
        classes: that the detector tells apart.
        lost: share of the original's mAP50-95 that is to be recovered; None: it is not known.
    """
    batch, optimizer = train.get("batch", 16), train.get("optimizer")
    adam = {} if optimizer else {"optimizer": "AdamW", "momentum": 0.9}
    long = math.ceil(images / max(batch, GATHERED)) * epochs > LONG
    if batch < 1 or train.get("time") or long or str(optimizer).lower() == "auto":
        return _left_open(adam if "lr0" in train else {}, train)
    nbs, warm = int(train.get("nbs", batch)), train.get("warmup_epochs", warming(epochs))
    if not optimizer:
        steps = optimizer_steps(images, epochs, batch=int(batch), nbs=nbs, warmup_epochs=warm)
        part = min(max(steps / STEPS, (UNKNOWN if lost is None else lost) / LOST, LEAST), 1.0)
        full = 0.002 * 5 / (4 + classes)  # ultralytics/engine/trainer.py, build_optimizer
        adam["lr0"] = float(f"{full * part:.2g}")
    return _left_open({"nbs": nbs, "warmup_epochs": warm, **adam}, train)


def warming(epochs: int) -> float:
    """Epochs over which the rate rises: Ultralytics' three, or a tenth of few."""
    return min(3.0, WARM * epochs)


def _left_open(found: dict[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in train}
