"""What commands have said of a run, in a file of its folder: lines of ours, Ultralytics' own, and what went wrong."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console
from ultralytics.utils import LOGGER, remove_colorstr

from yolo_slim import record
from yolo_slim.console import Terminal
from yolo_slim.errors import SlimError
from yolo_slim.runs import LOG, identity

WIDTH = 120
"""Columns of its tables."""


class Log(io.TextIOBase):
    """Text in memory until something of the run is done: a command that changes nothing writes nothing."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.path, self.waiting = file, io.StringIO()
        self.file: io.TextIOWrapper | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Keep it, or put it down at once: a kill leaves what was said before it."""
        with suppress(OSError):  # a full disk is told by what is written there
            (self.file or self.waiting).write(text)
            if self.file:
                self.file.flush()
        return len(text)

    def begin(self) -> None:
        """From here on there is something to tell."""
        if self.file is None:
            with suppress(OSError):
                self.file = self.path.open("a", encoding="utf-8", errors="backslashreplace")
                self.write(self.waiting.getvalue())

    def end(self) -> None:
        """Nothing more will come; of what has come to nothing, nothing stays."""
        if self.file:
            with suppress(OSError):
                self.file.close()
                if not (self.path.parent / identity.FILE).exists():
                    self.path.unlink()


class _Plain(logging.Formatter):
    def format(self, entry: logging.LogRecord) -> str:
        return remove_colorstr(super().format(entry)).strip("\n")


_open: list[Log] = []
"""That of the command in hand."""


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Keep what is said meanwhile in the log of a run that is held."""
    log, begun = Log(folder / LOG), time.monotonic()
    versions = ", ".join(f"{name} {version}" for name, version in record.versions().items())
    log.write(f"\n{_now()}  {' '.join(_command())}\n{versions}\n")
    handler = logging.StreamHandler(log)
    handler.setFormatter(_Plain("%(message)s"))
    before, Terminal.also = (
        Terminal.also,
        Console(file=cast(TextIO, log), width=WIDTH, color_system=None, highlight=False),
    )
    LOGGER.addHandler(handler)
    _open.append(log)
    try:
        yield
        log.write(f"{_now()}  done in {time.monotonic() - begun:.0f} s\n")
    except BaseException as e:
        said = str(e) if isinstance(e, SlimError) else " ".join(f"{type(e).__name__} {e}".split())
        log.write(f"{_now()}  ended: {said}\n")
        raise
    finally:
        _open.remove(log)
        LOGGER.removeHandler(handler)
        Terminal.also = before
        log.end()


def begin() -> None:
    """Something is about to be written to the run that is held: the log is from now on."""
    for log in _open:
        log.begin()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _command() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
