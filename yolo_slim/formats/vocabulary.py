"""What pickles of one kind may name, call and fill; whatever else one names is refused, and told why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from yolo_slim.formats.calls import CALLS, Check
from yolo_slim.formats.names import helpers, objects
from yolo_slim.formats.strangers import refusal


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The words of one kind of checkpoint."""

    objects: Mapping[str, type]  # full name -> class, made empty and then filled: nothing is run on the way
    calls: Mapping[str, Check]  # full name -> whether its arguments are as they should be
    helpers: Mapping[str, Any]  # full name -> what it stands for here, of all else; those in `calls` among them
    refusal: Callable[[str, bytes], str]  # why a pickle with this name in it is refused

    def knows(self, name: str) -> bool:
        """Whether some checkpoint of this kind has this name in it."""
        return name in self.objects or name in self.helpers


@cache
def ultralytics() -> Vocabulary:
    """Of checkpoints of Ultralytics 8."""
    return Vocabulary(objects(), CALLS, helpers(), refusal)
