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
LEAST = 0.02
"""Of the full rate, what a training of a few steps takes."""
WARM = 0.1
"""Share of the epochs over which the rate rises, where they are few."""
LONG, GATHERED = 10_000, 64
"""Steps of so many images from which on Ultralytics takes another optimizer, with which this has not been tried."""


def schedule(images: int, epochs: int, train: Mapping[str, Any], *, classes: int, lost: float | None) -> dict[str, Any]:
    """Ultralytics' arguments for training a trained detector on, but for those that `train` gives.

    A step each batch, AdamW at the rate that Ultralytics' `optimizer=auto` takes for so many classes, or at a part of
    it: as large a part as the steps are of `STEPS`, or what was lost is of `LOST`, whichever is more.

    Args:
        images: to train on.
        epochs: over them.
        train: arguments that were chosen; optimizer=auto among them leaves the rate to Ultralytics.
        classes: that the detector tells apart.
        lost: share of the original's mAP50-95 that is to be recovered; None: it is not known.
    """
    batch = train.get("batch", 16)
    if batch < 1 or train.get("time") or math.ceil(images / max(batch, GATHERED)) * epochs > LONG:
        return {}
    found: dict[str, Any] = {"nbs": int(batch), "warmup_epochs": min(3.0, WARM * epochs)}
    warm, nbs = train.get("warmup_epochs", found["warmup_epochs"]), int(train.get("nbs", batch))
    if "optimizer" not in train:
        steps = optimizer_steps(images, epochs, batch=int(batch), nbs=nbs, warmup_epochs=warm)
        part = min(max(steps / STEPS, (lost or 0.0) / LOST, LEAST), 1.0)
        full = 0.002 * 5 / (4 + classes)  # ultralytics/engine/trainer.py, build_optimizer
        found |= {"optimizer": "AdamW", "lr0": float(f"{full * part:.2g}"), "momentum": 0.9}
    return {name: value for name, value in found.items() if name not in train}
