"""A sweep as a picture: mAP against FLOPs and against latency, a curve a criterion and recovery, named at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import Any, TypeAlias

from yolo_slim.report import svg
from yolo_slim.report.chart import COLOURS, Chart, apart
from yolo_slim.report.numbers import digits, points, ratio, timed_ms
from yolo_slim.report.svg import LETTER, LINE, Mark, Series
from yolo_slim.report.sweep_words import CONTROL, cliff, curves, falls_off, in_noise, recommended, stays_within, tells
from yolo_slim.row import SweepRow

LINES = ("", "dashed", "dotted", "dashdot")
COLOURED = ("obs", "l1", "taylor", "bn_scale", "group_fisher", "fpgm", "l2", "lasso")
"""Criteria that have a colour of their own, in the order of chart.css."""
STUB = 20.0  # from a name to the first of the points

Place: TypeAlias = Callable[[SweepRow], float]
"""Where on the horizontal axis a row stands."""


def looks(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(criterion, recovery) -> CSS classes: the colour of one, grey for chance, and the line of the other."""
    keys = list(keys)
    colours = _colours({criterion for criterion, _ in keys})
    recoveries = reversed(dict.fromkeys(recovery for _, recovery in keys))  # the last asked for is drawn whole
    lines = dict(zip(recoveries, cycle(LINES)))
    return {(criterion, recovery): f"{colours[criterion]} {lines[recovery]}".strip() for criterion, recovery in keys}


def _colours(criteria: set[str]) -> dict[str, str]:
    """A criterion has one colour on every page; those without one of their own take what is free, by their names."""
    colours = {name: f"c{i}" for i, name in enumerate(COLOURED) if name in criteria}
    free = [f"c{i}" for i in range(COLOURS) if f"c{i}" not in colours.values()] or [f"c{i}" for i in range(COLOURS)]
    others = sorted(criteria - colours.keys() - {CONTROL})
    return colours | dict(zip(others, cycle(free))) | {CONTROL: "before"}


def sweep_charts(content: dict[str, Any]) -> list[Chart]:
    """Two that share the mAP axis. Curves start at the original; the ring is the recommended point."""
    on, found = content["measured_on"], looks(curves(content))
    lines = {recovery: f"ink {look.partition(' ')[2] or 'solid'}" for (_, recovery), look in found.items()}
    legend = [(look, recovery) for recovery, look in lines.items()] if len(lines) > 1 else []
    latency = f"latency, ms per image ({on['device']}, threads: {on['threads']})"
    return [
        _chart(_fall(content), content, _share, "FLOPs, as a share of the original's", "×{:g}", legend),
        _chart(_speed(content), content, timed_ms, latency, "{:g}"),
    ]


def headline(content: dict[str, Any]) -> str:
    """What is recommended, and what it costs."""
    if not tells(content):
        worth, drop = content["original"]["map50_95"], content["drop"]
        return f"No target can be recommended: the original's mAP50-95 is {worth:.3f}, and {drop:g} may be lost"
    best = recommended(content)
    change = points(best["map50_95"], content["original"]["map50_95"])
    what = f"FLOPs ×{best['flops_asked']:.2f} by {best['criterion']} ({best['recovery']}), {change} points of mAP50-95"
    if stays_within(content, best):
        return f"Recommended: {what}"
    return f"No criterion stays within {100 * content['drop']:g} points; the least bad: {what}"


def _fall(content: dict[str, Any]) -> str:
    if not tells(content):
        return "mAP50-95 of each cut"
    before, after = cliff(content)
    if falls_off(content):
        ends = (f"×{row['flops_asked']:.2f}" if "flops_asked" in row else "the original" for row in (before, after))
        start, end = (f"{name} ({row['map50_95']:.2f})" for name, row in zip(ends, (before, after), strict=True))
        return f"Shaded, the cliff of {after['criterion']}: {start} to {end}"
    if after["map50_95"] >= content["original"]["map50_95"]:
        return "No cliff: no accuracy is lost"
    return f"No cliff: {'the falls are within the noise' if in_noise(content) else 'accuracy falls little by little'}"


def _speed(content: dict[str, Any]) -> str:
    if not tells(content):
        return "Latency of each cut"
    best, original = timed_ms(recommended(content)), timed_ms(content["original"])
    return f"There, an image takes {digits(best)} ms instead of {digits(original)} ({ratio(best, original)})"


def _share(row: SweepRow) -> float:
    return row.get("flops_achieved", 1.0)


def _chart(
    title: str, content: dict[str, Any], place: Place, x_label: str, x_said: str, legend: Sequence[tuple[str, str]] = ()
) -> Chart:
    original, found = content["original"], curves(content)
    every = [original, *(row for rows in found.values() for row in rows)]
    low, high = min(map(place, every)), max(map(place, every))
    names = _names(content, place, low)
    # Names have a share of the axis to themselves, and above them all is room for the ring's.
    height = max(270, svg.TOP + svg.BOTTOM + LINE * (len(names) + 2))
    wide, tall = svg.RIGHT - svg.LEFT, height - svg.TOP - svg.BOTTOM
    top = 1.15 * max(row["map50_95"] for row in every) or 1
    bottom = -0.04 * top
    gap = (top - bottom) * LINE / tall
    room = (max(len(name) for name, *_ in names) * LETTER + 9 + STUB) / wide
    span = (high - low or 1) / (0.95 - room)
    margin = low - STUB / wide * span
    heights = apart([y for _, (_, y), _ in names], gap, bottom, top - gap)
    drawn = [
        *([_cliff(content, bottom, top)] if place is _share and tells(content) and falls_off(content) else []),
        *_curves(content, place),
        _original(content, place, low, high, bottom),
        *(
            Series(name, look, [Mark(*end, name, name, True, beside, margin, "quiet")])
            for (name, end, look), beside in zip(names, heights, strict=True)
        ),
        *([_ring(content, place, (low + high) / 2, top - gap / 2)] if tells(content) else []),
    ]
    picture = svg.xy(
        title,
        drawn,
        x=(low - room * span, high + 0.05 * span),
        y=(bottom, top),
        x_label=x_label,
        y_label=f"mAP50-95 on {content['split']}, nothing trained",
        x_from=low,
        x_said=x_said,
        height=height,
    )
    return Chart(title, [picture], legend=legend)


def _ring(content: dict[str, Any], place: Place, middle: float, height: float) -> Series:
    """Around the point that is recommended, and its name above all."""
    best = recommended(content)
    said, (x, y) = "recommended" if stays_within(content, best) else "least bad", (place(best), best["map50_95"])
    return Series(said, "whole", [Mark(x, y, _tip(best), said, x > middle, height, x, "ring", 8)])


def _names(content: dict[str, Any], place: Place, low: float) -> list[tuple[str, tuple[float, float], str]]:
    """What is written beside the curves, where each ends, and its look: a criterion once, at its best recovery."""
    original, found = content["original"], curves(content)
    ends: dict[str, tuple[str, tuple[float, float], str]] = {}
    for (criterion, recovery), look in looks(found).items():
        end = min((original, *found[criterion, recovery]), key=place)
        if criterion not in ends or end["map50_95"] > ends[criterion][1][1]:
            ends[criterion] = (svg.fitted(criterion), (place(end), end["map50_95"]), look.split()[0])
    worth = original["map50_95"]
    return [*ends.values(), (f"original {worth:.3f}", (low, worth), "ink")]


def _curves(content: dict[str, Any], place: Place) -> list[Series]:
    """Joined at the original, which is drawn once; chance lies lowest."""
    found, start = curves(content), content["original"]
    beginning = Mark(place(start), start["map50_95"], _tip(start), look="quiet")
    return [
        Series(", ".join(key), look, [beginning, *(Mark(place(row), row["map50_95"], _tip(row)) for row in found[key])])
        for key, look in sorted(looks(found).items(), key=lambda each: each[0][0] != CONTROL)
    ]


def _original(content: dict[str, Any], place: Place, low: float, high: float, bottom: float) -> Series:
    """All along, and what may be lost of it."""
    row = content["original"]
    y, x, tip = row["map50_95"], place(row), _tip(row)
    marks = [Mark(low, y, tip, look="quiet"), Mark(x, y, tip, radius=5), Mark(high, y, tip, look="quiet")]
    least = max(y - content["drop"], bottom)
    return Series("original", "ink dashed faint", marks, areas=[[(low, least, y), (high, least, y)]])


def _cliff(content: dict[str, Any], bottom: float, top: float) -> Series:
    return Series("cliff", "whole faint", [], areas=[[(_share(row), bottom, top) for row in reversed(cliff(content))]])


def _tip(row: SweepRow) -> str:
    name = f"{row['criterion']} ({row['recovery']}), FLOPs ×{_share(row):.3f}" if "criterion" in row else "original"
    return f"{name}: mAP50-95 {row['map50_95']:.3f}, {digits(timed_ms(row))} ms"
