"""The trainer of each mode of sparse training, and the files that it finds in its run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from yolo_slim.config import Complete
from yolo_slim.stages.landed import PLANNED
from yolo_slim.training.choosing import CHOICE, SCAN
from yolo_slim.training.forced import SETTINGS
from yolo_slim.training.polarization import PolarizedTrainer
from yolo_slim.training.soft import SoftTrainer
from yolo_slim.training.sparse import SparseTrainer
from yolo_slim.training.targeted import TargetedTrainer

TRAINERS = {
    "uniform": SparseTrainer,
    "targeted": TargetedTrainer,
    "soft": SoftTrainer,
    "polarization": PolarizedTrainer,
}


def files_of(config: Complete, scan: Path | None = None) -> dict[str, Any]:
    """What the mode's trainer finds in its run folder: name -> content. `scan` is for solver sensitivity."""
    chosen = config.sparse_train
    wanted = {
        "uniform": {"strength": chosen.strength, "penalty": chosen.penalty, "update": chosen.update},
        "targeted": {"landing": chosen.landing, "rechoose": chosen.rechoose},
        "soft": {"every": chosen.every},
        "polarization": {"strength": chosen.strength, "update": chosen.update, "t": chosen.polarization_t},
    }[chosen.mode]
    choice = {CHOICE: config.model_dump(mode="json")} if chosen.mode in PLANNED else {}
    found = {SCAN: json.loads(scan.read_text(encoding="utf-8"))} if scan else {}
    return {SETTINGS: wanted, **choice, **found}
