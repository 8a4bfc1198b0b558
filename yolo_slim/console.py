"""The terminal: what is named in a line may come from a file, and is neither obeyed by it nor taken for its colours."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TextIO, TypeAlias, TypeVar

from rich.console import Console
from rich.control import Control
from rich.markup import MarkupError
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from ultralytics.utils import LOGGER

from yolo_slim.text import lines

Item = TypeVar("Item")

OTHER = re.compile(r"\[(?!/?\]|(?:bold|bold green|bold red)\])")
"""An opening bracket that is none of ours: of a path, say."""


class Terminal(Console):
    """A rich console that knows the marks used here, and shows any other as it is written.

    Lines are wrapped where words end on a terminal, and left whole for a pipe.
    """

    also: Console | None = None
    """What gets the same, without colours: the log of a run."""

    def on_broken_pipe(self) -> None:
        """Nobody reads on: rich would exit with 1, without a word to whom it concerns."""
        raise BrokenPipeError

    def print(self, *objects: Any, **named: Any) -> None:
        """As rich's, without control characters in texts."""
        shown = [lines(each) if isinstance(each, str) else each for each in objects]
        if self.soft_wrap and self.is_terminal:
            named.setdefault("soft_wrap", False)
        self._print(super().print, shown, named)
        kept = Terminal.also
        if kept and not any(isinstance(each, Control) for each in objects):  # a bar that moves is no line
            self._print(kept.print, shown, {**named, "soft_wrap": all(isinstance(each, str) for each in objects)})

    def _print(self, by: Callable[..., None], shown: list[Any], named: dict[str, Any]) -> None:
        if named.get("markup") is False:
            return by(*shown, **named)
        try:
            by(*(OTHER.sub(r"\\[", each) if isinstance(each, str) else each for each in shown), **named)
        except MarkupError:  # a name that closes what was not opened
            by(*shown, **named, markup=False)


console = Terminal(highlight=False, soft_wrap=True)


EVERY = 30.0
"""Seconds between two lines on how far a step is, where no terminal shows a bar."""

At: TypeAlias = Callable[..., None]
"""Is told how far a step is: what is done, of how much in all, and perhaps what to say of it in words."""

_bars: list[Progress] = []
"""The one that is on the screen: a step within a step has none of its own."""


@contextmanager
def progress(what: str) -> Iterator[At]:
    """Show how far a step is: a bar on a terminal, elsewhere a line now and then."""
    if not console.is_terminal or _bars:
        yield (lambda done, total=None, said="": None) if _bars else _Lines(what)
        return
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, said="")

        def at(done: float, total: float | None = None, said: str = "") -> None:
            counted = f"{done:g}/{total:g}" if total is not None else ""
            bar.update(task, completed=done, total=total, said=said or counted)

        _bars.append(bar)
        try:
            yield at
        finally:
            _bars.remove(bar)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, and how many of them are done; of what has no length, `total` says how many there are."""
    count = len(items) if total is None and isinstance(items, Sized) else total
    with progress(what) as at:
        for done, item in enumerate(items):
            at(done, count)
            yield item


class _Lines:
    """How far a step is, in lines."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.begun = self.told = time.monotonic()

    def __call__(self, done: float, total: float | None = None, said: str = "") -> None:
        """A line, if the last one is some time ago."""
        now = time.monotonic()
        if now - self.told < EVERY:
            return
        self.told, parts = now, [said or (f"{done:g} of {total:g}" if total else f"{done:g}")]
        if total and 0 < done <= total:
            left = (now - self.begun) * (total - done) / done
            parts += [f"{done / total:.0%}", f"about {duration(left)} left"]
        console.print(f"{self.what}: {', '.join(parts)}", markup=False)


def duration(seconds: float) -> str:
    """As one says it: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h" + (f" {rest} min" if rest and hours < 24 else "")


@contextmanager
def quietly() -> Iterator[None]:
    """Validations and exports by the dozen need not each say what they did."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


@contextmanager
def captured() -> Iterator[None]:
    """What programs that are run meanwhile write (NCNN's converter: a page) is shown only where they fail."""
    streams = (sys.stdout, sys.stderr)
    kept = {number: os.dup(number) for number in (1, 2)}
    with tempfile.TemporaryFile() as said:
        _flush(streams)
        try:
            for number in kept:
                os.dup2(said.fileno(), number)
            yield
            _flush(streams)
            said.truncate(0)
        finally:
            _flush(streams)
            for number, before in kept.items():
                os.dup2(before, number)
                os.close(before)
            said.seek(0)
            os.write(2, said.read())


def _flush(streams: Iterable[TextIO]) -> None:
    for stream in streams:
        stream.flush()
