"""A detector and its original, timed in turn, in whiles in which the machine is at its best.

A share of the original's time stays what it is on a slower machine only if all slows down alike. Where each layer waits
longer for its threads, as on cores that are shared or lie far apart, a narrow detector loses more.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from rich.progress import track
from torch import nn

from yolo_slim import measure
from yolo_slim.stages.common import console

CALM, RETAKES = 0.05, 2
"""How far above its best time the original may be in a while that counts; how often others are tried again."""
PAUSE = 20
"""Seconds before that; a while in which a machine is slow lasts some."""

Started: TypeAlias = tuple[Callable[[], object], Callable[[], dict[str, float]]]
"""What runs a detector on an image, and what tells the milliseconds of its layers."""


@dataclass(frozen=True)
class Turn:
    """The original and another detector, timed in turn: a while of the machine."""

    whole: float  # milliseconds of the original
    share: float  # of it that the other takes
    layers: Mapping[str, float] = field(default_factory=dict)  # of the other, if asked for


class Timer:
    """Times detectors in turn with their original.

    Args:
        original: made ready once.
        start: makes a detector ready in a folder of its own.
        runs: timed images of each, of which there are as many of the original in between.
        layers: whether each turn tells the milliseconds of layers as well.
    """

    def __init__(
        self, original: nn.Module, start: Callable[[nn.Module, Path], Started], runs: int, *, layers: bool = False
    ) -> None:
        self.start, self.runs, self.layers = start, runs, layers
        self.folder = tempfile.TemporaryDirectory()
        self.whole, _ = start(original, Path(self.folder.name))
        self.seen: list[float] = []  # milliseconds of the original, of all turns

    def turn(self, slim: nn.Module) -> Turn:
        """One, in whatever while."""
        with tempfile.TemporaryDirectory() as folder:
            run, inside = self.start(slim, Path(folder))
            whole, share = compared(self.whole, run, self.runs)
            self.seen.append(whole)
            return Turn(whole, share, inside() if self.layers else {})

    def one(self, slim: nn.Module) -> Turn:
        """One detector by itself: again after a pause where the original was slower than before."""
        if not self.seen:
            self.seen = [compared(self.whole, self.whole, self.runs)[0] for _ in range(3)]
        found = self.turn(slim)
        for _ in range(RETAKES):
            if found.whole <= (fast := best(self.seen)) * (1 + CALM):
                break
            console.print(
                f"the machine is slow: the original takes {found.whole:.3g} ms, {fast:.3g} before; timed again in "
                f"{PAUSE} s"
            )
            time.sleep(PAUSE)
            found = min(found, self.turn(slim), key=lambda each: each.whole)
        return found

    def many(self, slims: Sequence[Callable[[], nn.Module]], told: str) -> list[Turn]:
        """One after the other, those again in the end in whose while the machine was slower than it can be.

        Args:
            slims: give the detectors, which are not all kept.
            told: what progress is called.
        """
        turns = [self.turn(slim()) for slim in track(slims, description=told)]
        for _ in range(RETAKES):
            calm = best([each.whole for each in turns]) * (1 + CALM)
            slow = [i for i, each in enumerate(turns) if each.whole > calm]
            for i in track(slow, description=f"{told}, again", disable=not slow, transient=True):
                turns[i] = min(turns[i], self.turn(slims[i]()), key=lambda each: each.whole)
        return turns


def best(whole: Sequence[float]) -> float:
    """What the original takes where nothing disturbs it: the 10th percentile, as one alone may be a slip."""
    return float(np.percentile(whole, 10))


def compared(whole: Callable[[], object], slim: Callable[[], object], runs: int) -> tuple[float, float]:
    """Milliseconds of one detector, and the share of it that another takes.

    Both are 25th percentiles of runs in turn: a machine that is slower for a while is so for both, and where it goes at
    two speeds, the better one can be had again, while a median is now of one, now of the other.
    """
    ms = measure.in_turn({"whole": whole, "slim": slim}, runs, warmup=3, told=None)
    one, other = (float(np.percentile(ms[name], 25)) for name in ("whole", "slim"))
    return one, other / one
