"""A chart: pictures under a title that says what is seen, and on the page the same numbers as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from yolo_slim.report import svg
from yolo_slim.report.numbers import DASH
from yolo_slim.report.svg import Bar, Picture

ROWS = 40
"""Of a chart of rows; what is longer goes on in the next one."""
COLOURS = 8
"""chart.css has c0 to c7."""
BEFORE_AFTER = (("before", "original"), ("after", "slim"))


@dataclass(frozen=True)
class Chart:
    """What is drawn, and its numbers."""

    title: str
    pictures: Sequence[Picture]
    head: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    legend: Sequence[tuple[str, str]] = field(default=())  # (look, name)
    note: str = ""


def pair(name: str, before: float, after: float | None, said: Callable[[float, float | None], str]) -> list[Bar]:
    """A ring before, a dot after, and what lies between; `said` has the words for both numbers."""
    tip = f"{name}: {said(before, after)}"
    if after is None:
        return [Bar("before", before, tip)]
    return [Bar("before", before, tip, before, after), Bar("after", after, tip)]


def panels(title: str, names: Sequence[str], bars: Sequence[list[Bar]], **axis: Any) -> list[Picture]:
    """As many charts of rows as it takes, two by two and of about the same length."""
    count = ceil(len(names) / ROWS)
    count += count > 1 and count % 2
    each = ceil(len(names) / count)
    parts = [slice(i * each, (i + 1) * each) for i in range(count)]
    said = [title, *[f"{title}, continued"] * (count - 1)]
    return [svg.rows(label, names[part], bars[part], **axis) for label, part in zip(said, parts, strict=True)]


def span(values: Sequence[float]) -> tuple[float, float]:
    """Limits that hold all values, and are two even where these are one."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The same heights in the same order, moved until neighbours are `gap` apart, from `low` to `high`."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    # With the steps taken off, "apart" means "not falling": push up from below, then down from above.
    level = np.maximum.accumulate(np.maximum(np.array(heights)[order], low + gap / 2) - steps)
    moved = np.empty(len(heights))
    moved[order] = np.minimum(level, high - gap / 2 - steps[-1:].sum()) + steps
    return moved.tolist()


def three(value: float | None) -> str:
    """A mAP, or a dash."""
    return DASH if value is None else f"{value:.3f}"
