"""report.json as pictures. Each title says what is seen; colours are Okabe and Ito's, told apart by everyone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter, ScalarFormatter

from yolo_slim.report import series
from yolo_slim.row import Row, Width

BEFORE, AFTER, WHOLE, INK = "#999999", "#0072B2", "#D55E00", "#333333"
LAYERS_A_ROW = 40
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.edgecolor": "#888888",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": INK,
    "savefig.facecolor": "white",
}


def draw(
    report: dict[str, Any], folder: Path, plots: Mapping[str, Callable[[dict[str, Any]], Figure | None]] | None = None
) -> list[Path]:
    """Write every plot the report has numbers for into an existing folder, all of them or none.

    Args:
        report: what the plots are of.
        folder: where they go.
        plots: file name -> what draws it; those of report.json if left out.

    Returns:
        the PNG files, in the order they are best read.
    """
    pages = {"map_flops.png": map_flops, "rounds.png": rounds, "widths.png": widths, "scales.png": scales}
    plots = plots or pages
    parts: dict[Path, Path] = {}
    try:
        # Other libraries of the process set matplotlib's defaults too: ours hold here and nowhere else.
        with matplotlib.rc_context(STYLE):
            for name, plot in plots.items():
                if figure := plot(report):
                    parts[folder / name] = part = folder / f".{name}.part"
                    figure.savefig(part, format="png", dpi=150)
        for file, part in parts.items():
            part.replace(file)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return list(parts)


def map_flops(report: dict[str, Any]) -> Figure | None:
    """mAP50-95 against GFLOPs, a point a stage, joined in the order of the stages."""
    rows = series.stages(report)
    if not rows:
        return None
    xy = np.array([(r["flops"] / 1e9, r["map50_95"]) for r in rows])  # [N, 2]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    low, high = series.limits(xy[:, 1])
    axes.set(xlim=(0, 1.3 * xy[:, 0].max()), ylim=(low, high), xlabel="GFLOPs per image")
    axes.set_ylabel(f"mAP50-95 on {report.get('split') or 'the data set'}")
    _join(axes, xy)
    axes.scatter(xy[:, 0], xy[:, 1], s=45, color=[*[BEFORE] * (len(xy) - 1), AFTER], zorder=3)
    _label_stages(axes, rows, xy, gap=0.06 * (high - low))
    axes.set_title(series.what_it_cost(rows))
    return figure


def _join(axes: Axes, xy: np.ndarray) -> None:
    """An arrow from each stage to the next, where the two points are far enough apart to see one."""
    arrow = {"arrowstyle": "->", "color": BEFORE, "shrinkA": 6, "shrinkB": 6}
    size = np.ptp([axes.get_xlim(), axes.get_ylim()], axis=1)
    for start, end in pairwise(xy):
        if np.hypot(*((end - start) / size)) > 0.05:
            axes.annotate("", end, start, arrowprops=arrow)


def _label_stages(axes: Axes, rows: list[Row], xy: np.ndarray, gap: float) -> None:
    """Names beside the points, away from the arrows, and pushed apart where points lie close together."""
    for row, (x, y), (right, height) in zip(rows, xy, series.apart(xy, gap), strict=True):
        away, align = (9, "left") if right else (-9, "right")
        text = f"{row['stage']} {y:.3f}"
        axes.annotate(text, (x, height), (away, 0), textcoords="offset points", ha=align, va="center")


def rounds(report: dict[str, Any]) -> Figure | None:
    """mAP50-95 against GFLOPs over the rounds: down at each cut, up again at each fine-tuning."""
    found, base = report.get("iterations"), report["rows"][0] if report["rows"] else {}
    if not (found and base.get("flops")):
        return None
    xy = series.rounds_way(report)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    low, high = series.limits(xy[:, 1])
    axes.set(xlim=(1.05 * xy[:, 0].max(), 0), ylim=(low, high), xlabel="GFLOPs per image, falling")
    axes.set_ylabel(f"mAP50-95 on {found['split']}")
    axes.axhline(found["map50_95_original"], color=BEFORE, linestyle="--", label="original")
    axes.plot(*xy.T, color=BEFORE, linewidth=1)
    for key, colour, name in (("cut", WHOLE, "after the cut"), ("finetuned", AFTER, "fine-tuned")):
        each = np.array([(r["flops"] / 1e9, r[f"map50_95_{key}"]) for r in found["rounds"]], float)  # nan: not measured
        axes.scatter(each[:, 0], each[:, 1], s=45, color=colour, zorder=3, label=name)
    axes.legend()
    axes.set_title(series.rounds_title(report))
    return figure


def widths(report: dict[str, Any]) -> Figure | None:
    """The width of every layer before and after, on a log2 axis: the same length is the same ratio."""
    shown = series.shown_widths(report)
    if not shown:
        return None
    count = ceil(len(shown) / LAYERS_A_ROW)
    figure = Figure(figsize=(11, 0.9 + 2.3 * count), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False, sharey=True)[:, 0]
    per_row = ceil(len(shown) / count)
    for i, axes in enumerate(panels):
        _width_panel(axes, shown[i * per_row : (i + 1) * per_row], per_row)
    seen = [n for w in shown for n in (w["before"], w["after"]) if n]  # a width of 0 falls off the log axis
    panels[0].set_ylim(min(seen) / 1.3, max(seen) * 1.3)
    figure.suptitle(series.widths_title(report), x=0.01, ha="left")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _width_panel(axes: Axes, layers: list[Width], room: int) -> None:
    x = np.arange(len(layers))
    before, after = np.array([(w["before"], w["after"]) for w in layers]).T
    whole = np.array([w["reason"] is not None for w in layers])
    axes.set_yscale("log", base=2)
    axes.vlines(x, after, before, color=AFTER, linewidth=1.5, alpha=0.5)
    axes.plot(x[~whole], before[~whole], "o", color="white", markeredgecolor=BEFORE, label="before", markersize=5)
    axes.plot(x[~whole], after[~whole], "o", color=AFTER, label="after", markersize=5)
    axes.plot(x[whole], after[whole], "s", color=WHOLE, label="protected: kept whole", markersize=4.5)
    axes.set_xticks(x, [series.short(w["layer"]) for w in layers], rotation=90, fontsize=7.5)
    axes.yaxis.set_major_locator(LogLocator(2, numticks=16))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlim=(-0.7, room - 0.3), ylabel="channels")


def scales(report: dict[str, Any]) -> Figure | None:
    """The distribution of |gamma| before and after sparse training and, where it was logged, the way between."""
    log = report.get("sparsity")
    if not series.has_scales(report):
        return None
    figure = Figure(figsize=(11 if log else 6.5, 4), layout="constrained")
    panels = figure.subplots(1, 2 if log else 1, squeeze=False)[0]
    _distribution(panels[0], report["scales"])
    if log:
        _quantiles(panels[1], log)
    return figure


def _distribution(axes: Axes, both: dict[str, list[float]]) -> None:
    edges, *shares = series.histogram(both)
    for each, colour, name in zip(shares, (BEFORE, AFTER), ("before", "after"), strict=True):
        axes.hist(edges[:-1], edges.tolist(), weights=each, color=colour, alpha=0.55, label=name)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel="|γ| (the last bar: this or more)", ylabel="share of the scales in each bar", xlim=(0, None))
    axes.set_title(series.histogram_title(both))
    axes.legend()


def _quantiles(axes: Axes, log: list[dict[str, float]]) -> None:
    epoch, *q = series.quantiles(log)
    axes.fill_between(epoch, q[0], q[4], color=AFTER, alpha=0.15, linewidth=0, label="5 to 95%")
    axes.fill_between(epoch, q[1], q[3], color=AFTER, alpha=0.3, linewidth=0, label="25 to 75%")
    axes.plot(epoch, q[2], color=AFTER, linewidth=2, label="median")
    axes.set(xlabel="epoch of sparse training", ylabel="|γ|", ylim=(0, None))
    axes.set_title(series.quantiles_title(log))
    axes.legend()
