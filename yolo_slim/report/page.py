"""report.json as one HTML file that needs nothing else: no network, no script to be readable."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from yolo_slim.report.advice import advice
from yolo_slim.report.before_after_charts import latency, per_class, widths
from yolo_slim.report.changes import CONFIDENCE, LEAST, SIDES, tally
from yolo_slim.report.compared import by_object, changes_said
from yolo_slim.report.device_words import DEVICE_HEAD, device_rows, device_said
from yolo_slim.report.exports import EXPORT_HEAD, EXPORT_LEGEND, export_amiss, exported
from yolo_slim.report.made import lineage, settings, trained
from yolo_slim.report.operating import LEGEND as AT_LEGEND
from yolo_slim.report.operating import compared_at, warnings
from yolo_slim.report.speed import by_layer, by_runtime
from yolo_slim.report.tables import conditions, legend, results
from yolo_slim.report.training_charts import scales, training
from yolo_slim.report.verdict import headline, verdict
from yolo_slim.report.worth_charts import rounds, trade_off

SECTIONS = (
    ("worth", "Cost, speed and accuracy", (trade_off, latency, per_class)),
    ("widths", "Widths", (widths,)),
    ("rounds", "Rounds", (rounds,)),
    ("scales", "Scales", (scales,)),
    ("training", "Training", (training,)),
)
BELOW = {"Latency by runtime": by_runtime, "Layers behind their FLOPs": by_layer}
"""Tables below the charts of speed."""
ON_PAPER = 3
"""Pairs of pictures that are seen at once; the others are folded away, and not printed."""


def page(report: dict[str, Any], folder: Path) -> str:
    """The whole of report.html.

    Args:
        report: the content of report.json.
        folder: where its pictures lie.
    """
    drawn = ((key, title, [chart for of in ofs for chart in of(report)]) for key, title, ofs in SECTIONS)
    files, device = report.get("export"), report.get("device")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            name=report["name"],
            verdict=verdict(report),
            headline=headline(report),
            warnings=warnings(report),
            advice=advice(report),
            results=results(report),
            legend=legend(report["rows"]),
            at=(*found, AT_LEGEND) if (found := compared_at(report["rows"])) else None,
            device=(DEVICE_HEAD, device_rows(device)) if device else None,
            device_said=device_said(device) if device else [],
            sections=[(key, title, found) for key, title, found in drawn if found],
            tables={"worth": [(title, of(report)) for title, of in BELOW.items()]},
            pictures=_pictures(report.get("pictures"), folder),
            export=(EXPORT_HEAD, map(exported, files["files"]), EXPORT_LEGEND) if files else None,
            amiss=export_amiss(files) if files else [],
            lineage=lineage(report),
            trained=trained(report),
            settings=settings(report),
            conditions=conditions(report),
            versions=report["versions"],
        )
    )


def _pictures(found: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """What the template draws of them, each with its bytes."""
    if not found or not found["shown"]:
        return None
    shown = [
        {
            **picture,
            "data": base64.b64encode((folder / picture["file"]).read_bytes()).decode(),
            "tally": {side: tally(picture, side) for side in SIDES},
        }
        for picture in found["shown"]
    ]
    return {
        "said": changes_said(found),
        "known": found["counted"] is not None,
        "counted": by_object(found),
        "shown": shown,
        "on_paper": ON_PAPER,
        "confidence": CONFIDENCE,
        "least": LEAST,
    }


def _environment() -> Environment:
    loader = PackageLoader("yolo_slim.report", "template")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["code"] = _code
    return made


def _code(text: str) -> Markup:
    """`Backticks` as <code>."""
    parts = text.split("`")
    tags = (Markup("<code>{}</code>") if i % 2 else Markup("{}") for i in range(len(parts)))
    return Markup("").join(tag.format(part) for tag, part in zip(tags, parts, strict=True))
