"""TensorBoard, MLflow and W&B, by Ultralytics' own callbacks; each in files of this machine, unless told otherwise.

Which of them is in a file of the training's folder, that the processes of several GPUs find as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from ultralytics.utils import SETTINGS

FILE = "trackers.yaml"
"""In the folder of a training: `trackers`, and the `run`, `stage` and `store` that they are told."""

ALL = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
"""What Ultralytics has callbacks for, as its settings call them (ultralytics/utils/callbacks/base.py)."""


def said(trackers: Sequence[str], run: str, stage: str, runs: Path) -> dict[str, dict[str, Any]]:
    """The file that a training of a run is to find: name -> content.

    Args:
        trackers: those that were asked for.
        run: its name.
        stage: that trains.
        runs: folder of the runs, where MLflow keeps its store.
    """
    return {
        FILE: {"trackers": list(trackers), "run": run, "stage": stage, "store": (runs / "mlruns").absolute().as_uri()}
    }


@contextmanager
def attached(save_dir: Any) -> Iterator[dict[str, Any]]:
    """Let a trainer that is made meanwhile be tracked as the file in its folder says; without one, as Ultralytics is.

    Yields:
        what the file says; nothing, without one.
    """
    file = Path(str(save_dir)) / FILE if save_dir else None
    if file is None or not file.is_file():
        yield {}
        return
    asked = yaml.safe_load(file.read_text(encoding="utf-8"))
    if asked["trackers"]:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ["MLFLOW_TRACKING_URI"] = asked["store"]
            # Files hold the artifacts as well; a database of MLflow's leaves them in the working directory.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("WANDB_MODE", "offline")
    # A copy: what is set in SETTINGS itself goes to the user's file.
    wanted = {**SETTINGS, **{name: name in asked["trackers"] for name in ALL}}
    with patch("ultralytics.utils.SETTINGS", wanted):
        yield asked
