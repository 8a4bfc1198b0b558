"""Sparse training: pull batch-norm scales towards zero, so that the channels that do not matter show."""

from __future__ import annotations

import csv
from pathlib import Path

from yolo_slim import checkpoint
from yolo_slim.config import Config
from yolo_slim.record import Record
from yolo_slim.stages.common import measured, run_stage, say, train_arguments, train_in
from yolo_slim.stages.original import original
from yolo_slim.training.sparse import SETTINGS, SparseTrainer


def sparse_train(config: Config) -> Record:
    """runs/<name>/sparse/sparse.pt, and sparsity.csv: what happened to the scales, epoch by epoch."""
    start = original(config).output(config.folder / "original")
    chosen = config.sparse_train
    settings = {**chosen.model_dump(), "imgsz": config.imgsz, "seed": config.seed}

    def work(folder: Path) -> tuple:
        arguments = train_arguments(config, chosen.epochs, chosen.train)
        extra = {SETTINGS: {"strength": chosen.strength, "penalty": chosen.penalty, "update": chosen.update}}
        trained = train_in(
            folder, SparseTrainer, start, settings=settings, inputs=[start], extra=extra, arguments=arguments
        )
        last = trained / "last.pt"
        # The last epoch, not the best one: the scales are what this stage is for.
        ckpt = checkpoint.read(last)
        detector = checkpoint.detector_of(ckpt, last)
        if chosen.weights == "live":
            detector.load_state_dict(ckpt["live"])
        weights = checkpoint.save(detector, folder / "sparse.pt")
        row = measured(config, weights)
        say("sparse", row, weights)
        with (folder / "train" / "sparsity.csv").open(newline="") as file:
            log = [{k: float(v) for k, v in line.items()} for line in csv.DictReader(file)]
        return {"weights": weights}, row, {"sparsity": log}

    return run_stage(config, "sparse", settings, [start], work)
