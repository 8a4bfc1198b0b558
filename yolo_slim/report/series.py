"""The numbers of report.json as they are drawn, whatever draws them: which points, which limits, which title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from yolo_slim.report.numbers import points, ratio
from yolo_slim.row import Row, Width


def stages(report: dict[str, Any]) -> list[Row]:
    """The rows that have both a mAP50-95 and FLOPs."""
    return [r for r in report["rows"] if r.get("map50_95") is not None and r.get("flops")]


def limits(maps: np.ndarray) -> tuple[float, float]:
    """At least ten points high, so that a difference of one looks like one."""
    room = max(0.1, 1.3 * np.ptp(maps)) / 2
    middle = (maps.min() + maps.max()) / 2
    return max(-0.02, middle - room), min(1.02, middle + room)


def what_it_cost(rows: list[Row]) -> str:
    """From the first stage to the last: FLOPs and mAP."""
    first, last = rows[0], rows[-1]
    if first is last:
        return f"{first['stage']}: mAP50-95 {first['map50_95']:.3f}"
    change = points(last["map50_95"], first["map50_95"])
    return f"{first['stage']} → {last['stage']}: FLOPs {ratio(last['flops'], first['flops'])}, mAP50-95 {change} points"


def apart(xy: np.ndarray, gap: float) -> list[tuple[bool, float]]:
    """For each point (N, 2), whether its name stands to the right, and at which y, `gap` from others on that side."""
    right = xy[:, 0] >= (xy[:, 0].min() + xy[:, 0].max()) / 2
    heights = xy[:, 1].copy()
    for side in (True, False):
        floor = -np.inf
        for i in sorted(np.flatnonzero(right == side), key=lambda i: xy[i, 1]):
            floor = heights[i] = max(xy[i, 1], floor + gap)
    return list(zip(right.tolist(), heights.tolist(), strict=True))


def rounds_way(report: dict[str, Any]) -> np.ndarray:
    """GFLOPs and mAP50-95 of the original, then after each round's cut and fine-tuning: (N, 2)."""
    found = report["iterations"]
    way = [(report["rows"][0]["flops"], found["map50_95_original"])]
    way += [(r["flops"], m) for r in found["rounds"] for m in (r["map50_95_cut"], r["map50_95_finetuned"])]
    return np.array([(flops / 1e9, m) for flops, m in way if m is not None])


def rounds_title(report: dict[str, Any]) -> str:
    """How far the rounds went."""
    found = report["iterations"]
    last = found["rounds"][-1]
    ended = "stopped after round {}" if found["stopped"] else "{} rounds"
    return f"{ended.format(last['round'])}: FLOPs {ratio(last['flops'], report['rows'][0]['flops'])}"


def shown_widths(report: dict[str, Any]) -> list[Width]:
    """A width of 1 (the convolution in DFL) has nothing to give and would stretch the axis for all others."""
    return [w for w in report.get("widths") or [] if w["before"] > 1]


def widths_title(report: dict[str, Any]) -> str:
    """How many layers are cut, and what stays."""
    layers = report["widths"]
    cut = sum(w["after"] != w["before"] for w in layers)
    share = sum(w["after"] for w in layers) / sum(w["before"] for w in layers)
    return f"{cut} of {len(layers)} layers are cut; {share:.0%} of all channels stay"


def short(layer: str) -> str:
    """A layer's name without what all have in common."""
    return layer.removeprefix("model.").removesuffix(".conv")


def has_scales(report: dict[str, Any]) -> bool:
    """Whether there was a sparse training to show."""
    both = report.get("scales")
    return bool(both and both["before"] and both["after"])


def histogram(both: dict[str, list[float]], bins: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (bins + 1,), and the share of |γ| in each bin, before and after.

    A few scales far out would squeeze all others into the first bins: they join the last one.
    """
    before, after = (np.abs(both[key]) for key in ("before", "after"))
    end = np.percentile(np.concatenate((before, after)), 99.5)
    edges = np.linspace(0, end, bins + 1)
    first, then = (np.histogram(np.minimum(v, end), edges)[0] / len(v) for v in (before, after))
    return edges, first, then


def histogram_title(both: dict[str, list[float]]) -> str:
    """How many scales are near zero."""
    small = [f"{(np.abs(both[key]) < 0.01).mean():.1%}" for key in ("before", "after")]
    return f"Scales below 0.01: {small[0]} before, {small[1]} after"


def quantiles(log: Sequence[dict[str, float]]) -> tuple[np.ndarray, ...]:
    """Epochs, then the 5, 25, 50, 75 and 95 % quantiles of |γ| at their ends."""
    return tuple(np.array([e[k] for e in log]) for k in ("epoch", "q05", "q25", "q50", "q75", "q95"))


def quantiles_title(log: Sequence[dict[str, float]]) -> str:
    """Where the median went."""
    return f"The median |γ| goes from {log[0]['q50']:.2f} to {log[-1]['q50']:.2f}"
