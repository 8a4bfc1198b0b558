"""Is a cut as fast as its target asks? Timed as it will run, and chosen again where the table of layers was off."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from torch import nn

from yolo_slim.channels import Selection, trace
from yolo_slim.channels.constraints import TIMED
from yolo_slim.channels.select import amount
from yolo_slim.config import Target
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.timing.beside import Comparator
from yolo_slim.timing.layers import comparator
from yolo_slim.timing.runner import Runner

CLOSE = 0.05
"""By which share of itself a latency may differ from what was expected."""
TRIES = 3

TimeCut: TypeAlias = Callable[[nn.Module], dict[str, float]]
"""A slim detector -> `latency`, the share of the original's, and `latency_ms`."""


def timer_of_cuts(whole: nn.Module, runner: Runner, runs: int) -> TimeCut:
    """Times slim detectors in turn with the whole one, both as they are deployed."""

    @functools.cache
    def beside() -> Comparator:
        return comparator(whole, trace(whole, runner.imgsz), runner, runs)

    def timed(slim: nn.Module) -> dict[str, float]:
        found = beside().one(slim)
        return {"latency": found.share, "latency_ms": found.share * found.whole}

    return timed


def as_fast(
    at: Callable[[Mapping[str, float]], Selection],
    target: Mapping[str, float],
    timed: Callable[[Selection], dict[str, float] | None],
) -> Selection:
    """Choose for a target, time the choice, and where it is off choose again for a target that makes up for it.

    Args:
        at: chooses for a target.
        target: as it was asked for.
        timed: what a choice truly takes; None: it cannot be timed as it is.

    Returns:
        the choice that comes closest to what was asked for, with what was measured.
    """
    names = sorted(TIMED & target.keys())
    tries: list[tuple[float, Selection]] = []
    slower = dict.fromkeys(names, 1.0)  # than the table tells, as far as one knows
    while True:
        try:
            found = at({name: value / slower.get(name, 1.0) for name, value in target.items()})
        except SlimError:
            if not tries:
                raise
            break  # out of reach: the closest there was is kept, and what it takes is said
        if (measured := timed(found)) is None:
            return found
        found = replace(found, asked={**found.asked, **target}, measured=measured)
        off = max(abs(measured[name] / (found.achieved[name] * slower[name]) - 1) for name in names)
        tries.append((off, found))
        if off <= CLOSE or len(tries) == TRIES:
            break
        slower = {name: measured[name] / found.achieved[name] for name in names}
        told = ", ".join(f"{amount(name, measured[name])}, not {amount(name, found.achieved[name])}" for name in names)
        console.print(f"timed, the cut takes {told}: chosen again")
    return min(tries, key=lambda each: each[0])[1]


def aimed(target: Target, found: Selection) -> Target:
    """What to ask the table of layers for, so that what was asked for is what is measured."""
    slower = {name: found.measured[name] / found.achieved[name] for name in TIMED & found.measured.keys()}
    moved = {
        name: value / slower[name] for name, value in target.model_dump(exclude_none=True).items() if name in slower
    }
    return target.model_copy(update=moved)


def said(found: Selection, runtime: str) -> list[str]:
    """What was measured, beside what the table of layers predicted; and where that is no longer what was asked for."""
    names = [name for name in sorted(TIMED) if name in found.measured]
    if not names:
        return []
    pairs = [f"{amount(name, found.measured[name])} (predicted {amount(name, found.achieved[name])})" for name in names]
    lines = [f"measured in {runtime}: latency {', '.join(pairs)}"]
    for name in names:
        if found.measured[name] > found.asked.get(name, float("inf")) * (1 + CLOSE):
            lines.append(
                f"slower than asked for, {amount(name, found.asked[name])}: the machine was busy, or the table of "
                "layers is off. Ask for less, or measure the layers in more detectors (latency.samples)"
            )
    return lines
