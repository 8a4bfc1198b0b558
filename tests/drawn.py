"""What an SVG file shows: its texts and the room they take, its curves and their marks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
from PIL import ImageFont

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
"""As wide as fonts of pages come."""
SIZES = {"tick": 11, "axis": 11, "name": 11.5, "note": 11.5, "title": 11.5, "headline": 14}
"""Of a text's first class, as chart.css has them."""


class Text(NamedTuple):
    """Words, and where they lie: of the file, y down."""

    words: str
    look: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Text) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


class Mark(NamedTuple):
    look: str
    x: float
    y: float
    tip: str


class Drawn:
    """An SVG file, parsed as strictly as a browser does."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(re.sub(' xmlns="[^"]*"', "", svg, count=1))
        self.width, self.height = float(self.root.get("width")), float(self.root.get("height"))
        assert self.root.get("viewBox") == f"0 0 {self.root.get('width')} {self.root.get('height')}"
        assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg" ') and svg.endswith("</svg>\n")
        assert "var(" not in svg and "http" not in svg.replace("http://www.w3.org/2000/svg", "")
        self.pictures = self.root.findall("g[@transform]")

    def texts(self, look: str = "") -> list[Text]:
        """All with this class, those around the pictures first."""
        found = [_text(each, 0, 0) for each in self.root.findall("text")]
        for picture in self.pictures:
            x, y = map(float, re.findall(r"[\d.]+", picture.get("transform")))
            found += [_text(each, x, y) for each in picture.iter("text")]
        return [text for text in found if look in text.look.split() or not look]

    def said(self, look: str) -> list[str]:
        """The words of texts with this class."""
        return [text.words for text in self.texts(look)]

    def marks(self, picture: int = 0) -> dict[str, list[Mark]]:
        """A curve's name -> its marks, those that are not seen among them."""
        return {
            series.get("data-name"): [
                Mark(m.get("class").removeprefix("mark "), *(float(m.get(f"data-{k}")) for k in "xy"), m[0].text)
                for m in series.findall("g")
            ]
            for series in self.pictures[picture].iter("g")
            if series.get("class").startswith("series")
        }

    def looks(self, picture: int = 0) -> dict[str, str]:
        """A curve's name -> its classes."""
        found = (g for g in self.pictures[picture].iter("g") if g.get("class").startswith("series"))
        return {series.get("data-name"): series.get("class").removeprefix("series ") for series in found}


def _text(each: ElementTree.Element, x: float, y: float) -> Text:
    look = each.get("class")
    words = "".join([each.text or "", *(inner.tail or "" for inner in each)])
    size = SIZES[look.split()[0]]
    wide = ImageFont.truetype(str(FONT), 100).getlength(" ".join(words.split())) * size / 100
    begin = x + float(each.get("x")) - {"end": wide, "middle": wide / 2}.get(look.split()[-1], 0)
    line = y + float(each.get("y"))
    return Text(words, look, begin, line - 0.76 * size, begin + wide, line + 0.24 * size)


def proportional(places: list[float], values: list[float]) -> bool:
    """Whether places along an axis, which are rounded to a tenth, are those of the values."""
    off = np.polyval(np.polyfit(values, places, 1), values) - places
    return bool(np.abs(off).max() < 0.15)
