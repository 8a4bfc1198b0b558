"""Fine-tune the slim detector, with or without a teacher, and keep it slim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_slim import checkpoint
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.record import Record
from yolo_slim.runs import BARE
from yolo_slim.runs.bare import with_file
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import finished, lineage, run_stage
from yolo_slim.stages.common import check_data, say
from yolo_slim.stages.entry import looks_at
from yolo_slim.stages.lesson import check_kin, lesson, pictures, teachers_of
from yolo_slim.stages.tuning import NOT_KNOWN, Taught, trained_on
from yolo_slim.training.distill import SETTINGS, DistillTrainer
from yolo_slim.training.trainer import SlimTrainer

TEACHES = 0.1
"""Share of the original's mAP50-95 that must be lost for a teacher to pay, where that is to be told (distill=auto)."""


@looks_at
def finetune(config: Complete) -> Record:
    """runs/<name>/finetuned/slim.pt."""
    done = with_file(config, lineage(config, "finetuned"))
    stage = "recovered" if config.recover.match else "pruned"
    if stage == "recovered" and "pruned" in done and stage not in done:
        raise SlimError(
            f"recover.match is set, and nothing is recovered yet in {config.folder} from what is there now: run "
            "`yolo-slim recover` with the same configuration first, or leave it out (recover.match=null)"
        )
    start = done.get(stage) or done.get(BARE)
    if start is None:
        raise SlimError(
            f"nothing pruned yet in {config.folder} from what is there now: run `yolo-slim prune` with the same "
            "configuration first, or give a slim checkpoint, model=slim.pt"
        )
    return tune(config, "finetuned", start.output(config.folder / start.stage), config.finetune.epochs)


def tune(config: Complete, stage: str, start: Path, epochs: int, split: str | None = None) -> Record:
    """runs/<name>/<stage>/slim.pt: `start` trained as `finetune:` says, measured on `split` (default: the report's)."""
    check_data(config)
    chosen = config.finetune
    # Of a slim file that no run has made, the original is not known.
    known = chosen.distill != "auto" or finished(config, "original") is not None
    teaching = chosen.lesson if known else None
    settings = {**chosen.model_dump(), "epochs": epochs, "imgsz": config.imgsz, "seed": config.seed}
    inputs = [start]
    if teaching:
        teachers = teachers_of(config, teaching)
        inputs += teachers
        settings |= pictures(teaching)
        check_kin(teaching, start, teachers)

    def work(folder: Path) -> tuple:
        extra: dict[str, Any] = {}

        def taught(lost: float | None) -> Taught:
            if teaching and _pays(config, lost):
                extra[SETTINGS] = lesson(teaching, teachers)
            return (DistillTrainer if extra else SlimTrainer), extra

        best, details = trained_on(
            config, folder, start, epochs, chosen.train, settings=settings, inputs=inputs, taught=taught
        )
        weights = checkpoint.save(best, folder / "slim.pt")
        row = measured(config, weights, split)
        say(config, stage, row, weights)
        return {"weights": weights}, row, {"teacher": ", ".join(map(str, teachers)) if extra else None, **details}

    return run_stage(config, stage, settings, inputs, work)


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
