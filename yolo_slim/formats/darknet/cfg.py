"""The text of a Darknet cfg: sections of `key=value` lines, each with the number of its line.

Darknet drops every blank in a line, takes lines that begin with # or ; for comments, and gives a section's keys no
order. Nothing is known here of what a section means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from yolo_slim.errors import SlimError, plain, shown

LONGEST = 1 << 20
"""Bytes; the largest cfg in use has some 70,000."""
MOST_SECTIONS = 1000
"""YOLOv4's has 162."""
MOST_KEYS = 1000
"""Of one section."""
HEADS = ("net", "network")
"""How the first section may be called."""


@dataclass(frozen=True)
class Entry:
    """A value, and where it stands."""

    text: str
    line: int


@dataclass
class Section:
    """A section of a cfg: `[kind]` in line `line`, and what it says."""

    kind: str
    line: int
    entries: dict[str, Entry] = field(default_factory=dict)  # the first of a key, as Darknet takes it
    others: dict[str, Entry] = field(default_factory=dict)  # of a key that is there again, with another value

    def refuse(self, why: str, key: str | None = None) -> NoReturn:
        """Refuse it, or what it says of `key`.

        Raises:
            SlimError: the line and the section, and why.
        """
        line = self.entries[key].line if key in self.entries else self.line
        raise SlimError(f"is refused at line {line}, [{plain(self.kind)}]: {why}")

    def text(self, key: str, default: str | None = None) -> str:
        """A word.

        Raises:
            SlimError: it is missing and has no default, or another one is there as well.
        """
        if key in self.others:
            first, second = self.entries[key], self.others[key]
            self.refuse(
                f"{plain(key)}={shown(first.text)}, and line {second.line} says {shown(second.text)}: "
                "only one can be meant",
                key,
            )
        if key in self.entries:
            return self.entries[key].text
        if default is None:
            self.refuse(f"it lacks {key}=")
        return default

    def whole(self, key: str, default: int | None = None, *, least: int, most: int) -> int:
        """A whole number within bounds.

        Raises:
            SlimError: it is missing and has no default, is none, or is out of bounds.
        """
        if key not in self.entries and default is not None:
            return default
        (number,) = self.all_whole(key, most=most, least=least, count=1)
        return number

    def all_whole(self, key: str, *, least: int, most: int, count: int) -> list[int]:
        """Up to `count` whole numbers within bounds, with commas between them.

        Raises:
            SlimError: as `whole`, or there are more.
        """
        expected = f"expected {_spread(count)}{least:,} to {most:,}"
        numbers = []
        for word in self._words(key, count, expected):
            if not re.fullmatch(r"[+-]?\d{1,18}", word, re.ASCII) or not least <= int(word) <= most:
                self.refuse(f"{key}={shown(self.text(key))}; {expected}", key)
            numbers.append(int(word))
        return numbers

    def number(self, key: str, default: float, *, least: float, most: float) -> float:
        """A number within bounds.

        Raises:
            SlimError: it is none, or out of bounds.
        """
        if key not in self.entries:
            return default
        (number,) = self.numbers(key, least=least, most=most, count=1)
        return number

    def numbers(self, key: str, *, least: float, most: float, count: int) -> list[float]:
        """Up to `count` numbers within bounds, with commas between them.

        Raises:
            SlimError: as `number`, or it is missing, or there are more.
        """
        expected = f"expected {_spread(count)}{least:g} to {most:g}"
        found = []
        for word in self._words(key, count, expected):
            try:
                number = float(word) if word.isascii() and "_" not in word else math.nan
            except ValueError:
                number = math.nan
            if not least <= number <= most:
                self.refuse(f"{key}={shown(self.text(key))}; {expected}", key)
            found.append(number)
        return found

    def _words(self, key: str, count: int, expected: str) -> list[str]:
        words = self.text(key).removesuffix(",").split(",")
        if len(words) > count:
            self.refuse(f"{key}={shown(self.text(key))}; {expected}", key)
        return words


def _spread(count: int) -> str:
    return "a number from " if count == 1 else f"at most {count} numbers from "


def sections(text: str) -> list[Section]:
    """The sections of a cfg, in order; the first is `[net]`.

    Raises:
        SlimError: it is no cfg, or too long.
    """
    if len(text) > LONGEST:
        raise SlimError(f"has {len(text):,} characters: expected a Darknet cfg of some thousand")
    if "\0" in text:
        raise SlimError("holds a zero byte: expected a Darknet cfg, which is text")
    found: list[Section] = []
    for number, line in _lines(text):
        if line.startswith("["):
            if not line.endswith("]"):
                raise SlimError(f"is refused at line {number}: {shown(line)} begins a section and does not end one")
            found.append(Section(line[1:-1], number))
            if len(found) > MOST_SECTIONS:
                raise SlimError(f"is refused at line {number}: it has more than {MOST_SECTIONS:,} sections")
        else:
            _add(found[-1] if found else None, number, line)
    if not found or found[0].kind not in HEADS:
        first = f"begins with [{plain(found[0].kind)}]" if found else "has no section"
        raise SlimError(f"is no Darknet cfg: it {first}, expected [net]")
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """What is said, by line; comments behind a value are what Darknet's number parsing skips."""
    for number, line in enumerate(text.split("\n"), 1):
        said = "".join(line.split())
        if said and said[0] not in "#;":
            yield number, re.split("[#;]", said, maxsplit=1)[0]


def _add(section: Section | None, number: int, line: str) -> None:
    key, sign, value = line.partition("=")
    if section is None or not sign or not key:
        where = "" if section else " before the first section"
        raise SlimError(f"is refused at line {number}: {shown(line)}{where}; expected key=value or a [section]")
    before = section.entries.get(key)
    if before is None:
        section.entries[key] = Entry(value, number)
    elif before.text != value:
        section.others.setdefault(key, Entry(value, number))
    if len(section.entries) > MOST_KEYS:
        section.refuse(f"it has more than {MOST_KEYS:,} keys")


def rewritten(text: str, values: dict[tuple[int, str], int]) -> str:
    """The same text with other whole numbers in some lines: (line, key) -> value.

    All else, blanks, comments and line ends included, is as it was.
    """
    lines = text.split("\n")
    for (number, _), value in values.items():
        lines[number - 1] = re.sub(r"=(\s*)[+\d][\d \t]*(?<=\d)", rf"=\g<1>{value}", lines[number - 1], count=1)
    return "\n".join(lines)
