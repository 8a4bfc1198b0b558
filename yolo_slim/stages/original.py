"""The detector everything is compared with: read and checked, or trained first: for other classes, or from a YAML."""

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
from yolo_slim.stages.begun import begun, is_trained_first, is_yaml
from yolo_slim.stages.common import say, tracked, train_arguments
from yolo_slim.stages.labels import tell_if_unlabelled
from yolo_slim.training.folder import train_in
from yolo_slim.training.trainer import SlimTrainer


def original(config: Complete) -> Record:
    """runs/<name>/original/original.pt: the detector as the other stages read it."""
    settings: dict[str, Any] = {"imgsz": config.imgsz}
    if is_trained_first(config):
        settings |= {"seed": config.seed, **config.original.model_dump()}
    if is_yaml(config.model):
        settings |= {"model": config.model}
    else:
        detector = begun(config)
        if config.data:
            dataset_for(detector, config.data, config.model)

    def work(folder: Path) -> tuple:
        if config.data:
            _ = Batches(config.data, config.imgsz, 0, split=split_of(config)).dataset  # there to be measured on
        final = _train(config, folder, settings) if is_trained_first(config) else detector
        final.yaml = {**final.yaml, "channels": image_channels(final)}  # Ultralytics' exporter goes by it
        weights = checkpoint.save(final, folder / "original.pt")
        row = measured(config, weights)
        say(config, "original", row, weights)
        return {"weights": weights}, row, {"source": config.model}

    return run_stage(config, "original", settings, _files(config), work)


def _files(config: Complete) -> list[Path]:
    return [] if is_yaml(config.model) else checkpoint.parts(config.model, config.weights)


def _train(config: Complete, folder: Path, settings: dict[str, Any]) -> Detector:
    detector = begun(config)  # a clear message before anything is written
    tell_if_unlabelled(config)
    untrained, start = is_yaml(config.model), folder / "start.pt"
    model: Path | str = config.model if untrained else checkpoint.save(detector, start)
    arguments = train_arguments(config, config.original.epochs, config.original.train, untrained=untrained)
    weights = train_in(
        folder,
        SlimTrainer,
        model,
        settings=settings,
        inputs=_files(config),
        extra=tracked(config, folder),
        arguments=arguments,
    )
    start.unlink(missing_ok=True)
    return checkpoint.load(weights / "best.pt")
