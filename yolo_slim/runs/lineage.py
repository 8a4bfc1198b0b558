"""Which stages of a run tell one story: each made from what the one before it is now, by content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from yolo_slim import record
from yolo_slim.record import Record
from yolo_slim.runs import BARE, SLIM, WEIGHTS


def story(folder: Path) -> tuple[dict[str, Record], dict[str, str]]:
    """The line of stages that comes furthest, from the first on; and of the other finished ones, why they are none.

    What a stage was made from is the first of its inputs. Others, such as a teacher, make it no descendant of theirs.
    """
    found = {stage: done for stage in WEIGHTS if (done := record.read(folder / stage)) and "weights" in done.sums}
    lines = {stage: _line(found, stage) for stage in found}
    first = next(iter(found), None)
    told = next((line for line in reversed(lines.values()) if line[0] == first), [])
    return {stage: found[stage] for stage in told}, {
        stage: _why(line, told, first, folder) for stage, line in lines.items() if stage not in told
    }


def _line(found: dict[str, Record], stage: str) -> list[str]:
    """A stage and all before it that it builds on, in order."""
    earlier = list(found)[: list(found).index(stage)]
    for before in reversed(earlier):
        if found[before].sums["weights"] == found[stage].source:
            return [*_line(found, before), stage]
    return [stage]


def _why(line: list[str], told: list[str], first: str | None, folder: Path) -> str:
    if line[0] == first:
        after = next(stage for stage in told if stage not in line)
        return f"{after} was not made from it"
    other = f"made from other weights than those now in {folder}: run it again"
    return other if len(line) == 1 else f"made from {line[-2]}, which is itself {other}"


def slimmest(done: dict[str, Record]) -> str | None:
    """The last stage of a story that made the detector slim."""
    return next((stage for stage in reversed((BARE, *SLIM)) if stage in done), None)


TRAINING = (
    *("epochs", "batch", "imgsz", "optimizer", "lr0", "lrf", "cos_lr", "momentum", "weight_decay", "nbs"),
    *("warmup_epochs", "patience", "amp", "mosaic", "close_mosaic", "mixup", "freeze", "fraction", "seed"),
)
"""What is told of Ultralytics' args.yaml; `details.schedule` of a record has what became of its `auto`."""


def told(done: dict[str, Record], folder: Path) -> list[dict[str, Any]]:
    """A step for each stage: which file it wrote, what that was made from, how, and how long it took.

    Returns:
        `stage`, `file`, `sha256`, `made_from` (inputs, the first of them what became it), `settings`, `training` (of
        Ultralytics, {} where nothing was trained), `teacher`, `asked` and `achieved` (targets), `seconds`, `versions`.
    """
    return [
        {
            "stage": stage,
            "file": str(each.output(folder / stage)),
            "sha256": each.sums["weights"],
            "made_from": list(each.inputs),
            "settings": each.settings,
            "training": {**_trained(folder / stage / "train/args.yaml"), **each.details.get("schedule", {})},
            **{key: each.details.get(key) for key in ("teacher", "asked", "achieved")},
            "seconds": each.seconds,
            "versions": each.versions,
        }
        for stage, each in done.items()
    ]


def _trained(file: Path) -> dict[str, Any]:
    """Ultralytics' args.yaml; nothing of a file that is damaged."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return {key: found[key] for key in TRAINING if key in found} if isinstance(found, dict) else {}
