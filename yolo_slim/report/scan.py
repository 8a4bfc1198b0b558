"""A sensitivity scan as a picture and a sentence: which groups of channels the detector cannot do without."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np

from yolo_slim.report import svg
from yolo_slim.report.chart import ROWS, Chart

SHADES = 6
"""chart.css has h0 to h5."""
CHEAP = 0.01
"""Share of the whole detector's loss or mAP: less than this is hardly seen. It has the lightest shade."""


def scan_charts(scan: dict[str, Any]) -> list[Chart]:
    """Groups in order of execution against the share of their channels that is silenced; dark is where it hurts."""
    groups = scan["groups"]
    if not groups:
        return []
    worse, ratios = harm(scan), [f"{row['ratio']:.0%}" for row in groups[0]["rows"]]
    cheap = CHEAP * abs(scan["base"]) or 1e-9
    edges = np.geomspace(cheap, max(worse.max(), 10 * cheap), SHADES)
    shades = np.digitize(worse, edges[:-1])
    what, sign = ("loss added", "+") if scan["metric"] == "loss" else ("mAP50-95 lost", "−")
    names = [f"{g['group'].removeprefix('model.').removesuffix('.conv')}  ({g['channels']})" for g in groups]
    drawn = [
        [
            (f"h{shade}", f"{group['group']}, {ratio} of {group['channels']} channels silenced: {sign}{more:.3g}")
            for shade, ratio, more in zip(*each, strict=True)
        ]
        for group, *each in zip(groups, shades, [ratios] * len(groups), worse, strict=True)
    ]
    title = scan_summary(scan)
    title = title[0].upper() + title[1:]
    each = ceil(len(groups) / ceil(len(groups) / ROWS))
    pictures = [
        svg.cells(title, names[i : i + each], ratios, drawn[i : i + each], "channels silenced")
        for i in range(0, len(groups), each)
    ]
    bounds = [f"{what}: less than {cheap:.2g}", *(f"{a:.2g} to {b:.2g}" for a, b in pairwise(edges))]
    return [Chart(title, pictures, legend=[(f"h{i}", said) for i, said in enumerate(bounds)])]


def harm(scan: dict[str, Any]) -> np.ndarray:
    """How much worse than the whole detector: (groups, ratios), never below zero."""
    sign = 1 if scan["metric"] == "loss" else -1
    values = np.array([[row["value"] for row in group["rows"]] for group in scan["groups"]], float)
    hopeless = 1e3 * abs(scan["base"])  # stands for no number at all
    return np.maximum(np.nan_to_num(sign * (values - scan["base"]), nan=hopeless, posinf=hopeless), 0)


def scan_summary(scan: dict[str, Any]) -> str:
    """What a scan has found, in a sentence."""
    worse, ratios = harm(scan), np.array([row["ratio"] for row in scan["groups"][0]["rows"]])
    half = int(np.argmin(np.abs(ratios - 0.5)))
    worst = int(np.argmax(worse[:, half]))
    cheap = int((worse[:, half] < CHEAP * abs(scan["base"])).sum())
    what, sign = ("loss", "+") if scan["metric"] == "loss" else ("mAP50-95", "−")
    return (
        f"without {ratios[half]:.0%} of one group alone, {cheap} of {len(worse)} groups cost less than {CHEAP:.0%} of "
        f"the {what} ({scan['base']:.3f}); the dearest is {scan['groups'][worst]['group'].removesuffix('.conv')} "
        f"({sign}{worse[worst, half]:.3f})"
    )
