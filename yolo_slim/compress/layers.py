"""Which layers a method may change: by default all but the first and those that predict."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from torch import nn

from yolo_slim.channels import Trace
from yolo_slim.channels.groups import FIXED, Conv
from yolo_slim.channels.patterns import matches
from yolo_slim.compress.chains import obstacle
from yolo_slim.errors import SlimError


def eligible(trace: Trace, *, first: bool = False, predictions: bool = False) -> list[Conv]:
    """Convolutions in the order they run.

    Args:
        trace: of the detector.
        first: those that read the image as well.
        predictions: those that predict as well: without a batch norm, of a width that must stay.
    """
    whole = {name for group in trace.groups if group.reason for name in group.producers}
    return [
        conv
        for conv in trace.convs.values()
        if not is_table(conv, trace)
        and (first or not reads_image(conv, trace))
        and (predictions or conv.norm is not None or conv.name not in whole)
    ]


def reads_image(conv: Conv, trace: Trace) -> bool:
    """Whether it reads the image, or the four that `Focus` makes of it."""
    return bool((conv.inputs == FIXED).all()) and len(conv.inputs) in (trace.image_channels, 4 * trace.image_channels)


def is_table(conv: Conv, trace: Trace) -> bool:
    """Whether it weighs fixed places, as the sums of distances in DFL: no channel is read, and nothing learned."""
    return bool((conv.inputs == FIXED).all()) and not reads_image(conv, trace)


def _why(conv: Conv, trace: Trace, why: str) -> str:
    return "a table, not learned" if is_table(conv, trace) else why


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Settings of a method that say which layers it concerns."""

    layers: tuple[str, ...] = field(
        default=(), metadata={"help": "patterns of layers; none: all but the first and those that predict"}
    )
    first: bool = field(default=False, metadata={"help": "also the layers that read the image"})
    predictions: bool = field(default=False, metadata={"help": "also the layers that predict"})

    def chosen(self, wiring: Trace) -> tuple[list[Conv], dict[str, str]]:
        """Convolutions in the order they run, and why others stay as they are.

        Raises:
            SlimError: a pattern matches no layer, or none is left.
        """
        if self.layers:
            found = [conv for conv in named(wiring, self.layers) if not is_table(conv, wiring)]
            why = "not among the layers asked for"
        else:
            found = eligible(wiring, first=self.first, predictions=self.predictions)
            why = "reads the image, or predicts"
        if not found:
            raise SlimError(
                "expected a convolution to change, but all of them read the image or predict: set first=true or "
                "predictions=true"
            )
        there = {conv.name for conv in found}
        return found, {name: _why(conv, wiring, why) for name, conv in wiring.convs.items() if name not in there}


def replaceable(detector: nn.Module, convs: Iterable[Conv]) -> tuple[list[Conv], dict[str, str]]:
    """Dense convolutions that others may take the place of, and those that stay, with the reason."""
    found = [*convs]
    kept = {conv.name: "grouped" if conv.groups > 1 else obstacle(detector, conv.name) for conv in found}
    return [conv for conv in found if not kept[conv.name]], {name: why for name, why in kept.items() if why}


def named(trace: Trace, patterns: Collection[str]) -> list[Conv]:
    """Convolutions that patterns match, in the order they run, whatever they are.

    Raises:
        SlimError: a pattern matches no layer.
    """
    for pattern in patterns:
        if not any(matches(name, pattern) for name in trace.convs):
            near = get_close_matches(pattern, trace.convs, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SlimError(f"layers: {pattern} matches no layer{hint} (`yolo-slim inspect` lists them)")
    return [conv for conv in trace.convs.values() if any(matches(conv.name, pattern) for pattern in patterns)]


def some_of(kept: Mapping[str, str]) -> str:
    """The first few layers that stay, with their reasons, for a message."""
    return "; ".join(f"{name}: {reason}" for name, reason in [*kept.items()][:3]) or "no layer may be changed"
