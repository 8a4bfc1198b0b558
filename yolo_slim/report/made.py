"""How the detectors were made: which file came from which, by what settings, in how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from yolo_slim.report.numbers import DASH, code

Table = tuple[Sequence[str], list[list[str]]]
HEAD = ("stage", "file", "made from", "took", "sha256", "yolo-slim")
SHORT = 12  # digits of a sum that are shown; report.json has all


def lineage(report: dict[str, Any]) -> Table:
    """A line a stage. Files are marked as code."""
    rows = [
        [
            step["stage"],
            code(step["file"]),
            _sources(step),
            duration(step["seconds"]),
            code(step["sha256"][:SHORT]),
            str(step["versions"].get("yolo-slim", DASH)),
        ]
        for step in report.get("lineage") or []
    ]
    return HEAD, rows


def _sources(step: dict[str, Any]) -> str:
    first = code(step["made_from"][0]) if step["made_from"] else DASH
    return f"{first}, taught by {code(step['teacher'])}" if step["teacher"] else first


def trained(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(stage, the arguments that Ultralytics trained it with), of those that were."""
    return _typed(report, "training")


def settings(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(stage, all its settings); what is off or empty is left out."""
    return _typed(report, "settings")


def _typed(report: dict[str, Any], key: str) -> list[tuple[str, str]]:
    """As it is typed in a shell."""
    found = ((step["stage"], " ".join(_flat(step[key]))) for step in report.get("lineage") or [])
    return [(stage, words) for stage, words in found if words]


def _flat(settings: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None and value is not False and value not in ("", []):
            yield f"{before}{name}={_value(value)}"


def _value(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def duration(seconds: float) -> str:
    """In the unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
