"""The terminal: what is named in a line may come from a file, and is neither obeyed by it nor taken for its colours."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.markup import MarkupError

from yolo_slim.text import lines

OTHER = re.compile(r"\[(?!/?\]|(?:bold|bold green|bold red)\])")
"""An opening bracket that is none of ours: of a path, say."""


class Terminal(Console):
    """A rich console that knows the marks used here, and shows any other as it is written."""

    def print(self, *objects: Any, **named: Any) -> None:
        """As rich's, without control characters in texts."""
        shown = [lines(each) if isinstance(each, str) else each for each in objects]
        if named.get("markup") is False:
            return super().print(*shown, **named)
        try:
            super().print(*(OTHER.sub(r"\\[", each) if isinstance(each, str) else each for each in shown), **named)
        except MarkupError:  # a name that closes what was not opened
            super().print(*shown, **named, markup=False)
