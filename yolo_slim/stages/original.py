"""The detector everything is compared with: read and checked, or trained first when the model is only a YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_slim import checkpoint
from yolo_slim.channels import image_channels
from yolo_slim.config import Complete
from yolo_slim.data.batches import Batches
from yolo_slim.data.facts import dataset_for
from yolo_slim.formats.detector import Detector
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured, split_of
from yolo_slim.runs.stage import run_stage
from yolo_slim.stages.common import say, train_arguments
from yolo_slim.stages.labels import tell_if_unlabelled
from yolo_slim.training.folder import train_in
from yolo_slim.training.trainer import SlimTrainer


def original(config: Complete) -> Record:
    """runs/<name>/original/original.pt: the detector as the other stages read it."""
    untrained = config.model.endswith((".yaml", ".yml"))
    settings: dict[str, Any] = {"imgsz": config.imgsz}
    if untrained:
        settings |= {"model": config.model, "seed": config.seed, **config.original.model_dump()}
    else:
        detector = checkpoint.load(config.model, config.weights)
        if config.data:
            dataset_for(detector, config.data, config.model)

    def work(folder: Path) -> tuple:
        if config.data:
            _ = Batches(config.data, config.imgsz, 0, split=split_of(config)).dataset  # there to be measured on
        final = detector if not untrained else _train(config, folder, settings)
        final.yaml = {**final.yaml, "channels": image_channels(final)}  # Ultralytics' exporter goes by it
        weights = checkpoint.save(final, folder / "original.pt")
        row = measured(config, weights)
        say("original", row, weights)
        return {"weights": weights}, row, {"source": config.model}

    inputs = [] if untrained else checkpoint.parts(config.model, config.weights)
    return run_stage(config, "original", settings, inputs, work)


def _train(config: Complete, folder: Path, settings: dict[str, Any]) -> Detector:
    checkpoint.build(config.model)  # a clear message before anything is written
    tell_if_unlabelled(config)
    arguments = train_arguments(config, config.original.epochs, config.original.train, untrained=True)
    weights = train_in(folder, SlimTrainer, config.model, settings=settings, inputs=[], extra={}, arguments=arguments)
    return checkpoint.load(weights / "best.pt")
