"""Charts as SVG: points over two axes, or rows along one. Colours come from the page, by class.

Every mark says its numbers in a `<title>`: browsers show it on hovering, and the page's script makes more of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, log2
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

WIDTH = 390.0
"""Of every chart, in units of its own: a little less than a pixel on a phone, a little more on a desk."""
LETTER, LINE = 6.4, 16.0  # the room a letter and a row of text take
LONGEST = 24  # letters of a row's name


@dataclass(frozen=True)
class Axis:
    """Numbers to places; `log` is to base 2."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a number."""
        low, high, value = (log2(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / ((high - low) or 1) * (self.end - self.start), 1)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers within the axis."""
        if self.log:
            return [2.0**k for k in range(0, floor(log2(self.high)) + 1) if 2**k >= self.low]
        found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        return [float(t) for t in found if self.low - slack <= t <= self.high + slack]


@dataclass(frozen=True)
class Mark:
    """A point, and what is said of it."""

    x: float
    y: float
    tip: str
    text: str = ""  # written beside it: to the right, or before it where `left`
    left: bool = False
    text_y: float | None = None
    look: str = ""  # a CSS class, where it differs from that of its series


@dataclass(frozen=True)
class Series:
    """Marks of one colour and one name; `dots` unseen still answer to the pointer."""

    name: str
    look: str  # a CSS class
    marks: Sequence[Mark]
    line: bool = True
    dots: bool = True
    areas: Sequence[Sequence[tuple[float, float, float]]] = field(default=())  # x, from, to: bands behind all


@dataclass(frozen=True)
class Bar:
    """A thing along an axis: from..to, and a dot at `at`."""

    look: str
    at: float
    tip: str
    start: float | None = None
    end: float | None = None
    text: str = ""


def xy(
    label: str,
    series: Sequence[Series],
    *,
    x: tuple[float, float],
    y: tuple[float, float],
    x_label: str,
    y_label: str,
    percent: bool = False,
) -> Markup:
    """Points, lines and bands over two axes.

    Args:
        label: what is seen, for those who do not see it.
        series: what is drawn; the first lies lowest.
        x: limits; falling ones turn the axis round.
        y: limits.
        x_label: what x is.
        y_label: what y is.
        percent: write y as percentages.
    """
    height = 270.0
    across, up = Axis(*x, 44, WIDTH - 12), Axis(*y, height - 38, 30)
    parts = [_text(4, 14, y_label, "axis")]
    said = "{:.0%}" if percent else f"{{:.{_decimals(up.ticks())}f}}"
    for tick in up.ticks():
        parts += [_line(44, up(tick), WIDTH - 12, up(tick), "grid")]
        parts += [_text(38, up(tick) + 4, said.format(tick), "tick end")]
    ordered = Axis(min(x), max(x), 0, 1)
    parts += [_text(across(tick), height - 20, f"{tick:g}", "tick middle") for tick in ordered.ticks()]
    parts += [_text((44 + WIDTH - 12) / 2, height - 4, x_label, "axis middle")]
    parts += [_series(one, across, up) for one in series]
    return _svg("xy", label, height, parts)


def _decimals(ticks: Sequence[float]) -> int:
    """How many all of them need."""
    return max((len(f"{tick:g}".partition(".")[2]) for tick in ticks), default=0)


def rows(
    label: str,
    names: Sequence[str],
    bars: Sequence[Sequence[Bar]],
    *,
    x: tuple[float, float],
    x_label: str,
    log: bool = False,
    room: float = 0,
) -> Markup:
    """A row a name; in each, bars that lie on one another, and their text at its end.

    Args:
        label: what is seen, for those who do not see it.
        names: of the rows.
        bars: of each row.
        x: limits.
        x_label: what x is.
        log: to base 2.
        room: to the right, for the bars' text.
    """
    left = min(LONGEST, max(map(len, names))) * LETTER + 12
    height = len(names) * LINE + 44
    across = Axis(*x, left, WIDTH - 12 - room, log)
    parts: list[Markup] = []
    for tick in across.ticks(5):
        parts += [_line(across(tick), 4, across(tick), height - 38, "grid")]
        parts += [_text(across(tick), height - 22, f"{tick:g}", "tick middle")]
    parts += [_text((left + WIDTH - 12 - room) / 2, height - 6, x_label, "axis middle")]
    for i, (name, drawn) in enumerate(zip(names, bars, strict=True)):
        middle = 4 + (i + 0.5) * LINE
        parts += [_text(left - 8, middle + 4, _fitted(name), "name end", tip=name)]
        parts += [_bar(bar, across, middle) for bar in drawn]
    return _svg("rows", label, height, parts)


def _fitted(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _bar(bar: Bar, across: Axis, y: float) -> Markup:
    x = across(bar.at)
    parts = [Markup('<circle cx="{}" cy="{}" r="4.5"/>').format(x, y)]
    if bar.start is not None and bar.end is not None:
        parts.insert(0, _line(across(bar.start), y, across(bar.end), y, "span"))
    if bar.text:
        parts.append(_text(across.end + 10, y + 4, bar.text, "note"))
    return Markup('<g class="mark {}" data-x="{}" data-y="{}"><title>{}</title>{}</g>').format(
        bar.look, x, y, bar.tip, Markup("").join(parts)
    )


def _series(one: Series, across: Axis, up: Axis) -> Markup:
    places = [(across(m.x), up(m.y)) for m in one.marks]
    parts = [_area(area, across, up) for area in one.areas]
    if one.line and len(places) > 1:
        way = " ".join(f"{a},{b}" for a, b in places)
        parts.append(Markup('<polyline points="{}"/>').format(way))
    for mark, (a, b) in zip(one.marks, places, strict=True):
        parts.append(_mark(mark, a, b, up, one.dots))
    return Markup('<g class="series {}" data-name="{}">{}</g>').format(one.look, one.name, Markup("").join(parts))


def _mark(mark: Mark, x: float, y: float, up: Axis, seen: bool) -> Markup:
    written = Markup("")
    if mark.text:
        height = y if mark.text_y is None else up(mark.text_y)
        written = _text(x - 9 if mark.left else x + 9, height + 4, mark.text, "note end" if mark.left else "note")
    return Markup('<g class="mark {}" data-x="{}" data-y="{}"><title>{}</title><circle cx="{}" cy="{}" r="4"/>{}</g>'
    ).format(mark.look if seen else "quiet", x, y, mark.tip, x, y, written)  # fmt: skip


def _area(area: Sequence[tuple[float, float, float]], across: Axis, up: Axis) -> Markup:
    there = [f"{across(x)},{up(high)}" for x, _, high in area]
    back = [f"{across(x)},{up(low)}" for x, low, _ in reversed(area)]
    return Markup('<polygon points="{}"/>').format(" ".join(there + back))


def _svg(kind: str, label: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart {}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        kind, WIDTH, height, label, Markup("").join(parts)
    )


def _line(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    return Markup('<line class="{}" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(look, x1, y1, x2, y2)


def _text(x: float, y: float, words: Any, look: str, tip: str = "") -> Markup:
    title = Markup("<title>{}</title>").format(tip) if tip and tip != words else ""
    return Markup('<text class="{}" x="{:g}" y="{:g}">{}{}</text>').format(look, x, y, title, words)
