"""The terminal: what is named in a line may come from a file, and is neither obeyed by it nor taken for its colours."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.control import Control
from rich.markup import MarkupError
from ultralytics.utils import LOGGER

from yolo_slim.text import lines

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
