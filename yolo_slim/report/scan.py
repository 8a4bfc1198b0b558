"""A sensitivity scan as a picture and a sentence: which groups of channels the detector cannot do without."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

GROUPS_A_ROW = 40
CHEAP = 0.01
"""Share of the whole detector's loss or mAP: less than this is hardly seen. The colours are linear up to here."""


def scan_plot(scan: dict[str, Any]) -> Figure | None:
    """Groups in order of execution against the share of their channels that is silenced; dark is where it hurts."""
    groups = scan["groups"]
    if not groups:
        return None
    worse, ratios = harm(scan), [row["ratio"] for row in groups[0]["rows"]]
    count = ceil(len(groups) / GROUPS_A_ROW)
    room = ceil(len(groups) / count)
    figure = Figure(figsize=(11, 1.1 + 2.3 * count), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    cheap = CHEAP * abs(scan["base"]) or 1e-9
    norm = SymLogNorm(cheap, vmin=0, vmax=max(worse.max(), 10 * cheap))
    for i, axes in enumerate(panels):
        part = slice(i * room, (i + 1) * room)
        image = _panel(axes, groups[part], worse[part], ratios, norm, room)
    bar = figure.colorbar(image, ax=list(panels), pad=0.01, aspect=12 * count)
    bar.set_label("loss added" if scan["metric"] == "loss" else "mAP50-95 lost")
    figure.suptitle(_capital(scan_summary(scan)), x=0.01, ha="left")
    return figure


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


def _panel(
    axes: Axes, groups: list[dict[str, Any]], worse: np.ndarray, ratios: list[float], norm: SymLogNorm, room: int
) -> Any:
    image = axes.pcolormesh(worse.T, norm=norm, cmap="magma_r", edgecolors="white", linewidth=0.6)
    names = [f"{g['group'].removeprefix('model.').removesuffix('.conv')}  ({g['channels']})" for g in groups]
    axes.set_xticks(np.arange(len(groups)) + 0.5, names, rotation=90, fontsize=7.5)
    axes.set_yticks(np.arange(len(ratios)) + 0.5, [f"{r:.0%}" for r in ratios], fontsize=7.5)
    axes.set(xlim=(0, room), ylabel="channels silenced")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
