"""The console as it is: closed, a pipe that somebody left, one that cannot write all characters; and being ended."""

from __future__ import annotations

import atexit
import codecs
import logging
import os
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from types import FrameType
from typing import TextIO

PLAIN = {"→": "->", "←": "<-", "±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "≤": "<=", "≥": ">=", "µ": "u"}
"""What stands for characters that a console does not have; `?` for the others."""


class Ended(KeyboardInterrupt):
    """A signal that ends programs: all is put away as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def prepare() -> None:
    """Let no output fail: what is closed takes everything, what cannot write a character writes another."""
    codecs.register_error("yolo-slim", _in_plain)
    _end_quietly()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed: the next file that is opened would take its number, and all that is printed
            _fill(number)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure") and not _writes_all(stream.encoding):
            stream.reconfigure(errors="yolo-slim")
            # Processes that this one starts have no such handler.
            os.environ["PYTHONIOENCODING"] = f"{stream.encoding}:replace"


@cache
def _end_quietly() -> None:
    """Ctrl-C while Python puts its things away ends it, without a traceback of theirs."""
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)


@contextmanager
def ending() -> Iterator[None]:
    """What would end this process at once raises `Ended` meanwhile, where nobody else has asked for the signal."""
    mine, before = os.getpid(), {}

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one is not waited for
        if os.getpid() != mine:  # a child, which has nothing to put away
            os.kill(os.getpid(), number)
        raise Ended(number)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def silent() -> Iterator[None]:
    """Nothing is printed on stdout meanwhile, by Ultralytics' log neither, whichever of both is there first."""
    nowhere, log = _nowhere(), logging.getLogger("ultralytics")
    shown = (sys.stdout, sys.__stdout__)
    before = {handler: handler.stream for handler in _streams(log) if handler.stream in shown}
    for handler in before:
        handler.setStream(nowhere)
    try:
        with redirect_stdout(nowhere):
            yield
    finally:
        for handler in _streams(log):
            if handler.stream is nowhere:
                handler.setStream(before.get(handler, sys.stdout))


@cache
def _nowhere() -> TextIO:
    """Never closed: what was made meanwhile may hold it."""
    return open(os.devnull, "w", encoding="utf-8")


def _streams(log: logging.Logger) -> list[logging.StreamHandler]:
    return [handler for handler in log.handlers if isinstance(handler, logging.StreamHandler)]


def wrapped(message: str, stream: TextIO) -> str:
    """A message in lines that a terminal shows whole words of; as it is, where it goes elsewhere."""
    if not stream.isatty():
        return message
    width = shutil.get_terminal_size((80, 24)).columns
    lines = []
    for line in message.split("\n"):
        indent = line[: len(line) - len(line.lstrip())] + ("  " if line.strip() else "")
        lines.append(
            textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        )
    return "\n".join(lines)


def leave() -> None:
    """Of a pipe that nobody reads: nothing more is written, and nobody is told when the streams are closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def _fill(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)


def _writes_all(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith("utf")


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end
