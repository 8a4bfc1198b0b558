"""Charts as SVG: points over two axes, rows along one, or rows of cells. Colours come from chart.css, by class.

Every mark says its numbers in a `<title>`: browsers show it on hovering, and the page's script makes more of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, hypot, log, log2, log10
from textwrap import wrap
from typing import Any

from markupsafe import Markup

WIDTH = 390.0
"""Of every chart, in units of its own: a little less than a pixel on a phone, a little more on a desk."""
LETTER, LINE = 6.4, 16.0  # the room a letter and a row of text take
LONGEST = 24  # letters of a row's name
SPACED = 40.0  # from a number along x to the next, at least
LEFT, RIGHT, TOP, BOTTOM = 44.0, WIDTH - 12, 30.0, 38.0  # where points lie; the last is counted from below


@dataclass(frozen=True)
class Picture:
    """What is drawn, and what is seen on it, for those who do not see it."""

    kind: str
    label: str
    height: float
    body: Markup

    def __html__(self) -> Markup:
        """On the page."""
        return Markup('<svg class="chart {}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
            self.kind, WIDTH, self.height, self.label, self.body
        )


@dataclass(frozen=True)
class Axis:
    """Numbers to places; `log` is the base of a logarithmic axis, 2 or 10, and 0 of any other."""

    low: float
    high: float
    start: float
    end: float
    log: int = 0

    def __call__(self, value: float) -> float:
        """The place of a number."""
        low, high, value = (log2(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / ((high - low) or 1) * (self.end - self.start), 1)

    def ticks(self, most: int = 6, *, whole: bool = False) -> list[float]:
        """Round numbers within the axis, `whole` ones alone where it counts something."""
        if self.log:
            return self._powers(most)
        if self.high <= self.low:
            return [self.low]
        least = max((self.high - self.low) / most, 1 if whole else 0)
        power = 10.0 ** floor(log10(least))
        steps = [s * power for s in (1, 2, 2.5, 5, 10)]
        step = next(s for s in steps if s >= least and not (whole and s % 1))
        return [k * step for k in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]

    def _powers(self, most: int) -> list[float]:
        """Of the base; of ten, with their doubles and halves where there is room."""
        first, last = (floor(log(v, self.log)) for v in (self.low, self.high))
        between = ((1, 2, 5), (1, 3), (1,)) if self.log == 10 else ((1,),)
        for factors in between:
            found = [f * float(self.log) ** k for k in range(first, last + 1) for f in factors]
            found = [v for v in found if self.low <= v <= self.high]
            if len(found) <= most + 1:
                break
        return found[:: ceil(len(found) / (most + 4))]


@dataclass(frozen=True)
class Mark:
    """A point, and what is said of it."""

    x: float
    y: float
    tip: str
    text: str = ""  # written beside it: to the right, or before it where `left`
    left: bool = False
    text_y: float | None = None
    text_x: float | None = None  # written beside this place instead, with a line from there to the point
    look: str = ""  # a CSS class, where it differs from that of its series
    radius: float = 4


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
    x_whole: bool = False,
    x_from: float | None = None,
    x_said: str = "{:g}",
    height: float = 270,
) -> Picture:
    """Points, lines and bands over two axes.

    Args:
        label: what is seen, for those who do not see it.
        series: what is drawn; the first lies lowest.
        x: limits; falling ones turn the axis round.
        y: limits.
        x_label: what x is.
        y_label: what y is.
        percent: write y as percentages.
        x_whole: x counts something: whole numbers alone stand along it.
        x_from: where the numbers along x begin, if names stand before them.
        x_said: how these numbers are written.
        height: of all of it.
    """
    across, up = Axis(*x, LEFT, RIGHT), Axis(*y, height - BOTTOM, TOP)
    parts = [text(4, 14, y_label, "axis")]
    said = "{:.0%}" if percent else f"{{:.{_decimals(up.ticks())}f}}"
    for tick in up.ticks():
        parts += [_line(LEFT, up(tick), RIGHT, up(tick), "grid")]
        parts += [text(LEFT - 6, up(tick) + 4, said.format(tick), "tick end")]
    begin = min(x) if x_from is None else x_from
    most = min(6, abs(across(max(x)) - across(begin)) // SPACED)
    places = Axis(begin, max(x), 0, 1).ticks(max(1, int(most)), whole=x_whole)
    parts += [text(across(tick), height - 20, x_said.format(tick), "tick middle") for tick in places]
    lines = wrap(x_label, int((RIGHT - LEFT) / LETTER))
    parts += [text((LEFT + RIGHT) / 2, height - 4 + LINE * i, line, "axis middle") for i, line in enumerate(lines)]
    parts += [_series(one, across, up) for one in series]
    return Picture("xy", label, height + LINE * (len(lines) - 1), Markup("").join(parts))


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
    log: int = 0,
    room: float = 0,
) -> Picture:
    """A row a name; in each, bars that lie on one another, and their text at its end.

    Args:
        label: what is seen, for those who do not see it.
        names: of the rows.
        bars: of each row.
        x: limits.
        x_label: what x is.
        log: the base of a logarithmic axis, 2 or 10.
        room: to the right, for the bars' text.
    """
    left, parts = _names(names)
    height = len(names) * LINE + 44
    across = Axis(*x, left, RIGHT - room, log)
    for tick in across.ticks(5):
        parts += [_line(across(tick), 4, across(tick), height - 38, "grid")]
        parts += [text(across(tick), height - 22, f"{tick:g}", "tick middle")]
    parts += [text((left + RIGHT - room) / 2, height - 6, x_label, "axis middle")]
    parts += [_bar(bar, across, _middle(i)) for i, drawn in enumerate(bars) for bar in drawn]
    return Picture("rows", label, height, Markup("").join(parts))


def cells(
    label: str, names: Sequence[str], columns: Sequence[str], drawn: Sequence[Sequence[tuple[str, str]]], x_label: str
) -> Picture:
    """A row a name, a cell a column.

    Args:
        label: what is seen, for those who do not see it.
        names: of the rows.
        columns: their names.
        drawn: of each row, each cell's CSS class and what is said of it.
        x_label: what the columns are.
    """
    left, parts = _names(names)
    height, step = len(names) * LINE + 44, (RIGHT - left) / len(columns)
    cell = Markup('<rect class="cell {}" x="{:g}" y="{:g}" width="{:g}" height="{:g}"><title>{}</title></rect>')
    for i, row in enumerate(drawn):
        for j, (look, tip) in enumerate(row):
            parts.append(cell.format(look, left + j * step, _middle(i) - LINE / 2, step - 1, LINE - 1, tip))
    spaced = ceil(5 * LETTER / step)  # where columns are narrow, some names are left out
    for j in range(0, len(columns), spaced):
        parts.append(text(left + (j + 0.5) * step, height - 22, columns[j], "tick middle"))
    parts.append(text((left + RIGHT) / 2, height - 6, x_label, "axis middle"))
    return Picture("cells", label, height, Markup("").join(parts))


def _names(names: Sequence[str]) -> tuple[float, list[Markup]]:
    """Of rows, and where what they name begins."""
    left = min(LONGEST, max(map(len, names))) * LETTER + 12
    return left, [text(left - 8, _middle(i) + 4, fitted(n), "name end", tip=n) for i, n in enumerate(names)]


def _middle(i: int) -> float:
    """The height of a row."""
    return 4 + (i + 0.5) * LINE


def fitted(name: str) -> str:
    """A name, or as much of it as there is room for."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _bar(bar: Bar, across: Axis, y: float) -> Markup:
    x = across(bar.at)
    parts = [Markup('<circle cx="{}" cy="{}" r="4.5"/>').format(x, y)]
    if bar.start is not None and bar.end is not None:
        parts.insert(0, _line(across(bar.start), y, across(bar.end), y, "span"))
    if bar.text:
        parts.append(text(across.end + 10, y + 4, bar.text, "note"))
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
        parts.append(_mark(mark, a, b, across, up, one.dots))
    return Markup('<g class="series {}" data-name="{}">{}</g>').format(one.look, one.name, Markup("").join(parts))


def _mark(mark: Mark, x: float, y: float, across: Axis, up: Axis, seen: bool) -> Markup:
    written = Markup("")
    if mark.text:
        start, height = x if mark.text_x is None else across(mark.text_x), y if mark.text_y is None else up(mark.text_y)
        beside, look = (start - 9, "note end") if mark.left else (start + 9, "note")
        written = text(beside, height + 4, mark.text, look)
        away = hypot(start - x, height - y)
        if mark.text_x is not None and away > mark.radius:
            edge = mark.radius / away
            written = _line(start, height, x + (start - x) * edge, y + (height - y) * edge, "leader") + written
    return Markup('<g class="mark {}" data-x="{}" data-y="{}"><title>{}</title><circle cx="{}" cy="{}" r="{:g}"/>{}</g>'
    ).format(mark.look if seen else "quiet", x, y, mark.tip, x, y, mark.radius, written)  # fmt: skip


def _area(area: Sequence[tuple[float, float, float]], across: Axis, up: Axis) -> Markup:
    there = [f"{across(x)},{up(high)}" for x, _, high in area]
    back = [f"{across(x)},{up(low)}" for x, low, _ in reversed(area)]
    return Markup('<polygon points="{}"/>').format(" ".join(there + back))


def _line(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    return Markup('<line class="{}" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(look, x1, y1, x2, y2)


def text(x: float, y: float, words: Any, look: str, tip: str = "") -> Markup:
    """Words at a place; `tip` where they are not all."""
    title = Markup("<title>{}</title>").format(tip) if tip and tip != words else ""
    return Markup('<text class="{}" x="{:g}" y="{:g}">{}{}</text>').format(look, x, y, title, words)
