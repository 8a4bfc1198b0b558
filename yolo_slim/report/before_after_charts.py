"""Before against after: latency by runtime, AP by class, widths by layer."""

from __future__ import annotations

from typing import Any

from yolo_slim.report import svg
from yolo_slim.report.chart import BEFORE_AFTER, Chart, pair, panels, three
from yolo_slim.report.compared import classes
from yolo_slim.report.numbers import DASH, digits, median, points, ratio, side_of, timed_ms
from yolo_slim.report.speed import loud, runtime_of, timed
from yolo_slim.report.svg import Bar
from yolo_slim.row import BenchRow

TENFOLD = 10
"""Slowest over quickest, from which on a common axis would press the quick ones into one point."""


def latency(report: dict[str, Any]) -> list[Chart]:
    """Milliseconds an image, a chart for each number of threads and each batch, a row a runtime (or a stage)."""
    apart: dict[tuple[int, int], list[tuple[str, list[BenchRow]]]] = {}
    for (runtime, threads, batch), rows in timed(report).items():
        apart.setdefault((threads, batch), []).append((runtime, rows))
    return [_latency(report, *key, found) for key, found in apart.items()]


def _latency(report: dict[str, Any], threads: int, batch: int, found: list[tuple[str, list[BenchRow]]]) -> Chart:
    """The runtimes in which the slim detector is quickest come first."""
    where = f"batch {batch}, {threads} {'thread' if threads == 1 else 'threads'}, {side_of(report['imgsz'])}"
    if report.get("bench"):
        lines = [
            (runtime, [(row, "after" if row is not rows[0] else "before") for row in rows], rows[0])
            for runtime, rows in sorted(found, key=lambda each: timed_ms(each[1][-1]))
        ]
        told = report["measured_on"]
        here = (told["threads"], told["batch"]) == (threads, batch)
        title = f"Latency, {where}" + (f"; the headline: {runtime_of(report)}" if here and len(lines) > 1 else "")
    else:
        ((runtime, rows),) = found
        title = f"Latency in {runtime.split()[0]}, {where}"
        lines = [(row["stage"], [(row, "after" if row is not rows[0] else "before")], rows[0]) for row in rows]
    times = [row["latency_ms"] for _, drawn, _ in lines for row, _ in drawn if row["latency_ms"]]
    low, high = min(ms["p10"] for ms in times), max(ms["p90"] for ms in times)
    far = high > TENFOLD * low
    bars = [[_timing(name, row, look, base) for row, look in drawn] for name, drawn, base in lines]
    limits: dict[str, Any] = {"x": (low / 1.1, 1.1 * high), "log": 10} if far else {"x": (0, 1.02 * high)}
    label = "ms, logarithmic" if far else "ms"
    picture = svg.rows(title, [name for name, _, _ in lines], bars, **limits, x_label=label, room=46)
    numbers = [
        (runtime, row["stage"], *(digits(row["latency_ms"][key]) for key in ("p10", "median", "p90")))
        for runtime, rows in found
        for row in rows
        if row["latency_ms"]
    ]
    legend = BEFORE_AFTER if report.get("bench") else ()
    head = ("runtime", "detector", "p10", "median, ms", "p90")
    return Chart(title, [picture], head, numbers, legend, "Dot: median; bar: 10th to 90th percentile.")


def _timing(name: str, row: BenchRow, look: str, base: BenchRow) -> Bar:
    ms = row["latency_ms"]
    assert ms is not None, "`timed` has none without"
    change = ratio(ms["median"], median(base)) if row is not base else None
    tip = f"{name}, {row['stage']}: {digits(ms['median'])} ms ({digits(ms['p10'])}–{digits(ms['p90'])})"
    said = "busy" if row is not base and loud(row, base) else change or ""
    return Bar(look, ms["median"], f"{tip} {change or ''}".strip(), ms["p10"], ms["p90"], said)


def per_class(report: dict[str, Any]) -> list[Chart]:
    """AP50-95 of each class before and after, what fell most first."""
    found = classes(report)
    if len(found) < 2:
        return []
    fallen = sum(after is not None and after < before - 0.005 for _, before, after in found)
    said = f"{fallen or 'none'} of {len(found)} {'fall' if fallen > 1 else 'falls'} by more than half a point"
    title = "AP50-95 by class" + (f": {said}" if len(report["rows"]) > 1 else "")
    bars = [pair(name, before, after, _ap) for name, before, after in found]
    pictures = panels(title, [name for name, _, _ in found], bars, x=(0, 1), x_label=f"AP50-95 on {report['split']}")
    numbers = [(n, f"{a:.3f}", three(b), points(b, a) or DASH) for n, a, b in found]
    return [Chart(title, pictures, ("class", "before", "after", "points"), numbers, BEFORE_AFTER)]


def _ap(before: float, after: float | None) -> str:
    return f"{before:.3f}" if after is None else f"{before:.3f} → {after:.3f} ({points(after, before)} points)"


def widths(report: dict[str, Any]) -> list[Chart]:
    """Channels of every layer before and after, on a log2 axis: the same length is the same ratio."""
    layers = report.get("widths") or []
    shown = [w for w in layers if w["before"] > 1]  # the 1 of the convolution in DFL would stretch the axis for all
    if not shown:
        return []
    cut = sum(w["after"] != w["before"] for w in layers)
    share = sum(w["after"] for w in layers) / sum(w["before"] for w in layers)
    title = (
        f"{cut or 'None'} of {len(layers)} layers {'is' if cut < 2 else 'are'} cut; {share:.0%} of all channels stay"
    )
    bars = []
    for w in shown:
        if w["reason"]:
            bars.append([Bar("whole", w["after"], f"{w['layer']}: {w['after']} channels, kept whole: {w['reason']}")])
        else:
            bars.append(pair(w["layer"], w["before"], w["after"] or None, _channels))
    seen = [n for w in shown for n in (w["before"], w["after"]) if n]  # a width of 0 falls off the log axis
    limits = {"x": (min(seen) / 1.2, 1.2 * max(seen)), "log": 2}
    names = [w["layer"].removeprefix("model.").removesuffix(".conv") for w in shown]
    pictures = panels(title, names, bars, **limits, x_label="channels")
    numbers = [(w["layer"], w["before"], w["after"], w["reason"] or "") for w in layers]
    legend = [("before", "before"), ("after", "after"), ("whole", "protected: kept whole")]
    return [Chart(title, pictures, ("layer", "before", "after", "kept whole because"), numbers, legend)]


def _channels(before: float, after: float | None) -> str:
    return f"{before:g} → {after or 0:g} channels ({(after or 0) / before:.0%})"
