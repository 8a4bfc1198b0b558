"""Numbers as text, the same on every page. One that was not measured is a dash; a loss is shown like a gain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from yolo_slim.row import Row, Timing

DASH = "–"

BUSY = 2.0
"""The 90th percentile of a latency over its 10th, from which on it says more of the machine than of the detector."""


def median(row: Row) -> float | None:
    """The median latency of a row in ms."""
    ms = row.get("latency_ms")
    return ms["median"] if ms else None


def timed_ms(row: Row) -> float:
    """The median latency in ms of a row that was timed."""
    ms = row["latency_ms"]
    assert ms is not None, "only what was timed is asked"
    return ms["median"]


def ratio(value: float | None, base: float | None) -> str | None:
    """value / base as ×0.50; None where one of them is missing."""
    return None if value is None or not base else f"×{value / base:.2f}"


def points(value: float | None, base: float | None) -> str | None:
    """The difference of two mAPs in points, signed; None where one of them is missing."""
    if value is None or base is None:
        return None
    tenths = round(100 * (value - base), 1) + 0.0  # + 0.0: no "−0.0"
    return f"{tenths:+.1f}".replace("-", "−")


def digits(value: float) -> str:
    """Three significant digits, and every digit before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def spread(ms: Timing) -> str:
    """A latency: its median, and in brackets where the middle eight tenths lie."""
    return f"{digits(ms['median'])} [{digits(ms['p10'])}–{digits(ms['p90'])}]"


def side_of(imgsz: int | Sequence[int]) -> str:
    """The size of an image in words, of a square one by its side."""
    return f"{imgsz} px" if isinstance(imgsz, int) else " × ".join(map(str, imgsz)) + " px"


def busy(ms: Timing) -> bool:
    """Whether a latency was taken while the machine did something else as well."""
    return ms["p90"] > BUSY * ms["p10"]


def plain(text: object) -> str:
    """Text from a file as Markdown that reads like it: no link, no picture, no HTML, one line."""
    return " ".join(re.sub(r"([\\`*\[\]<>&])", r"\\\1", str(text)).split())


def code(text: object) -> str:
    """Text as code in Markdown, which holds no `, and on one line."""
    return "`" + " ".join(str(text).replace("`", "'").split()) + "`"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown: the first column to the left, numbers to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    cells = ([" ".join(str(cell).split("\n")).replace("|", "\\|") for cell in row] for row in (head, rule, *rows))
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
