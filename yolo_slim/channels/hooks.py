"""Hooks that are there for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks, registered as they are drawn; all are removed in the end, whatever happens."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield
