"""A detector and its original, timed in turn, while the machine is at its best.

A share of the original's time stays what it is on a slower machine only if all slows down alike. Where each layer waits
longer for its threads, as on cores that are shared or lie far apart, a narrow detector loses more: one that takes a
seventh of the time may lose a quarter of it where the original loses a twentieth. So a narrow one is timed beside them,
and tells whether the machine is at its best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import nn

from yolo_slim.console import console, track
from yolo_slim.scratch import Scratch
from yolo_slim.timing import quiet
from yolo_slim.timing.quiet import Machine, quartiles

Started: TypeAlias = tuple[Callable[[], object], Callable[[], dict[str, float]]]
"""What runs a detector on an image, and what tells the milliseconds of its layers."""


@dataclass(frozen=True)
class Comparison:
    """The original and another detector, timed in turn."""

    paces: tuple[float, ...]  # milliseconds of the original and of the narrow one
    share: float  # of the original's that the other takes
    layers: Mapping[str, float] = field(default_factory=dict)  # of the other, if asked for

    @property
    def whole(self) -> float:
        """Milliseconds of the original."""
        return self.paces[0]


class Comparator:
    """Times detectors in turn with their original.

    Args:
        original: made ready once.
        narrow: a cut of it that takes little time, made ready once; it tells best that the machine is slow.
        start: makes a detector ready in a folder of its own.
        runs: timed images of each, of which there are as many of the original in between.
        layers: whether each comparison tells the milliseconds of layers as well.
    """

    def __init__(
        self,
        original: nn.Module,
        narrow: nn.Module,
        start: Callable[[nn.Module, Path], Started],
        runs: int,
        *,
        layers: bool = False,
    ) -> None:
        self.start, self.runs, self.layers = start, runs, layers
        self.folder, probes = Scratch(), {}
        for name, detector in (("whole", original), ("narrow", narrow)):
            (place := Path(self.folder.name, name)).mkdir()
            probes[name], _ = start(detector, place)
        self.machine = Machine(probes)

    def now(self, slim: nn.Module) -> Comparison:
        """One, whatever else the machine does."""
        with Scratch() as folder:
            run, inside = self.start(slim, Path(folder))
            whole, narrow, other = quartiles({**self.machine.probes, "slim": run}, self.runs)
            self.machine.seen.append((whole, narrow))
            return Comparison((whole, narrow), other / whole, inside() if self.layers else {})

    def one(self, slim: nn.Module) -> Comparison:
        """One detector by itself: again where the machine was slower than before."""
        machine = self.machine
        machine.seen = machine.seen or [machine.pace() for _ in range(3)]
        found, pauses = self.now(slim), quiet.PAUSES
        for _ in range(quiet.RETAKES):
            if not machine.slow(found.paces):
                break
            (whole, narrow), (fast, quick) = found.paces, machine.best
            console.print(
                f"the machine is slow (the original takes {whole:.3g} ms, {fast:.3g} at best; a narrow cut "
                f"{narrow:.3g} ms, {quick:.3g} at best): timed again once it is not"
            )
            pauses = machine.wait(pauses)
            found = self.faster(found, self.now(slim))
        return found

    def many(self, slims: Sequence[Callable[[], nn.Module]], description: str) -> list[Comparison]:
        """One after the other in no order, those again in the end that were timed on a slow machine.

        Neighbours in a list are often alike: one after the other, all narrow ones would be timed at once.

        Args:
            slims: give the detectors, which are not all kept.
            description: what progress is called.
        """
        order, pauses = np.random.default_rng(0).permutation(len(slims)), quiet.PAUSES
        first = {i: self.now(slims[i]()) for i in track(order.tolist(), description)}
        turns = [first[i] for i in range(len(slims))]
        for _ in range(quiet.RETAKES):
            again = [i for i, each in enumerate(turns) if self.machine.slow(each.paces)]
            for i in track(again, f"{description}, again"):
                pauses = self.machine.wait(pauses)
                turns[i] = self.faster(turns[i], self.now(slims[i]()))
        return turns

    def faster(self, *turns: Comparison) -> Comparison:
        """The one that was timed on the better machine."""
        return min(turns, key=lambda each: self.machine.slowness(each.paces))
