"""The model card: where a detector comes from and how it came about. Whoever wrote a file may have written anything."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yolo_slim.errors import SlimError
from yolo_slim.formats.plain import check_plain
from yolo_slim.text import printable, tidy

MOST_STEPS = 10_000


class _Part(BaseModel):
    """Newer versions may add to it, older ones had less in it; what is known is of its type."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class File(_Part):
    """A file that something was made from."""

    file: str
    sha256: str


class Step(_Part):
    """What one stage did."""

    stage: str
    settings: dict[str, Any] = {}
    params: Annotated[int, Field(ge=0)] | None = None
    macs: Annotated[float, Field(ge=0)] | None = None
    flops: Annotated[float, Field(ge=0)] | None = None
    map50: float | None = None
    map50_95: float | None = None
    split: str | None = None


class Card(_Part):
    """All of it."""

    source: File | None = None
    weights: File | None = None
    steps: Annotated[list[Step], Field(max_length=MOST_STEPS)] = []
    plan: list[dict[str, list[Annotated[int, Field(ge=0)]]]] | None = None
    versions: dict[str, str | None] = {}


def card_of(found: Any) -> dict[str, Any]:
    """A card as it was written, its texts without control characters; none: empty.

    Raises:
        SlimError: it is no card: the entry, and what was expected there.
    """
    if found is None:
        return {}
    check_plain(found, "its model card")
    try:
        Card.model_validate(found)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        place = ".".join(["card", *map(str, first["loc"])])
        raise SlimError(f"carries no sound model card: {printable(place)}: {first['msg']}") from e
    card = tidy(found)
    _check_plan(card.get("plan") or [])
    return card


def _check_plan(plan: list[dict[str, list[int]]]) -> None:
    """Each cut keeps outputs that the one before it left."""
    widths: dict[str, int] = {}
    for cut in plan:
        for name, kept in cut.items():
            if any(i >= widths.get(name, 1 << 20) for i in kept):
                raise SlimError(f"carries no sound model card: its plan keeps more of {name} than there is")
            widths[name] = len(kept)
