"""The plan that sparse training has brought to zero: the prune stage follows it to the letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_slim import record
from yolo_slim.config import Complete, Prune
from yolo_slim.errors import SlimError
from yolo_slim.timing.clock import timing

PLANNED = {"targeted", "soft"}
"""Modes of sparse training that choose the channels themselves, by the `prune:` section."""
RECOVERY = {"absorb", "reconstruct", "recalibrate"}
"""Settings of `prune:` that have no say in which channels go: what those that stay make up for it by."""


def landing_mode(config: Complete) -> str | None:
    """The mode of a sparse training that chooses the channels itself; None: the prune stage chooses them."""
    chosen = config.sparse_train
    return chosen.mode if chosen.epochs and chosen.mode in PLANNED else None


def compatible(chosen: Prune, landing: str | None) -> None:
    """Whether a cut can be made as it is asked for: told before hours of training, not after.

    Args:
        chosen: the `prune:` section.
        landing: the mode of a sparse training that chooses the channels itself; None: the prune stage chooses them.

    Raises:
        SlimError: it cannot.
    """
    blocks, rounds = chosen.depth and chosen.depth.blocks, chosen.iterations.rounds
    if blocks and rounds > 1:
        raise SlimError("prune.depth takes residual branches out in one go: prune.iterations.rounds=1, or no depth")
    if landing and rounds > 1:
        raise SlimError(
            f"sparse_train.mode={landing} chooses all that goes at once, and prune.iterations.rounds cuts little by "
            "little: choose one (prune.iterations.rounds=1, or sparse_train.epochs=0)"
        )
    if landing and blocks:
        raise SlimError(
            f"sparse_train.mode={landing} lands channels, not residual branches: leave out prune.depth, or sparse "
            "training (sparse_train.epochs=0)"
        )


def decisive(config: Complete) -> dict[str, Any]:
    """What decides which channels go: a plan made before holds as long as this is the same."""
    chosen = {k: v for k, v in config.prune.model_dump(mode="json").items() if k not in RECOVERY}
    return {**chosen, "imgsz": config.imgsz, **timing(config)}


def landed_plan(config: Complete) -> Path | None:
    """The plan that sparse training has worked towards; None without sparse training, or in a mode that makes none.

    Raises:
        SlimError: sparse training was done in another mode, or for another budget.
    """
    mode, folder = config.sparse_train.mode, config.folder / "sparse"
    if mode not in PLANNED or not config.sparse_train.epochs:
        return None
    done = record.read(folder)
    if done is None:
        return None
    if done.settings["mode"] != mode:
        raise SlimError(
            f"{folder} was trained with sparse_train.mode={done.settings['mode']}, and leaves no plan that {mode} "
            "would follow: run `yolo-slim sparse-train` with this configuration first, give the mode that it was "
            "trained with, or prune the original: sparse_train.epochs=0"
        )
    then, now = done.settings["prune"], decisive(config)
    changed = [f"{k}: {now.get(k)} (then: {then.get(k)})" for k in now | then if now.get(k) != then.get(k)]
    if changed:
        raise SlimError(
            f"the channels that {folder} has brought to zero are not those that the prune: section asks for now: "
            f"{', '.join(changed)}. Run `yolo-slim sparse-train` again, it lands the new plan; or set that back; "
            "or choose anew from the weights as they are: sparse_train.mode=uniform"
        )
    return done.output(folder, "plan")
