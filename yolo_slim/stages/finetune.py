"""Fine-tune the slim detector, with or without a teacher, and keep it slim."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

from ultralytics.data.utils import IMG_FORMATS

from yolo_slim import checkpoint
from yolo_slim.config import Config, Distill
from yolo_slim.distill import FEATURES, OUTPUTS
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
        teachers = teachers_of(config)
        inputs += teachers
        settings |= pictures(chosen.distill)
        extra, trainer = {SETTINGS: lesson(chosen.distill, teachers)}, DistillTrainer

    def work(folder: Path) -> tuple:
        arguments = train_arguments(config, epochs, chosen.train)
        trained = train_in(folder, trainer, start, settings=settings, inputs=inputs, extra=extra, arguments=arguments)
        best = trained / "best.pt"
        weights = checkpoint.save(checkpoint.load(best), folder / "slim.pt")
        row = measured(config, weights, split)
        say(stage, row, weights)
        return {"weights": weights}, row, {"teacher": ", ".join(map(str, inputs[1:])) or None}

    return run_stage(config, stage, settings, inputs, work)


def rehearse_distill(config: Config) -> None:
    """What is wrong with `finetune.distill` shows before hours of training.

    Raises:
        SlimError: a loss that there is not, a file that is not there or no detector.
    """
    if chosen := config.finetune.distill:
        named = [chosen.teacher] if isinstance(chosen.teacher, str) else chosen.teacher
        files = [Path(teacher) for teacher in named if teacher != "original"]
        for file in files:
            checkpoint.load(file)
        lesson(chosen, files)


def pictures(chosen: Distill) -> dict[str, str]:
    """What is in the folders of pictures, as settings: another name or size of a file, and the stage is done again.

    Raises:
        SlimError: a folder that is not there, or holds no picture.
    """
    found = {}
    for key in ("teacher_images", "extra_images"):
        if not (folder := getattr(chosen, key)):
            continue
        if not Path(folder).is_dir():
            raise SlimError(f"finetune.distill.{key}: no folder {folder}")
        files = sorted(p for p in Path(folder).rglob("*.*") if p.suffix[1:].lower() in IMG_FORMATS)
        if not files:
            raise SlimError(
                f"finetune.distill.{key}: expected pictures ({', '.join(sorted(IMG_FORMATS))}) in {folder}, found none"
            )
        # Not of their content: folders of unlabelled images are large.
        named = "".join(f"{p.relative_to(folder)} {p.stat().st_size}\n" for p in files)
        found[f"{key}_sum"] = hashlib.sha256(named.encode()).hexdigest()[:16]
    return found


def teachers_of(config: Config) -> list[Path]:
    """The checkpoints that `finetune.distill` names.

    Raises:
        SlimError: one is not there, or no detector.
    """
    named = config.finetune.distill.teacher
    found = []
    for teacher in [named] if isinstance(named, str) else named:
        path = finished(config, "original") if teacher == "original" else Path(teacher)
        if path is None:
            raise SlimError(
                f"the teacher is the original, but {config.folder / 'original'} is not there: run the stages in order"
            )
        checkpoint.load(path)  # says what is wrong with it before anything runs
        found.append(path)
    return found


def lesson(chosen: Distill, teachers: list[Path]) -> dict[str, Any]:
    """The settings file of DistillTrainer.

    Raises:
        SlimError: a loss, or an option of one, that there is not.
    """
    kin = chosen.teacher == "original" or "channels" in chosen.features  # who says so of a file must be right
    features = dict(chosen.features)
    if "auto" in features:
        features = {"channels" if kin else "mimic": features.pop("auto"), **features}
    asked = {"features": features, "outputs": dict(chosen.outputs)}
    for kind, known in (("features", FEATURES), ("outputs", OUTPUTS)):
        for name, options in asked[kind].items():
            _check_loss(f"finetune.distill.{kind}", name, options, known)
    layers = chosen.layers
    return {
        "teachers": [str(t) for t in teachers],
        "kin": kin,
        **asked,
        "layers": {name: name for name in layers} if isinstance(layers, list) else layers,
        **{k: getattr(chosen, k) for k in ("ramp_epochs", "stop_before", "teacher_images", "extra_images")},
    }


def _check_loss(where: str, name: str, options: dict[str, Any], known: dict[str, type]) -> None:
    if name not in known:
        raise SlimError(f"{where}: no loss {name}; expected one of {', '.join(known)}")
    _, *takes = inspect.signature(known[name]).parameters
    if unknown := options.keys() - {"weight", *takes}:
        raise SlimError(
            f"{where}.{name}: no option {', '.join(sorted(unknown))}; expected {', '.join(['weight', *takes])}"
        )
