"""The page's charts: what each shows of report.json, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from markupsafe import Markup

from yolo_slim.report import series, svg
from yolo_slim.report.compared import classes, timed
from yolo_slim.report.numbers import DASH, digits, median, points, ratio
from yolo_slim.report.svg import Bar, Mark, Series

ROWS = 28
"""Of a chart of rows; what is longer goes on in the next one."""
COLOURS = 6
"""The page has c0 to c5."""
BEFORE_AFTER = (("before", "original"), ("after", "slim"))


@dataclass(frozen=True)
class Chart:
    """Pictures under one title, that say what is seen, and their numbers."""

    title: str
    pictures: Sequence[Markup]
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    legend: Sequence[tuple[str, str]] = field(default=())  # (look, name)
    note: str = ""


def trade_off(report: dict[str, Any]) -> list[Chart]:
    """mAP against FLOPs: the stages, and the points of a sweep; apart where they are measured on different splits."""
    rows, sweep = series.stages(report), report.get("sweep")
    together = bool(rows and sweep and sweep["split"] == report["split"])
    charts = []
    if rows:
        charts.append(_trade_off(report, [_stages(rows), *(_curves(sweep) if together else [])], rows))
    if sweep and not together:
        charts.append(_sweep(sweep))
    return charts


def _trade_off(report: dict[str, Any], drawn: list[Series], rows: list[dict[str, Any]]) -> Chart:
    every = np.array([(m.x, m.y) for one in drawn for m in one.marks])  # [N, 2]
    low, high = series.limits(every[:, 1])
    title = series.what_it_cost(rows)
    picture = svg.xy(
        title,
        drawn[::-1],  # the stages lie on top
        x=(0, 1.25 * every[:, 0].max()),
        y=(low, high),
        x_label="GFLOPs per image",
        y_label=f"mAP50-95 on {report['split']}",
    )
    head = ("", "GFLOPs", "mAP50-95")
    numbers = [(m.tip.split(":")[0], f"{m.x:.3f}", f"{m.y:.3f}") for one in drawn for m in one.marks]
    return Chart(title, [picture], head, numbers, [(one.look, one.name) for one in drawn] if drawn[1:] else ())


def _stages(rows: list[dict[str, Any]]) -> Series:
    xy = np.array([(r["flops"] / 1e9, r["map50_95"]) for r in rows])  # [N, 2]
    low, high = series.limits(xy[:, 1])
    marks = [
        Mark(x, y, f"{r['stage']}: {x:.3f} GFLOPs, mAP50-95 {y:.3f}", f"{r['stage']} {y:.3f}", not right, height)
        for r, (x, y), (right, height) in zip(rows, xy.tolist(), series.apart(xy, 0.075 * (high - low)), strict=True)
    ]
    return Series("stages", "after", marks)


def _curves(sweep: dict[str, Any]) -> list[Series]:
    """A curve a criterion and recovery, each from the original on; chance is grey."""
    start, found = sweep["original"], {}
    for row in sorted(sweep["rows"], key=lambda row: -(row.get("flops") or 0)):
        if row.get("error") is None:
            found.setdefault((row["criterion"], row["recovery"]), []).append(row)
    colours = (f"c{i % COLOURS}" for i in range(len(found)))
    return [
        Series(name := f"{criterion}, {recovery}", "before" if criterion == "random" else next(colours), [
            Mark(r["flops"] / 1e9, r["map50_95"], f"{name}: {r['flops'] / 1e9:.3f} GFLOPs, mAP50-95 {r['map50_95']:.3f}")
            for r in (start, *rows)
        ])
        for (criterion, recovery), rows in found.items()
    ]  # fmt: skip


def _sweep(sweep: dict[str, Any]) -> Chart:
    drawn = _curves(sweep)
    start = sweep["original"]
    title = f"The sweep: {len(drawn)} ways to cut, nothing trained; the original has mAP50-95 {start['map50_95']:.3f}"
    every = [m for one in drawn for m in one.marks]
    picture = svg.xy(
        title,
        drawn,
        x=(0, 1.05 * max(m.x for m in every)),
        y=(0, 1.1 * max(m.y for m in every) or 1),
        x_label="GFLOPs per image",
        y_label=f"mAP50-95 on {sweep['split']}",
    )
    numbers = [(one.name, f"{m.x:.3f}", f"{m.y:.3f}") for one in drawn for m in one.marks]
    return Chart(title, [picture], ("", "GFLOPs", "mAP50-95"), numbers, [(one.look, one.name) for one in drawn])


def rounds(report: dict[str, Any]) -> list[Chart]:
    """mAP over the rounds: down at each cut, up again at each fine-tuning."""
    if not report.get("iterations"):
        return []
    way, found = series.rounds_way(report), report["iterations"]
    ends = [("cut", "whole", "after the cut"), ("finetuned", "after", "fine-tuned")]
    drawn = [Series("the way", "before", [Mark(x, y, f"mAP50-95 {y:.3f}") for x, y in way.tolist()], dots=False)]
    for key, look, name in ends:
        measured = [r for r in found["rounds"] if r[f"map50_95_{key}"] is not None]
        drawn.append(Series(name, look, [
            Mark(r["flops"] / 1e9, r[f"map50_95_{key}"], f"round {r['round']}, {name}: {r[f'map50_95_{key}']:.3f}")
            for r in measured
        ], line=False))  # fmt: skip
    title = series.rounds_title(report)
    limits = {"x": (1.05 * way[:, 0].max(), 0.95 * way[:, 0].min()), "y": series.limits(way[:, 1])}
    labels = {"x_label": "GFLOPs per image, falling", "y_label": f"mAP50-95 on {found['split']}"}
    picture = svg.xy(title, drawn, **limits, **labels)
    numbers = [
        (r["round"], f"{r['flops'] / 1e9:.3f}", *(_three(r[f"map50_95_{key}"]) for key, _, _ in ends))
        for r in found["rounds"]
    ]
    legend = [(one.look, one.name) for one in drawn[1:]]
    return [Chart(title, [picture], ("round", "GFLOPs", "after the cut", "fine-tuned"), numbers, legend)]


def _three(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def latency(report: dict[str, Any]) -> list[Chart]:
    """Milliseconds an image, a chart for each number of threads and each batch, a row a runtime (or a stage)."""
    apart: dict[tuple[int, int], list[tuple[str, list[dict[str, Any]]]]] = {}
    for (runtime, threads, batch), rows in timed(report).items():
        apart.setdefault((threads, batch), []).append((runtime, rows))
    return [_latency(report, *key, found) for key, found in apart.items()]


def _latency(report: dict[str, Any], threads: int, batch: int, found: list[tuple[str, list[dict[str, Any]]]]) -> Chart:
    where = f"batch {batch}, {threads} {'thread' if threads == 1 else 'threads'}"
    if report.get("bench"):
        lines = [
            (runtime, [(row, "after" if row is not rows[0] else "before") for row in rows], rows[0])
            for runtime, rows in found
        ]
    else:
        ((runtime, rows),) = found
        where = f"{runtime}, {where}"
        lines = [(row["stage"], [(row, "after" if row is not rows[0] else "before")], rows[0]) for row in rows]
    top = max(row["latency_ms"]["p90"] for _, drawn, _ in lines for row, _ in drawn)
    bars = [[_timing(name, row, look, base) for row, look in drawn] for name, drawn, base in lines]
    title = f"Latency: {where}"
    picture = svg.rows(title, [name for name, _, _ in lines], bars, x=(0, 1.02 * top), x_label="ms", room=46)
    numbers = [
        (runtime, row["stage"], *(digits(row["latency_ms"][key]) for key in ("p10", "median", "p90")))
        for runtime, rows in found
        for row in rows
    ]
    legend = BEFORE_AFTER if report.get("bench") else ()
    head = ("runtime", "detector", "p10", "median, ms", "p90")
    return Chart(title, [picture], head, numbers, legend, "Dot: median; bar: 10th to 90th percentile.")


def _timing(name: str, row: dict[str, Any], look: str, base: dict[str, Any]) -> Bar:
    ms = row["latency_ms"]
    change = ratio(ms["median"], median(base)) if row is not base else None
    tip = f"{name}, {row['stage']}: {digits(ms['median'])} ms ({digits(ms['p10'])}–{digits(ms['p90'])})"
    return Bar(look, ms["median"], f"{tip} {change or ''}".strip(), ms["p10"], ms["p90"], change or "")


def per_class(report: dict[str, Any]) -> list[Chart]:
    """AP50-95 of each class before and after, what fell most first."""
    found = classes(report)
    if not found:
        return []
    fallen = sum(after is not None and after < before - 0.005 for _, before, after in found)
    title = f"AP50-95 by class: {fallen} of {len(found)} fall by more than half a point"
    bars = [_pair(name, before, after, _ap) for name, before, after in found]
    pictures = _panels(title, [name for name, _, _ in found], bars, x=(0, 1), x_label=f"AP50-95 on {report['split']}")
    numbers = [(n, f"{a:.3f}", _three(b), points(b, a) or DASH) for n, a, b in found]
    return [Chart(title, pictures, ("class", "before", "after", "points"), numbers, BEFORE_AFTER)]


def _ap(before: float, after: float | None) -> str:
    return f"{before:.3f}" if after is None else f"{before:.3f} → {after:.3f} ({points(after, before)} points)"


def widths(report: dict[str, Any]) -> list[Chart]:
    """Channels of every layer before and after, on a log2 axis: the same length is the same ratio."""
    shown = series.shown_widths(report)
    if not shown:
        return []
    title = series.widths_title(report)
    bars = []
    for w in shown:
        if w["reason"]:
            bars.append([Bar("whole", w["after"], f"{w['layer']}: {w['after']} channels, kept whole: {w['reason']}")])
        else:
            bars.append(_pair(w["layer"], w["before"], w["after"] or None, _channels))
    seen = [w[key] for w in shown for key in ("before", "after") if w[key]]  # a width of 0 falls off the log axis
    limits = {"x": (min(seen) / 1.2, 1.2 * max(seen)), "log": True}
    pictures = _panels(title, [series.short(w["layer"]) for w in shown], bars, **limits, x_label="channels")
    numbers = [(w["layer"], w["before"], w["after"], w["reason"] or "") for w in report["widths"]]
    legend = [("before", "before"), ("after", "after"), ("whole", "protected: kept whole")]
    return [Chart(title, pictures, ("layer", "before", "after", "kept whole because"), numbers, legend)]


def _channels(before: float, after: float | None) -> str:
    return f"{before:g} → {after or 0:g} channels ({(after or 0) / before:.0%})"


def _pair(name: str, before: float, after: float | None, said: Any) -> list[Bar]:
    """A ring before, a dot after, and what lies between."""
    tip = f"{name}: {said(before, after)}"
    if after is None:
        return [Bar("before", before, tip)]
    return [Bar("before", before, tip, before, after), Bar("after", after, tip)]


def _panels(title: str, names: Sequence[str], bars: Sequence[list[Bar]], **axis: Any) -> list[Markup]:
    """As many charts as it takes, of about the same length."""
    count = ceil(len(names) / ROWS)
    each = ceil(len(names) / count)
    parts = [slice(i * each, (i + 1) * each) for i in range(count)]
    said = [title, *[f"{title}, continued"] * (count - 1)]
    return [svg.rows(label, names[part], bars[part], **axis) for label, part in zip(said, parts, strict=True)]


def scales(report: dict[str, Any]) -> list[Chart]:
    """|γ| before and after sparse training and, where it was logged, the way between."""
    charts = [_distribution(report["scales"])] if series.has_scales(report) else []
    return [*charts, _quantiles(report["sparsity"])] if charts and report.get("sparsity") else charts


def _distribution(both: dict[str, list[float]]) -> Chart:
    edges, *shares = series.histogram(both)
    drawn, middles = [], (edges[:-1] + edges[1:]) / 2
    for (look, name), each in zip((("before", "before"), ("after", "after")), shares, strict=True):
        tips = [f"{name}: {share:.1%} of the scales in {a:.3f}–{b:.3f}" for share, a, b in zip(each, edges, edges[1:])]
        marks = [Mark(x, y, tip) for x, y, tip in zip(middles.tolist(), each.tolist(), tips, strict=True)]
        steps = [(x, 0.0, y) for y, *ends in zip(each.tolist(), edges.tolist(), edges[1:].tolist()) for x in ends]
        drawn.append(Series(name, look, marks, line=False, dots=False, areas=[steps]))
    title, top = series.histogram_title(both), max(share.max() for share in shares)
    labels = {"x_label": "|γ| (the last bar: this or more)", "y_label": "share of the scales in each bar"}
    picture = svg.xy(title, drawn, x=(0, edges[-1]), y=(0, 1.05 * top), **labels, percent=True)
    numbers = [
        (f"{a:.3f}–{b:.3f}", f"{before:.1%}", f"{after:.1%}") for a, b, before, after in zip(edges, edges[1:], *shares)
    ]
    return Chart(title, [picture], ("|γ|", "before", "after"), numbers, [(one.look, one.name) for one in drawn])


def _quantiles(log: list[dict[str, float]]) -> Chart:
    epochs, *q = (v.tolist() for v in series.quantiles(log))
    wide, narrow = (list(zip(epochs, q[i], q[-1 - i], strict=True)) for i in (0, 1))
    said = [f"epoch {e:g}: median {m:.3f}, half in {a:.3f}–{b:.3f}" for e, a, m, b in zip(epochs, *q[1:4], strict=True)]
    middle = [Mark(x, y, tip) for x, y, tip in zip(epochs, q[2], said, strict=True)]
    drawn = [Series("median; 25 to 75%, 5 to 95%", "after", middle, dots=False, areas=[wide, narrow])]
    title = series.quantiles_title(log)
    labels = {"x_label": "epoch of sparse training", "y_label": "|γ|"}
    picture = svg.xy(title, drawn, x=_span(epochs), y=(0, 1.05 * max(q[-1])), **labels)
    rows = [(f"{e:g}", *(f"{v:.3f}" for v in each)) for e, *each in zip(epochs, *q, strict=True)]
    return Chart(title, [picture], ("epoch", "5%", "25%", "median", "75%", "95%"), rows, [("after", drawn[0].name)])


def _span(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if max(values) > min(values) else (min(values) - 0.5, max(values) + 0.5)


def training(report: dict[str, Any]) -> list[Chart]:
    """mAP and losses, epoch by epoch, of every stage that trained."""
    charts = []
    for stage, log in (report.get("training") or {}).items():
        names = [name for name in log[0] if name != "epoch"]
        maps = [name for name in names if name.startswith("metrics/")]
        losses = [name for name in names if name.endswith("_loss")]
        if maps:
            best = max(log, key=lambda e: e[maps[-1]])
            said = f"{stage}: mAP50-95 {best[maps[-1]]:.3f} after epoch {best['epoch']:g} of {len(log)}, on val"
            charts.append(_epochs(said, log, maps, "mAP"))
        if losses:
            charts.append(_epochs(f"{stage}: losses, dashed on val", log, losses, "loss"))
    return charts


def _epochs(title: str, log: list[dict[str, float]], names: Iterable[str], y_label: str) -> Chart:
    names = list(names)
    kinds = list(dict.fromkeys(name.partition("/")[2] for name in names))
    drawn = []
    for name in names:
        known = [e for e in log if np.isfinite(e[name])]
        look = f"c{kinds.index(name.partition('/')[2]) % COLOURS}" + (" dashed" if name.startswith("val/") else "")
        said = _said(name)
        marks = [Mark(e["epoch"], e[name], f"epoch {e['epoch']:g}, {said}: {digits(e[name])}") for e in known]
        drawn.append(Series(said, look, marks, dots=len(log) == 1))
    top = max((m.y for one in drawn for m in one.marks), default=0) or 1
    picture = svg.xy(
        title, drawn, x=_span([e["epoch"] for e in log]), y=(0, 1.05 * top), x_label="epoch", y_label=y_label
    )
    rows = [(f"{e['epoch']:g}", *(digits(e[name]) for name in names)) for e in log]
    return Chart(title, [picture], ("epoch", *map(_said, names)), rows, [(one.look, one.name) for one in drawn])


def _said(name: str) -> str:
    """As Ultralytics' results.csv has it, in words."""
    return name.removeprefix("metrics/").removesuffix("(B)").removesuffix("_loss").replace("/", " ")
