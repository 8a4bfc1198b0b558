"""What is known of a device, and how it is told of a width what the device makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Of a weight."""

Blocks = tuple[int, ...]
"""What widths are filled up to: whole blocks of the largest, and for what is left the smallest that holds it."""


class Fact(NamedTuple):
    """What is said of a device, where, and how it was checked ("": it was not)."""

    says: str
    source: str  # URL
    checked: str = ""


class Padding(NamedTuple):
    """What a layer's channels are filled up to; (1,): they are not, or nobody says so."""

    inputs: Blocks = (1,)
    outputs: Blocks = (1,)
    depthwise: Blocks = (1,)


NOTHING = Padding()


@dataclass(frozen=True)
class Rules:
    """What widths should be for one precision, and what is filled up where they are not."""

    round_to: int  # nothing is wasted on multiples of it
    computed: Padding = NOTHING
    stored: Padding = NOTHING  # weights in memory


@dataclass(frozen=True)
class Device:
    """A runtime or a chip, as far as widths and conversion go."""

    title: str
    format: str  # of Ultralytics' exporter
    rules: dict[str, Rules]  # by precision; the first is what is meant where none is given
    least: int = 8  # channels that every group keeps at least
    cache: int | None = None  # bytes of weights that stay on the chip
    fixed_shape: bool = False
    calibration: int | None = None  # images that INT8 wants at least
    avoid: dict[str, str] = field(default_factory=dict)  # class of a module -> why
    facts: tuple[Fact, ...] = ()


def filled(width: int, blocks: Blocks) -> int:
    """A width filled up: to whole blocks of the largest, and for what is left to the smallest block that holds it."""
    largest = blocks[-1]
    rest = width % largest
    return width - rest + (next(block for block in blocks if block >= rest) if rest else 0)
