"""A sweep as a picture: mAP against FLOPs and against latency, a curve a criterion and recovery, named at its end."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from yolo_slim.report.numbers import digits, points, ratio, timed_ms
from yolo_slim.report.sweep_words import CONTROL, cliff, curves, falls_off, in_noise, recommended, stays_within
from yolo_slim.row import SweepRow

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
CHANCE, BEFORE, MARK = "#999999", "#333333", "#D55E00"
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
LABEL_PT, LETTER_PT = 13.0, 5.2  # height of a label with the air around it, width of a letter
WIDTH_PT, HEIGHT_PT = 350.0, 240.0  # of a panel, about

Place: TypeAlias = Callable[[SweepRow], float]
"""Where on the horizontal axis a row stands."""
Look: TypeAlias = dict[str, Any]
"""The colour of a criterion and of `original`, the line of a recovery."""


def sweep_plot(content: dict[str, Any]) -> Figure:
    """Both panels share the mAP axis. Curves start at the original; the ring is the recommended point."""
    found, original, on = curves(content), content["original"], content["measured_on"]
    figure = Figure(figsize=(11, 4.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    top = 1.15 * max(row["map50_95"] for rows in (*found.values(), [original]) for row in rows) or 1
    panels[0].set(ylim=(-0.04 * top, top), ylabel=f"mAP50-95 on {content['split']}, nothing trained")
    look = _look(list(found))
    for axes, place in zip(panels, (_share, timed_ms), strict=True):
        _curves(axes, content, place, 1.04 * top * LABEL_PT / HEIGHT_PT, look)
        _ring(axes, content, place)
    panels[0].set_xlabel("FLOPs, as a share of the original's")
    panels[0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"×{x:.1f}"))
    panels[1].set_xlabel(f"latency, ms per image ({on['device']}, threads: {on['threads']})")
    _cliff(panels[0], content)
    panels[1].set_title(_speed(content))
    figure.suptitle(_headline(content), x=0.01, ha="left", fontsize=12, fontweight="bold")
    recoveries = list(dict.fromkeys(recovery for _, recovery in found))
    if len(recoveries) > 1:
        handles = [Line2D([], [], color=BEFORE, linestyle=look[recovery]) for recovery in recoveries]
        figure.legend(handles, recoveries, loc="outside lower center", ncols=len(recoveries), handlelength=3)
    return figure


def _look(keys: list[tuple[str, str]]) -> Look:
    criteria = dict.fromkeys(criterion for criterion, _ in keys if criterion != CONTROL)
    recoveries = reversed(dict.fromkeys(recovery for _, recovery in keys))  # the last asked for is drawn whole
    given = {**dict(zip(criteria, cycle(COLOURS))), **dict(zip(recoveries, cycle(LINES)))}
    return {**given, CONTROL: CHANCE, "original": BEFORE}


def _share(row: SweepRow) -> float:
    return row.get("flops_achieved", 1.0)


def _headline(content: dict[str, Any]) -> str:
    best = recommended(content)
    change = points(best["map50_95"], content["original"]["map50_95"])
    what = f"FLOPs ×{best['flops_asked']:.2f} by {best['criterion']} ({best['recovery']}), {change} points of mAP50-95"
    if stays_within(content, best):
        return f"Recommended: {what}"
    return f"No criterion stays within {100 * content['drop']:g} points; the least bad: {what}"


def _speed(content: dict[str, Any]) -> str:
    best, original = timed_ms(recommended(content)), timed_ms(content["original"])
    return f"There, an image takes {digits(best)} ms instead of {digits(original)} ({ratio(best, original)})"


def _curves(axes: Axes, content: dict[str, Any], place: Place, gap: float, look: Look) -> None:
    """The curves, joined at the original, and the names of the criteria."""
    original, found = content["original"], curves(content)
    ends: dict[str, tuple[float, float]] = {}
    for (criterion, recovery), rows in found.items():
        xy = np.array([(place(row), row["map50_95"]) for row in (original, *rows)])  # [N, 2]
        style = {"color": look[criterion], "linestyle": look[recovery]}
        style |= {"zorder": 2 if criterion == CONTROL else 3}
        axes.plot(*xy.T, marker="o", markevery=slice(1, None), markersize=4.5, linewidth=1.8, **style)
        x, y = xy[xy[:, 0].argmin()]
        if criterion not in ends or y > ends[criterion][1]:  # one name a criterion, at its best recovery
            ends[criterion] = (float(x), float(y))
    every = [place(row) for rows in (*found.values(), [original]) for row in rows]
    low, high = min(every), max(every)
    axes.axhspan(original["map50_95"] - content["drop"], original["map50_95"], color=look["original"], alpha=0.07, lw=0)
    axes.hlines(original["map50_95"], low, high, color=look["original"], linestyle=(0, (5, 3)), linewidth=1.2)
    axes.plot(place(original), original["map50_95"], "D", color=look["original"], markersize=6, zorder=4)
    ends["original"] = (low, original["map50_95"])
    names = {name: f"{name} {y:.3f}" if name == "original" else name for name, (_, y) in ends.items()}
    room = (max(map(len, names.values())) * LETTER_PT + 24) / WIDTH_PT
    span = (high - low or 1) / (1 - room)  # of the whole axis: the names take their share of it
    axes.set_xlim(low - room * span, high + 0.05 * span)
    axes.set_xticks([tick for tick in axes.get_xticks() if low - 0.02 * span <= tick <= high + 0.05 * span])
    bottom, top = axes.get_ylim()
    heights = _apart([y for _, y in ends.values()], gap, bottom, top - gap)  # above is room for the ring's name
    margin = low - 20 / WIDTH_PT * span
    for (name, (x, y)), height in zip(ends.items(), heights, strict=True):
        axes.plot([margin, x], [height, y], color=look[name], linewidth=0.7, alpha=0.6)
        beside = (margin, height), (-3, 0)
        axes.annotate(names[name], *beside, textcoords="offset points", color=look[name], ha="right", va="center")


def _apart(heights: list[float], gap: float, low: float, high: float) -> list[float]:
    """The same heights in the same order, moved until neighbours are `gap` apart, within the axes."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    # With the steps taken off, "apart" means "not falling": push up from below, then down from above.
    level = np.maximum.accumulate(np.maximum(np.array(heights)[order], low + gap / 2) - steps)
    level = np.minimum(level, high - gap / 2 - steps[-1])
    moved = np.empty(len(heights))
    moved[order] = level + steps
    return moved.tolist()


def _ring(axes: Axes, content: dict[str, Any], place: Place) -> None:
    """Around the recommended point, named in the room above all curves."""
    best = recommended(content)
    xy = (place(best), best["map50_95"])
    axes.plot(*xy, "o", markersize=13, markerfacecolor="none", markeredgecolor=MARK, markeredgewidth=2, zorder=5)
    what = "recommended" if stays_within(content, best) else "least bad"
    arrow = {"arrowstyle": "-", "color": MARK, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 7}
    axes.annotate(what, xy, (xy[0], axes.get_ylim()[1]), ha="center", va="top", color=MARK, arrowprops=arrow)


def _cliff(axes: Axes, content: dict[str, Any]) -> None:
    """Shaded, and named in the title."""
    before, after = cliff(content)
    if not falls_off(content):
        fallen = after["map50_95"] < content["original"]["map50_95"]
        why = "the falls are within the noise" if in_noise(content) else "accuracy falls little by little"
        axes.set_title(f"No cliff: {why}" if fallen else "No cliff: no accuracy is lost")
        return
    axes.axvspan(_share(after), _share(before), color=MARK, alpha=0.08, linewidth=0)
    start, end = (f"×{row['flops_asked']:.2f}" if "flops_asked" in row else "the original" for row in (before, after))
    fall = f"{start} ({before['map50_95']:.2f}) to {end} ({after['map50_95']:.2f})"
    axes.set_title(f"Shaded, the cliff of {after['criterion']}: {fall}")
