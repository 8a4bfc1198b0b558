"""What a detector is worth for what it costs: mAP against FLOPs, stage by stage, round by round, point by point."""

from __future__ import annotations

from typing import Any

import numpy as np

from yolo_slim.report import svg
from yolo_slim.report.chart import Chart, apart, three
from yolo_slim.report.numbers import ratio, side_of
from yolo_slim.report.svg import Mark, Picture, Series
from yolo_slim.report.sweep_charts import looks
from yolo_slim.report.sweep_words import curves
from yolo_slim.row import Row


def trade_off(report: dict[str, Any]) -> list[Chart]:
    """mAP against FLOPs: the stages, and the points of a sweep; apart where they are measured on different splits."""
    rows, sweep = [r for r in report["rows"] if r.get("map50_95") is not None and r.get("flops")], report.get("sweep")
    together = bool(rows and sweep and sweep["split"] == report["split"])
    charts = [_trade_off(report, rows, _curves(sweep) if sweep and together else [])] if rows else []
    return [*charts, _sweep(report, sweep)] if sweep and not together else charts


def _trade_off(report: dict[str, Any], rows: list[Row], curves: list[Series]) -> Chart:
    xy = [(r["flops"] / 1e9, r["map50_95"]) for r in rows]
    every = np.array([*xy, *((m.x, m.y) for one in curves for m in one.marks)])  # [N, 2]
    y = _limits(every[:, 1])
    drawn = [*curves, _stages(rows, np.array(xy), y, "ink" if curves else "after")]  # the stages lie on top
    title = "mAP50-95 against FLOPs: the stages" + (" and the points of the sweep" if curves else "")
    x, y_label = (0, 1.4 * every[:, 0].max()), f"mAP50-95 on {report['split'] or 'the data set'}"
    return _points(title, svg.xy(title, drawn, x=x, y=y, x_label=_gflops(report), y_label=y_label), drawn)


def _gflops(report: dict[str, Any]) -> str:
    return f"GFLOPs per image of {side_of(report['imgsz'])}"


def _limits(maps: np.ndarray) -> tuple[float, float]:
    """At least ten points high, so that a difference of one looks like one."""
    room = max(0.1, 1.3 * np.ptp(maps)) / 2
    middle = (maps.min() + maps.max()) / 2
    return max(-0.02, middle - room), min(1.02, middle + room)


def _points(title: str, picture: Picture, drawn: list[Series]) -> Chart:
    """With every mark in its table."""
    numbers = [(m.tip.split(":")[0], f"{m.x:.3f}", f"{m.y:.3f}") for one in drawn[::-1] for m in one.marks]
    legend = [(one.look, one.name) for one in drawn] if drawn[1:] else ()
    return Chart(title, [picture], ("", "GFLOPs", "mAP50-95"), numbers, legend)


def _stages(rows: list[Row], xy: np.ndarray, limits: tuple[float, float], colour: str) -> Series:
    """Joined in their order, each named beside its point, away from the line; the original is grey."""
    right, heights = xy[:, 0] >= (xy[:, 0].min() + xy[:, 0].max()) / 2, xy[:, 1].copy()
    for side in (right, ~right):
        heights[side] = apart(heights[side], 0.075 * (limits[1] - limits[0]), *limits)
    marks: list[Mark] = []
    for row, (x, y), beyond, height in zip(rows, xy.tolist(), right.tolist(), heights.tolist(), strict=True):
        tip = f"{row['stage']}: {x:.3f} GFLOPs, mAP50-95 {y:.3f}"
        look = "" if marks else "before"
        marks.append(Mark(x, y, tip, f"{row['stage']} {y:.3f}", left=not beyond, text_y=height, look=look))
    return Series("stages", colour, marks)


def _curves(sweep: dict[str, Any]) -> list[Series]:
    """A curve a criterion and recovery, each from the original on; chance is grey."""
    start, found = sweep["original"], curves(sweep)
    several = len({recovery for _, recovery in found}) > 1
    drawn = []
    for (criterion, recovery), look in looks(found).items():
        name = f"{criterion}, {recovery}" if several else criterion
        xy = [(row["flops"] / 1e9, row["map50_95"]) for row in (start, *found[criterion, recovery])]
        marks = [Mark(x, y, f"{name}: {x:.3f} GFLOPs, mAP50-95 {y:.3f}") for x, y in xy]
        drawn.append(Series(name, look, marks))
    return drawn


def _sweep(report: dict[str, Any], sweep: dict[str, Any]) -> Chart:
    drawn = _curves(sweep)
    start = sweep["original"]
    title = f"The sweep: {len(drawn)} ways to cut, nothing trained; the original has mAP50-95 {start['map50_95']:.3f}"
    every = [m for one in drawn for m in one.marks]
    x, y = (0, 1.05 * max(m.x for m in every)), (0, 1.1 * max(m.y for m in every) or 1)
    y_label = f"mAP50-95 on {sweep['split']}"
    return _points(title, svg.xy(title, drawn, x=x, y=y, x_label=_gflops(report), y_label=y_label), drawn)


def rounds(report: dict[str, Any]) -> list[Chart]:
    """mAP over the rounds: down at each cut, up again at each fine-tuning."""
    found = report.get("iterations")
    if not found:
        return []
    whole, start = report["rows"][0]["flops"], found["map50_95_original"]
    way = [(whole, start)]
    way += [(r["flops"], m) for r in found["rounds"] for m in (r["map50_95_cut"], r["map50_95_finetuned"])]
    xy = np.array([(flops / 1e9, m) for flops, m in way if m is not None])
    ends = [("cut", "whole", "after the cut"), ("finetuned", "after", "fine-tuned")]
    drawn = [Series("the way", "before", [Mark(x, y, f"mAP50-95 {y:.3f}") for x, y in xy.tolist()], dots=False)]
    if start is not None:
        marks = [Mark(x, start, f"original: {start:.3f}") for x in (xy[:, 0].max(), xy[:, 0].min())]
        drawn.append(Series("original", "before dashed", marks, dots=False))
    for key, look, name in ends:
        there = [(r, r[f"map50_95_{key}"]) for r in found["rounds"] if r[f"map50_95_{key}"] is not None]
        marks = [Mark(r["flops"] / 1e9, m, f"round {r['round']}, {name}: {m:.3f}") for r, m in there]
        drawn.append(Series(name, look, marks, line=False))
    last = found["rounds"][-1]
    ended = "stopped after round {}" if found["stopped"] else "{} rounds"
    title = f"{ended.format(last['round'])}: FLOPs {ratio(last['flops'], whole)}"
    x, y = (1.05 * xy[:, 0].max(), 0.95 * xy[:, 0].min()), _limits(xy[:, 1])
    y_label = f"mAP50-95 on {found['split']}"
    picture = svg.xy(title, drawn, x=x, y=y, x_label=f"{_gflops(report)}, falling", y_label=y_label)
    numbers = [
        (r["round"], f"{r['flops'] / 1e9:.3f}", *(three(r[f"map50_95_{key}"]) for key, _, _ in ends))
        for r in found["rounds"]
    ]
    legend = [(one.look, one.name) for one in drawn[1:]]
    return [Chart(title, [picture], ("round", "GFLOPs", "after the cut", "fine-tuned"), numbers, legend)]
