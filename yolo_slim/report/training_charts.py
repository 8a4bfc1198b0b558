"""What training did: to the scales, to mAP and to the losses, epoch by epoch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from yolo_slim.report import svg
from yolo_slim.report.chart import COLOURS, Chart, span
from yolo_slim.report.numbers import digits
from yolo_slim.report.svg import Mark, Series


def scales(report: dict[str, Any]) -> list[Chart]:
    """|γ| before and after sparse training and, where it was logged, the way between."""
    both, log = report.get("scales"), report.get("sparsity")
    if not (both and both["before"] and both["after"]):
        return []
    return [_distribution(both), *([_quantiles(log)] if log else [])]


def _distribution(both: dict[str, list[float]]) -> Chart:
    edges, *shares = _histogram(*(np.abs(both[key]) for key in ("before", "after")))
    bins = [f"{a:.3f}–{b:.3f}" for a, b in pairwise(edges)]
    drawn = [_bars(name, edges, share, bins) for name, share in zip(("before", "after"), shares, strict=True)]
    small = [f"{(np.abs(both[key]) < 0.01).mean():.1%}" for key in ("before", "after")]
    title, top = f"Scales below 0.01: {small[0]} before, {small[1]} after", max(share.max() for share in shares)
    x_label, y_label = "|γ| (the last bar: this or more)", "share of the scales in each bar"
    picture = svg.xy(title, drawn, x=(0, edges[-1]), y=(0, 1.05 * top), x_label=x_label, y_label=y_label, percent=True)
    numbers = [(each, f"{before:.1%}", f"{after:.1%}") for each, before, after in zip(bins, *shares, strict=True)]
    return Chart(title, [picture], ("|γ|", "before", "after"), numbers, [(one.look, one.name) for one in drawn])


def _histogram(*scales: np.ndarray) -> tuple[np.ndarray, ...]:
    """Edges (51,), and of each the share in each bin (50,).

    A few scales far out would squeeze all others into the first bins: they join the last one.
    """
    end = np.percentile(np.concatenate(scales), 99.5)
    edges = np.linspace(0, end, 51)
    return edges, *(np.histogram(np.minimum(each, end), edges)[0] / len(each) for each in scales)


def _bars(name: str, edges: np.ndarray, shares: np.ndarray, bins: list[str]) -> Series:
    """A histogram: one stepped area, and in each bar an unseen mark that says its share."""
    ends = list(zip(edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), strict=True))
    steps = [(x, 0.0, y) for *both, y in ends for x in both]
    marks = [
        Mark((a + b) / 2, y, f"{name}: {y:.1%} of the scales in {each}")
        for (a, b, y), each in zip(ends, bins, strict=True)
    ]
    return Series(name, name, marks, line=False, dots=False, areas=[steps])


def _quantiles(log: list[dict[str, float]]) -> Chart:
    epochs, *q = ([e[key] for e in log] for key in ("epoch", "q05", "q25", "q50", "q75", "q95"))
    wide, narrow = (list(zip(epochs, q[i], q[-1 - i], strict=True)) for i in (0, 1))
    said = [f"epoch {e:g}: median {m:.3f}, half in {a:.3f}–{b:.3f}" for e, a, m, b in zip(epochs, *q[1:4], strict=True)]
    middle = [Mark(x, y, tip) for x, y, tip in zip(epochs, q[2], said, strict=True)]
    drawn = [Series("median; 25 to 75%, 5 to 95%", "after", middle, dots=False, areas=[wide, narrow])]
    title = f"The median |γ| goes from {log[0]['q50']:.2f} to {log[-1]['q50']:.2f}"
    x, y = span(epochs), (0, 1.05 * max(q[-1]))
    picture = svg.xy(title, drawn, x=x, y=y, x_label="epoch of sparse training", y_label="|γ|", x_whole=True)
    rows = [(f"{e:g}", *(f"{v:.3f}" for v in each)) for e, *each in zip(epochs, *q, strict=True)]
    return Chart(title, [picture], ("epoch", "5%", "25%", "median", "75%", "95%"), rows, [("after", drawn[0].name)])


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


def _epochs(title: str, log: list[dict[str, float]], names: list[str], y_label: str) -> Chart:
    kinds = list(dict.fromkeys(name.partition("/")[2] for name in names))
    drawn = [_curve(name, kinds.index(name.partition("/")[2]), log) for name in names]
    top = max((m.y for one in drawn for m in one.marks), default=0) or 1
    x, y = span([e["epoch"] for e in log]), (0, 1.05 * top)
    picture = svg.xy(title, drawn, x=x, y=y, x_label="epoch", y_label=y_label, x_whole=True)
    rows = [(f"{e['epoch']:g}", *(digits(e[name]) for name in names)) for e in log]
    return Chart(title, [picture], ("epoch", *map(_said, names)), rows, [(one.look, one.name) for one in drawn])


def _curve(name: str, colour: int, log: list[dict[str, float]]) -> Series:
    said, look = _said(name), f"c{colour % COLOURS}" + (" dashed" if name.startswith("val/") else "")
    known = [e for e in log if np.isfinite(e[name])]
    marks = [Mark(e["epoch"], e[name], f"epoch {e['epoch']:g}, {said}: {digits(e[name])}") for e in known]
    return Series(said, look, marks, dots=len(log) == 1)


def _said(name: str) -> str:
    """As Ultralytics' results.csv has it, in words."""
    return name.removeprefix("metrics/").removesuffix("(B)").removesuffix("_loss").replace("/", " ")
