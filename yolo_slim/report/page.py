"""report.json as one HTML file that needs nothing else: no network, no script to be readable."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from yolo_slim.report.before_after_charts import latency, per_class, widths
from yolo_slim.report.bench_words import bench_said
from yolo_slim.report.compared import changes_said, quickest
from yolo_slim.report.device_words import DEVICE_HEAD, device_rows, device_said
from yolo_slim.report.doubt import sure
from yolo_slim.report.numbers import digits, points, ratio
from yolo_slim.report.operating import HEAD, table_at, warnings
from yolo_slim.report.operating import LEGEND as AT_LEGEND
from yolo_slim.report.tables import (
    EXPORT_HEAD,
    conditions,
    export_amiss,
    exported,
    legend,
    notes,
    results,
    summary,
)
from yolo_slim.report.training_charts import scales, training
from yolo_slim.report.worth_charts import rounds, trade_off

SECTIONS = (
    ("worth", "What it costs, what it is worth", (trade_off, latency, per_class)),
    ("widths", "Widths", (widths,)),
    ("rounds", "Rounds", (rounds,)),
    ("scales", "Scales", (scales,)),
    ("training", "Training", (training,)),
)


def page(report: dict[str, Any], folder: Path) -> str:
    """The whole of report.html.

    Args:
        report: the content of report.json.
        folder: where its pictures lie.
    """
    drawn = ((key, title, [chart for of in ofs for chart in of(report)]) for key, title, ofs in SECTIONS)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            name=report["name"],
            summary=summary(report),
            headline=headline(report),
            warnings=warnings(report),
            results=results(report["rows"]),
            legend=legend(report["rows"]),
            at=(HEAD, lines, AT_LEGEND) if (lines := table_at(report["rows"])) else None,
            notes=notes(report["rows"]),
            device=(DEVICE_HEAD, device_rows(found)) if (found := report.get("device")) else None,
            device_said=device_said(found) if found else [],
            sections=[(key, title, found) for key, title, found in drawn if found],
            pictures=_pictures(report.get("pictures"), folder),
            export=(EXPORT_HEAD, map(exported, files["files"])) if (files := report.get("export")) else None,
            amiss=export_amiss(files) if files else [],
            said={key: _said(report, key) for key, _, _ in SECTIONS},
            conditions=conditions(report),
            versions=report["versions"],
        )
    )


def headline(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The four numbers one came for: how much, of what, from where to where."""
    rows = report["rows"]
    if len(rows) < 2:
        return []
    first, last = rows[0], rows[-1]
    found = [
        (ratio(last.get(key), first.get(key)), word, _way(first.get(key), last.get(key), unit, name))
        for key, word, unit, name in (("params", "parameters", 1e6, "M"), ("flops", "FLOPs", 1e9, "GFLOPs"))
    ]
    if timings := quickest(report):
        runtime, before, after = timings
        word = "faster" if before >= after else "the speed: slower"
        found.append((ratio(before, after), word, f"{_way(before, after, 1, 'ms')}, {runtime}"))
    if change := points(last.get("map50_95"), first.get("map50_95")):
        way = f"{first['map50_95']:.3f} → {last['map50_95']:.3f} on {report['split']}{sure(last, first)}"
        found.append((change, "points of mAP50-95", way))
    return [(much, word, way) for much, word, way in found if much]


def _said(report: dict[str, Any], key: str) -> list[str]:
    """In words, above the charts of a section."""
    return bench_said(report["bench"]) if key == "worth" and report.get("bench") else []


def _way(before: float | None, after: float | None, unit: float, name: str) -> str:
    if before is None or after is None:
        return ""
    return f"{digits(before / unit)} → {digits(after / unit)} {name}"


def _pictures(found: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """What the template draws of them, each with its bytes."""
    if not found or not found["shown"]:
        return None
    shown = [
        {**picture, "data": base64.b64encode((folder / picture["file"]).read_bytes()).decode()}
        for picture in found["shown"]
    ]
    return {"said": changes_said(found), "shown": shown}


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
