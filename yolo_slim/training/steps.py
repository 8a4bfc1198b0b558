"""How many steps a training takes: a batch is not one, until Ultralytics has gathered `nbs` images."""

from __future__ import annotations

import math


def accumulated(batch: int, nbs: int) -> int:
    """Batches that Ultralytics takes a step for, once it has warmed up."""
    return max(round(nbs / batch), 1)


def optimizer_steps(images: int, epochs: int, *, batch: int, nbs: int, warmup_epochs: float) -> int:
    """Steps of the optimizer in all of a training, counted as `BaseTrainer._do_train` takes them.

    Args:
        images: to train on.
        epochs: over them.
        batch: images at a time, of all GPUs together.
        nbs: Ultralytics' nominal batch: gradients of so many images are gathered for a step.
        warmup_epochs: over which it comes to gather that many.
    """
    batches = math.ceil(images / min(batch, images))
    total = batches * epochs
    gathered = min(accumulated(batch, nbs), total)
    warm = round(min(warmup_epochs, max(epochs - 1, 0)) * batches)
    steps, last = 0, -1
    for at in range(min(warm + 1, total) if warm else 0):
        if at - last >= max(1, round(1 + (gathered - 1) * at / warm)):
            steps, last = steps + 1, at
    return steps + (total - 1 - last) // gathered
