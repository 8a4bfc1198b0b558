"""What a detector is worth for what it costs: mAP against FLOPs, stage by stage, round by round, point by point."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from yolo_slim.report import series, svg
from yolo_slim.report.chart import COLOURS, Chart, three
from yolo_slim.report.svg import Mark, Series
from yolo_slim.report.sweep_words import CONTROL
from yolo_slim.row import Row, SweepRow


def trade_off(report: dict[str, Any]) -> list[Chart]:
    """mAP against FLOPs: the stages, and the points of a sweep; apart where they are measured on different splits."""
    rows, sweep = series.stages(report), report.get("sweep")
    together = bool(rows and sweep and sweep["split"] == report["split"])
    charts = [_trade_off(report, rows, _curves(sweep) if sweep and together else [])] if rows else []
    return [*charts, _sweep(sweep)] if sweep and not together else charts


def _trade_off(report: dict[str, Any], rows: list[Row], curves: list[Series]) -> Chart:
    xy = [(r["flops"] / 1e9, r["map50_95"]) for r in rows]
    every = np.array([*xy, *((m.x, m.y) for one in curves for m in one.marks)])  # [N, 2]
    low, high = series.limits(every[:, 1])
    drawn = [*curves, _stages(rows, np.array(xy), 0.075 * (high - low))]  # the stages lie on top
    title = series.what_it_cost(rows)
    x, y_label = (0, 1.4 * every[:, 0].max()), f"mAP50-95 on {report['split']}"
    picture = svg.xy(title, drawn, x=x, y=(low, high), x_label="GFLOPs per image", y_label=y_label)
    return _points(title, picture, drawn)


def _points(title: str, picture: Markup, drawn: list[Series]) -> Chart:
    """With every mark in its table."""
    numbers = [(m.tip.split(":")[0], f"{m.x:.3f}", f"{m.y:.3f}") for one in drawn[::-1] for m in one.marks]
    legend = [(one.look, one.name) for one in drawn] if drawn[1:] else ()
    return Chart(title, [picture], ("", "GFLOPs", "mAP50-95"), numbers, legend)


def _stages(rows: list[Row], xy: np.ndarray, gap: float) -> Series:
    """Joined in their order, each named beside its point; the original is grey."""
    marks: list[Mark] = []
    for row, (x, y), (right, height) in zip(rows, xy.tolist(), series.apart(xy, gap), strict=True):
        tip = f"{row['stage']}: {x:.3f} GFLOPs, mAP50-95 {y:.3f}"
        marks.append(Mark(x, y, tip, f"{row['stage']} {y:.3f}", not right, height, "" if marks else "before"))
    return Series("stages", "after", marks)


def _curves(sweep: dict[str, Any]) -> list[Series]:
    """A curve a criterion and recovery, each from the original on; chance is grey."""
    start = sweep["original"]
    found: dict[tuple[str, str], list[SweepRow]] = {}
    for row in sorted(sweep["rows"], key=lambda row: -(row.get("flops") or 0)):
        if row.get("error") is None:
            found.setdefault((row["criterion"], row["recovery"]), []).append(row)
    colours = (f"c{i % COLOURS}" for i in range(len(found)))
    several = len({recovery for _, recovery in found}) > 1
    drawn = []
    for (criterion, recovery), rows in found.items():
        name = f"{criterion}, {recovery}" if several else criterion
        xy = [(row["flops"] / 1e9, row["map50_95"]) for row in (start, *rows)]
        marks = [Mark(x, y, f"{name}: {x:.3f} GFLOPs, mAP50-95 {y:.3f}") for x, y in xy]
        drawn.append(Series(name, "before" if criterion == CONTROL else next(colours), marks))
    return drawn


def _sweep(sweep: dict[str, Any]) -> Chart:
    drawn = _curves(sweep)
    start = sweep["original"]
    title = f"The sweep: {len(drawn)} ways to cut, nothing trained; the original has mAP50-95 {start['map50_95']:.3f}"
    every = [m for one in drawn for m in one.marks]
    x, y = (0, 1.05 * max(m.x for m in every)), (0, 1.1 * max(m.y for m in every) or 1)
    y_label = f"mAP50-95 on {sweep['split']}"
    return _points(title, svg.xy(title, drawn, x=x, y=y, x_label="GFLOPs per image", y_label=y_label), drawn)


def rounds(report: dict[str, Any]) -> list[Chart]:
    """mAP over the rounds: down at each cut, up again at each fine-tuning."""
    if not report.get("iterations"):
        return []
    way, found = series.rounds_way(report), report["iterations"]
    ends = [("cut", "whole", "after the cut"), ("finetuned", "after", "fine-tuned")]
    drawn = [Series("the way", "before", [Mark(x, y, f"mAP50-95 {y:.3f}") for x, y in way.tolist()], dots=False)]
    for key, look, name in ends:
        there = [(r, r[f"map50_95_{key}"]) for r in found["rounds"] if r[f"map50_95_{key}"] is not None]
        marks = [Mark(r["flops"] / 1e9, m, f"round {r['round']}, {name}: {m:.3f}") for r, m in there]
        drawn.append(Series(name, look, marks, line=False))
    title = series.rounds_title(report)
    x, y = (1.05 * way[:, 0].max(), 0.95 * way[:, 0].min()), series.limits(way[:, 1])
    y_label = f"mAP50-95 on {found['split']}"
    picture = svg.xy(title, drawn, x=x, y=y, x_label="GFLOPs per image, falling", y_label=y_label)
    numbers = [
        (r["round"], f"{r['flops'] / 1e9:.3f}", *(three(r[f"map50_95_{key}"]) for key, _, _ in ends))
        for r in found["rounds"]
    ]
    legend = [(one.look, one.name) for one in drawn[1:]]
    return [Chart(title, [picture], ("round", "GFLOPs", "after the cut", "fine-tuned"), numbers, legend)]
