"""Text from a file, made fit to be shown: a terminal obeys control characters, a page its marks."""

from __future__ import annotations

import re
from typing import Any

CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # of ASCII and Latin-1, but tabs and line ends
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the order of what follows
    "\u2028\u2029\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
    # the last line: line ends of others, what is no letter or half of one, tags
)


def printable(text: object) -> str:
    """Without control characters, on one line."""
    return " ".join(lines(text).split("\n")).replace("\t", " ")


def lines(text: object) -> str:
    """Without control characters, but for the ends of lines, and tabs."""
    return CONTROL.sub("", str(text))


def tidy(value: Any) -> Any:
    """Plain values in one another, with every text in them `printable`."""
    if isinstance(value, dict):
        return {tidy(key): tidy(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value
