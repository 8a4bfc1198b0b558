"""Fine-tune the slim detector, with or without a teacher, and keep it slim."""

from __future__ import annotations

from pathlib import Path

from yolo_slim import checkpoint
from yolo_slim.config import Config
from yolo_slim.errors import SlimError
from yolo_slim.record import Record
from yolo_slim.stages.common import finished, measured, run_stage, say, train_arguments, train_in
from yolo_slim.training.distill import SETTINGS, DistillTrainer
from yolo_slim.training.trainer import SlimTrainer


def finetune(config: Config) -> Record:
    """runs/<name>/finetuned/slim.pt."""
    start = finished(config, "pruned")
    if start is None:
        raise SlimError(
            f"nothing pruned yet in {config.folder}: run `yolo-slim prune` with the same configuration first"
        )
    return tune(config, "finetuned", start, config.finetune.epochs)


def tune(config: Config, stage: str, start: Path, epochs: int, split: str | None = None) -> Record:
    """runs/<name>/<stage>/slim.pt: `start` trained as `finetune:` says, measured on `split` (default: the report's)."""
    chosen = config.finetune
    settings = {**chosen.model_dump(), "epochs": epochs, "imgsz": config.imgsz, "seed": config.seed}
    inputs, extra, trainer = [start], {}, SlimTrainer
    if chosen.distill:
        teacher = teacher_of(config)
        inputs.append(teacher)
        extra, trainer = {SETTINGS: {"teacher": str(teacher), "weight": chosen.distill.weight}}, DistillTrainer

    def work(folder: Path) -> tuple:
        arguments = train_arguments(config, epochs, chosen.train)
        trained = train_in(folder, trainer, start, settings=settings, inputs=inputs, extra=extra, arguments=arguments)
        best = trained / "best.pt"
        weights = checkpoint.save(checkpoint.load(best), folder / "slim.pt")
        row = measured(config, weights, split)
        say(stage, row, weights)
        return {"weights": weights}, row, {"teacher": str(inputs[1]) if chosen.distill else None}

    return run_stage(config, stage, settings, inputs, work)


def teacher_of(config: Config) -> Path:
    """The checkpoint that `finetune.distill` names.

    Raises:
        SlimError: it is not there, or no detector.
    """
    teacher = config.finetune.distill.teacher
    if teacher != "original":
        checkpoint.load(teacher)  # says what is wrong with it before anything runs
        return Path(teacher)
    path = finished(config, "original")
    if path is None:
        raise SlimError(
            f"the teacher is the original, but {config.folder / 'original'} is not there: run the stages in order"
        )
    return path
