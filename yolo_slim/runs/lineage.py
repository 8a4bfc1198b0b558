"""Which stages of a run tell one story: each made from what the one before it is now, by content."""

from __future__ import annotations

from pathlib import Path

from yolo_slim import record
from yolo_slim.record import Record
from yolo_slim.runs import WEIGHTS


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
