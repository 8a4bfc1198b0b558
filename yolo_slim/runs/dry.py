"""A command that only finds out what it would do: the first stage that is to be done ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked: ContextVar[bool] = ContextVar("dry", default=False)


class ToBeDone(Exception):
    """A stage that is to be done."""

    def __init__(self, stage: str, changes: list[str]) -> None:
        """The stage, and what has changed since it was done before; nothing: it was not."""
        super().__init__(stage)
        self.stage, self.changes = stage, changes


@contextmanager
def dry() -> Iterator[None]:
    """Stages are looked for, and not done, meanwhile."""
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def check(stage: str, changes: list[str]) -> None:
    """Nothing, where stages are done.

    Raises:
        ToBeDone: they are only looked for.
    """
    if _asked.get():
        raise ToBeDone(stage, changes)
