"""What any value must be, whatever setting it is for: a number that is one, a text that can be printed."""

from __future__ import annotations

import math
import re
from typing import Any

from yolo_slim.config.hints import inside, item, takes_number
from yolo_slim.errors import plain, shown

LARGEST = 2**31 - 1
"""No number of a setting is above: it must fit what torch, NumPy and file formats take."""

LONGEST_NAME, LONGEST_PATH, DEEPEST = 255, 4_000, 20
"""Bytes of one name in a path, and of a path, that file systems take; how deep values may lie within values."""

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, other line ends, and halves of characters, which no file can be named with or written in."""


def check_value(value: Any, annotation: Any, depth: int = 0) -> None:
    """Nothing, where a value is sound.

    Args:
        value: as it was read.
        annotation: of its setting.
        depth: within other values.

    Raises:
        ValueError: yes or no for a number, a number that is none or beyond all bounds, a text that is empty, too long
            or has control characters, values too deep within one another.
    """
    if depth > DEEPEST:
        raise ValueError(f"expected values no deeper than {DEEPEST} within one another")
    if isinstance(value, bool):
        if takes_number(annotation):
            raise ValueError(f"expected a number, got {value}")
    elif isinstance(value, (int, float)):
        if takes_number(annotation) or isinstance(value, int):  # others say more of a number that is none
            check_number(value)
    elif isinstance(value, str):
        if not takes_number(annotation):
            check_text(value)
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_value(each, item(annotation), depth + 1)
    elif isinstance(value, dict):
        for name, each in value.items():
            check_text(name)
            try:
                check_value(each, inside(annotation, name), depth + 1)
            except ValueError as e:
                raise ValueError(f"{plain(name)}: {e}") from e


def check_number(number: int | float) -> None:
    """Nothing, where a number is one and not beyond all bounds.

    Raises:
        ValueError: nan, infinity, or more than `LARGEST`.
    """
    if not (isinstance(number, int) or math.isfinite(number)) or abs(number) > LARGEST:
        raise ValueError(f"expected a number between {-LARGEST} and {LARGEST}, got {shown(number)}")


def check_text(text: Any) -> None:
    """Nothing, where a text can be printed, and looked for on a disk.

    Raises:
        ValueError: it is no text, empty, too long, or has control characters.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected a text, got {shown(text)}")
    if not text.strip():
        raise ValueError(f"expected a text, got {shown(text)}")
    if found := UNPRINTABLE.search(text):
        raise ValueError(f"expected a text without control characters, got {found[0]!r} in {shown(text)}")
    if len(text.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in text.split("/")):
        raise ValueError(
            f"expected a text that may be a path, {LONGEST_NAME} bytes a name and {LONGEST_PATH:,} in all, got "
            f"{len(text.encode()):,}: {shown(text)}"
        )
