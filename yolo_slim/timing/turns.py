"""A detector and its original, timed in turn, in whiles in which the machine is at its best.

A share of the original's time stays what it is on a slower machine only if all slows down alike. Where each layer waits
longer for its threads, as on cores that are shared or lie far apart, a narrow detector loses more: one that takes a
seventh of the time may lose a quarter of it where the original loses a twentieth. So a narrow one is timed beside them,
and tells whether the machine is at its best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from rich.progress import track
from torch import nn

from yolo_slim import measure
from yolo_slim.console import console
from yolo_slim.scratch import Scratch

CALM, RETAKES = 0.08, 2
"""How far above their best the original and the narrow detector may be in a while that counts; how often others are
tried again."""
PAUSE, PAUSES = 5, 12
"""Seconds until the machine is looked at again while it is slow, and how often it is, before it is taken as it is."""

Started: TypeAlias = tuple[Callable[[], object], Callable[[], dict[str, float]]]
"""What runs a detector on an image, and what tells the milliseconds of its layers."""


@dataclass(frozen=True)
class Turn:
    """The original and another detector, timed in turn: a while of the machine."""

    paces: tuple[float, ...]  # milliseconds of the original and of the narrow one
    share: float  # of the original's that the other takes
    layers: Mapping[str, float] = field(default_factory=dict)  # of the other, if asked for

    @property
    def whole(self) -> float:
        """Milliseconds of the original."""
        return self.paces[0]


class Timer:
    """Times detectors in turn with their original.

    Args:
        original: made ready once.
        narrow: a cut of it that takes little time, made ready once; it tells a slow while best.
        start: makes a detector ready in a folder of its own.
        runs: timed images of each, of which there are as many of the original in between.
        layers: whether each turn tells the milliseconds of layers as well.
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
        self.folder, self.probes = Scratch(), {}
        for name, detector in (("whole", original), ("narrow", narrow)):
            (place := Path(self.folder.name, name)).mkdir()
            self.probes[name], _ = start(detector, place)
        self.seen: list[tuple[float, ...]] = []  # the paces of all turns

    def turn(self, slim: nn.Module) -> Turn:
        """One, in whatever while."""
        with Scratch() as folder:
            run, inside = self.start(slim, Path(folder))
            whole, narrow, other = timed({**self.probes, "slim": run}, self.runs)
            self.seen.append((whole, narrow))
            return Turn((whole, narrow), other / whole, inside() if self.layers else {})

    def one(self, slim: nn.Module) -> Turn:
        """One detector by itself: again where the machine was slower than before."""
        if not self.seen:
            self.seen = [self.pace() for _ in range(3)]
        found, pauses = self.turn(slim), PAUSES
        for _ in range(RETAKES):
            if not self.slow(found.paces):
                break
            (whole, narrow), (fast, quick) = found.paces, best(self.seen)
            console.print(
                f"the machine is slow (the original takes {whole:.3g} ms, {fast:.3g} at best; a narrow cut "
                f"{narrow:.3g} ms, {quick:.3g} at best): timed again once it is not"
            )
            pauses = self.wait(pauses)
            found = self.faster(found, self.turn(slim))
        return found

    def many(self, slims: Sequence[Callable[[], nn.Module]], told: str) -> list[Turn]:
        """One after the other in no order, those again in the end in whose while the machine was slower than it can be.

        Neighbours in a list are often alike: one after the other, all narrow ones would share a while.

        Args:
            slims: give the detectors, which are not all kept.
            told: what progress is called.
        """
        order, pauses = np.random.default_rng(0).permutation(len(slims)), PAUSES
        first = {i: self.turn(slims[i]()) for i in track(order.tolist(), description=told)}
        turns = [first[i] for i in range(len(slims))]
        for _ in range(RETAKES):
            again = [i for i, each in enumerate(turns) if self.slow(each.paces)]
            for i in track(again, description=f"{told}, again", disable=not again, transient=True):
                pauses = self.wait(pauses)
                turns[i] = self.faster(turns[i], self.turn(slims[i]()))
        return turns

    def pace(self) -> tuple[float, ...]:
        """Of the machine now."""
        return timed(self.probes, 5)

    def slow(self, paces: Sequence[float]) -> bool:
        """Whether the machine was slower than it can be."""
        return self._slowness(paces) > 1 + CALM

    def wait(self, pauses: int) -> int:
        """Until the machine is at its best, for so many pauses at most; returns those that are left."""
        while pauses and self.slow(self.pace()):
            time.sleep(PAUSE)
            pauses -= 1
        return pauses

    def faster(self, *turns: Turn) -> Turn:
        """The one in the better while."""
        return min(turns, key=lambda each: self._slowness(each.paces))

    def _slowness(self, paces: Sequence[float]) -> float:
        return max(now / fast for now, fast in zip(paces, best(self.seen), strict=True))


def best(seen: Sequence[Sequence[float]]) -> list[float]:
    """What each takes where nothing disturbs it: the 10th percentile, as one alone may be a slip."""
    return [float(each) for each in np.percentile(seen, 10, axis=0)]


def timed(ready: Mapping[str, Callable[[], object]], runs: int) -> tuple[float, ...]:
    """Milliseconds that each takes: the 25th percentile of runs in turn.

    A machine that is slower for a while is so for all, and where it goes at two speeds, the better one can be had
    again, while a median is now of one, now of the other.
    """
    ms = measure.in_turn(ready, runs, warmup=3, told=None)
    return tuple(float(np.percentile(ms[name], 25)) for name in ready)
