"""Charts as SVG files: the page's pictures with their titles and legends, on the light side of its colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any

from markupsafe import Markup

from yolo_slim.report.before_after_charts import widths
from yolo_slim.report.chart import Chart
from yolo_slim.report.scan import scan_charts
from yolo_slim.report.svg import LETTER, LINE, WIDTH, text
from yolo_slim.report.sweep_charts import headline, sweep_charts
from yolo_slim.report.training_charts import scales
from yolo_slim.report.worth_charts import rounds, trade_off

EDGE, GAP = 16.0, 24.0  # around all, and between two pictures
CAPITAL = 6.9  # the room a letter of a title takes
FONT = 'font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'

PLOTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "map_flops.svg": lambda report: standalone(trade_off(report)),
    "rounds.svg": lambda report: standalone(rounds(report)),
    "widths.svg": lambda report: standalone(widths(report)),
    "scales.svg": lambda report: standalone(scales(report)),
}
"""What report.md shows: file name -> its content, "" where the report has no numbers for it."""


def draw(
    report: dict[str, Any], folder: Path, plots: Mapping[str, Callable[[dict[str, Any]], str]] = PLOTS
) -> list[Path]:
    """Write every plot there are numbers for into an existing folder, all of them or none.

    Args:
        report: what the plots are of, without control characters.
        folder: where they go.
        plots: file name -> what draws it.

    Returns:
        the SVG files, in the order they are best read.
    """
    parts: dict[Path, Path] = {}
    try:
        for name, plot in plots.items():
            if drawn := plot(report):
                parts[folder / name] = part = folder / f".{name}.part"
                part.write_text(drawn, encoding="utf-8")
        for file, part in parts.items():
            part.replace(file)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return list(parts)


def sweep_plot(content: dict[str, Any]) -> str:
    """sweep.svg, of what sweep.json holds."""
    return standalone(sweep_charts(content), headline(content))


def scan_plot(scan: dict[str, Any]) -> str:
    """sensitivity.svg, of what sensitivity.json holds."""
    return standalone(scan_charts(scan))


def standalone(charts: Sequence[Chart], headline: str = "") -> str:
    """Charts side by side under a headline; a chart's own pictures two by two. Nothing of no charts."""
    if not charts:
        return ""
    widths = [_across(min(2, len(chart.pictures))) for chart in charts]
    width = sum(widths) + GAP * (len(charts) - 1)
    parts = _words(headline, "headline", width, 1.37 * CAPITAL, EDGE, EDGE)
    top = EDGE + (LINE * 1.4) * len(parts)
    starts = [EDGE + sum(widths[:i]) + GAP * i for i in range(len(charts))]
    heads = [_head(*each, top) for each in zip(charts, widths, starts, strict=True)]
    top = max(bottom for _, bottom in heads)
    ends = []
    for chart, (head, _), x in zip(charts, heads, starts, strict=True):
        body, bottom = _body(chart, x, top)
        parts += [*head, *body]
        ends.append(bottom)
    size = (width + 2 * EDGE, max(ends) + EDGE)
    whole = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" '
        'role="img" aria-label="{2}">\n<style>\n{3}</style>\n<rect class="card" width="{0:g}" height="{1:g}"/>\n{4}\n'
        "</svg>\n"
    )
    label = headline or "; ".join(chart.title for chart in charts)
    return whole.format(*size, label, _style(), Markup("\n").join(parts))


def _across(count: int) -> float:
    """The room that pictures beside one another take."""
    return count * WIDTH + (count - 1) * GAP


def _words(words: str, look: str, width: float, letter: float, x: float, y: float) -> list[Markup]:
    lines = wrap(words, int(width / letter))
    return [text(x, y + LINE * (0.8 + 1.2 * i), line, look) for i, line in enumerate(lines)]


def _head(chart: Chart, width: float, x: float, y: float) -> tuple[list[Markup], float]:
    """A title and a legend, and where they end."""
    parts = _words(chart.title, "title", width, CAPITAL, x, y)
    y += LINE * 1.2 * len(parts) + 4
    rings = chart.pictures[0].kind == "rows"  # only there, what was before is one
    right = x
    for look, name in chart.legend:
        room = 36 + LETTER * len(name)
        if right > x and right + room > x + width:
            right, y = x, y + LINE
        parts += [_sample(look, right, y + 8, rings), text(right + 23, y + 12, name, "note")]
        right += room
    return parts, y + (LINE if chart.legend else 0) + 4


def _sample(look: str, x: float, y: float, ring: bool) -> Markup:
    """Of a look: a piece of line where it says how lines are drawn, else a dot."""
    if " " in look:
        return Markup('<g class="{}"><polyline points="{:g},{:g} {:g},{:g}"/></g>').format(look, x, y, x + 18, y)
    return Markup('<g class="{}{}"><circle cx="{:g}" cy="{:g}" r="4.5"/></g>').format(
        "mark " if ring else "", look, x + 12, y
    )


def _body(chart: Chart, x: float, y: float) -> tuple[list[Markup], float]:
    """The pictures, and where they end."""
    parts = []
    for i in range(0, len(chart.pictures), 2):
        both = chart.pictures[i : i + 2]
        for j, each in enumerate(both):
            place = (each.kind, x + j * (WIDTH + GAP), y, each.body)
            parts.append(Markup('<g class="{}" transform="translate({:g},{:g})">\n{}\n</g>').format(*place))
        y += max(each.height for each in both) + GAP / 2
    return parts, y - GAP / 2


@cache
def _style() -> Markup:
    """chart.css for programs that know no variables of CSS: --look is `color`, others are what they stand for."""
    css = (Path(__file__).parent / "template" / "chart.css").read_text(encoding="utf-8")
    colours, rules = css.partition("@media")[0].split("\n}\n", 1)
    values = dict(re.findall(r"--(\w+): (#\w+);", colours))
    rules = rules.replace("var(--look)", "currentColor").replace("--look:", "color:")
    rules = re.sub(r"var\(--(\w+)\)", lambda found: values[found[1]], rules)
    return Markup(f".chart {{ {FONT}; }} .card {{ fill: {values['card']}; }}\n{rules}")
