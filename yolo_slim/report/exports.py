"""Exported files: how large they are, how far from PyTorch, and what was wrong with them."""

from __future__ import annotations

from typing import Any

from yolo_slim.report.doubt import span
from yolo_slim.report.numbers import DASH, code, digits, plain, table

EXPORT_HEAD = ("file", "precision", "MB", "runtime", "difference", "mAP50-95 (points)", "95 %")
EXPORT_LEGEND = (
    "Difference: the largest, of raw outputs to PyTorch's on real images. In brackets: points of mAP50-95 to "
    "PyTorch's; of what is rounded, where they lie on 95 % of other draws of the images."
)


def export_markdown(export: dict[str, Any] | None) -> str:
    """The section of report.md."""
    if not export:
        return ""
    amiss = "\n".join(f"- {plain(line)}" for line in export_amiss(export))
    parts = ("## Export", table(EXPORT_HEAD, map(exported, export["files"])), EXPORT_LEGEND, amiss)
    return "\n\n".join(part for part in parts if part)


def export_amiss(export: dict[str, Any]) -> list[str]:
    """What was beyond its bound, and which runtimes could not run which file."""
    failed = [
        f"{file['file']} does not run in {runtime}: {why}"
        for file in export["files"]
        for runtime, why in file.get("not_in", {}).items()
    ]
    failed += [
        f"{file['file']}: made, not proven: {file['not_run']}" for file in export["files"] if file.get("not_run")
    ]
    scores = [file["moved"] for file in export["files"] if file.get("moved")]
    return [*(f"Failed: {line}" for line in export.get("wrong", [])), *failed, *scores]


def exported(file: dict[str, Any]) -> list[str]:
    """The line of an exported file, from its entry in the record."""
    raw = {file["runtime"]: file["difference"], **file["also"]}
    shown = [f"{d:.1e}" + ("" if name == file["runtime"] else f" ({name})") for name, d in raw.items() if d is not None]
    worth = sure = DASH
    if file["map50_95_difference"] is not None:
        change = round(100 * file["map50_95_difference"], 2) + 0.0  # + 0.0: no "−0.00"
        worth = f"{file['map50_95']:.3f} ({change:+.2f})".replace("-", "−")
        low, high = (file.get(f"map50_95_difference_{end}") for end in ("low", "high"))
        if file["precision"] != "fp32" and low is not None and high is not None:
            sure = span(low, high)
    cells = [code(file["file"]), file["precision"], digits(file["file_mb"]), file["runtime"]]
    return [*cells, ", ".join(shown) or DASH, worth, sure]
