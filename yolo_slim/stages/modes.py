"""The modes of sparse training: the trainer of each, what it goes by, and which cuts it can lead to."""

from __future__ import annotations

from typing import Any

from yolo_slim.config import Complete, Prune
from yolo_slim.errors import SlimError
from yolo_slim.training.choosing import CHOICE
from yolo_slim.training.polarization import PolarizedTrainer
from yolo_slim.training.regularized import SETTINGS
from yolo_slim.training.soft import SoftTrainer
from yolo_slim.training.sparse import SparseTrainer
from yolo_slim.training.targeted import TargetedTrainer

TRAINERS = {
    "uniform": SparseTrainer,
    "targeted": TargetedTrainer,
    "soft": SoftTrainer,
    "polarization": PolarizedTrainer,
}


PLANNED = {"targeted", "soft"}
"""Those that know while they train what the cut will take out, by the `prune:` section."""
RECOVERY = {"absorb", "reconstruct", "recalibrate"}
"""Settings of `prune:` that have no say in which channels go: what those that stay make up for it by."""


def files_of(config: Complete) -> dict[str, Any]:
    """What the mode's trainer finds in its run folder: name -> content."""
    chosen = config.sparse_train
    wanted = {
        "uniform": {"strength": chosen.strength, "penalty": chosen.penalty, "update": chosen.update},
        "targeted": {"landing": chosen.landing, "rechoose": chosen.rechoose},
        "soft": {"every": chosen.every},
        "polarization": {"strength": chosen.strength, "update": chosen.update, "t": chosen.polarization_t},
    }[chosen.mode]
    return {SETTINGS: wanted, **({CHOICE: config.model_dump(mode="json")} if chosen.mode in PLANNED else {})}


def landing_mode(config: Complete) -> str | None:
    """The mode of a sparse training that knows which channels go; None: they are chosen after it, or without it."""
    chosen = config.sparse_train
    return chosen.mode if chosen.epochs and chosen.mode in PLANNED else None


def decisive(config: Complete, chosen: Prune) -> dict[str, Any]:
    """What decides what goes, of a `prune:` section and all else."""
    no_say = {"iterations"} if chosen.depth and chosen.depth.blocks else {"iterations", *RECOVERY}
    return {**chosen.model_dump(mode="json", exclude=no_say), "imgsz": config.imgsz, **config.timing}


def check_compatible(chosen: Prune, landing: str | None) -> None:
    """Whether a cut can be made as it is asked for: told before hours of training, not after.

    Args:
        chosen: the `prune:` section.
        landing: as `landing_mode` tells it.

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
