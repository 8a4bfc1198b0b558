"""Fine-tune the slim detector, with or without a teacher, and keep it slim."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from yolo_slim import checkpoint
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import classes_of
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import finished, lineage, run_stage
from yolo_slim.stages.common import check_data, say, train_arguments
from yolo_slim.stages.entry import continues
from yolo_slim.stages.labels import tell_if_unlabelled, val_labelled, worth_on_val
from yolo_slim.stages.landing_time import training_images
from yolo_slim.stages.lesson import check_kin, lesson, pictures, teachers_of
from yolo_slim.training.distill import SETTINGS, DistillTrainer
from yolo_slim.training.ending import ENDS, best_end
from yolo_slim.training.folder import train_in
from yolo_slim.training.schedule import schedule
from yolo_slim.training.trainer import SlimTrainer

TEACHES = 0.1
"""Share of the original's mAP50-95 that must be lost for a teacher to pay, where that is to be told (distill=auto)."""


@continues
def finetune(config: Complete) -> Record:
    """runs/<name>/finetuned/slim.pt."""
    done = lineage(config, "finetuned")
    stage = "recovered" if config.recover.match else "pruned"
    if stage == "recovered" and "pruned" in done and stage not in done:
        raise SlimError(
            f"recover.match is set, and nothing is recovered yet in {config.folder} from what is there now: run "
            "`yolo-slim recover` with the same configuration first, or leave it out (recover.match=null)"
        )
    start = done.get(stage)
    if start is None:
        raise SlimError(
            f"nothing pruned yet in {config.folder} from what is there now: run `yolo-slim prune` with the same "
            "configuration first"
        )
    return tune(config, "finetuned", start.output(config.folder / stage), config.finetune.epochs)


def tune(config: Complete, stage: str, start: Path, epochs: int, split: str | None = None) -> Record:
    """runs/<name>/<stage>/slim.pt: `start` trained as `finetune:` says, measured on `split` (default: the report's)."""
    check_data(config)
    chosen = config.finetune
    teaching = chosen.lesson
    settings = {**chosen.model_dump(), "epochs": epochs, "imgsz": config.imgsz, "seed": config.seed}
    inputs = [start]
    if teaching:
        teachers = teachers_of(config, teaching)
        inputs += teachers
        settings |= pictures(teaching)
        check_kin(teaching, start, teachers)

    def work(folder: Path) -> tuple:
        tell_if_unlabelled(config)
        slim = checkpoint.load(start)
        before = worth_on_val(config, slim) if val_labelled(config) else None
        lost = _lost(config, before)
        extra, trainer = {}, SlimTrainer
        if teaching and _pays(config, lost):
            extra, trainer = {SETTINGS: lesson(teaching, teachers)}, DistillTrainer
        scheduled = _schedule(config, classes_of(slim), epochs, lost)
        arguments = train_arguments(config, epochs, {**scheduled, **chosen.train})
        trained = train_in(folder, trainer, start, settings=settings, inputs=inputs, extra=extra, arguments=arguments)
        best, found = _ended(config, slim, checkpoint.load(trained / "best.pt"), before)
        weights = checkpoint.save(best, folder / "slim.pt")
        row = measured(config, weights, split)
        say(stage, row, weights)
        taught = ", ".join(map(str, teachers)) if extra else None
        return {"weights": weights}, row, {"teacher": taught, "lost": lost, "schedule": scheduled, "end": found}

    return run_stage(config, stage, settings, inputs, work)


NOT_KNOWN = "how much was lost is not known, for val does not tell"


def _lost(config: Complete, before: float | None) -> float | None:
    """Share of the original's mAP50-95 on val that is to be recovered; None: nothing tells."""
    original = finished(config, "original")
    if before is None or original is None or not (whole := worth_on_val(config, checkpoint.load(original))):
        return None
    return round(max(1 - before / whole, 0.0), 3)


def _pays(config: Complete, lost: float | None) -> bool:
    """Whether to learn from the teacher; `auto` goes by what there is to learn, and says so."""
    if config.finetune.distill != "auto":
        return True
    pays = lost is None or lost > TEACHES
    console.print(
        "finetune.distill=auto: "
        + (NOT_KNOWN if lost is None else f"{lost:.1%} of the original's mAP50-95 on val is lost")
        + (": learning from the original as well" if pays else ": too little for a teacher to pay")
    )
    return pays


def _schedule(config: Complete, classes: int, epochs: int, lost: float | None) -> dict[str, Any]:
    train = config.finetune.train
    images = training_images(config.dataset, train.get("fraction", 1.0))
    found = schedule(images, epochs, train, classes=classes, lost=lost)
    if "lr0" in found:
        how = NOT_KNOWN if lost is None else f"{lost:.1%} of mAP50-95 is to be recovered"
        console.print(f"learning rate {found['lr0']:g}: {how}, in {epochs} epochs over {images} images")
    return found


def _ended(
    config: Complete, start: Detector, trained: Detector, before: float | None
) -> tuple[Detector, dict[str, Any] | None]:
    """What the best epoch, the start, and what lies between them are worth on val: that which is worth most."""
    if before is None:
        return trained, None
    taken, share, worths = best_end(start, trained, partial(worth_on_val, config), before)
    told = ", ".join(f"{ENDS[each]} {worth:.4f}" for each, worth in worths.items())
    console.print(f"mAP50-95 on val: {told}: {ENDS[share]} is taken")
    return taken, {"taken": ENDS[share], "map50_95_val": {ENDS[each]: worth for each, worth in worths.items()}}
