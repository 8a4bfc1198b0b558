"""Times are taken while the machine is at its best: one protocol for reports, benchmarks and latency targets.

Whether it is, probes tell: detectors whose time is known from before. What is timed elsewhere counts again once they
are as quick as they have been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from yolo_slim import measure
from yolo_slim.channels import image_channels
from yolo_slim.console import console
from yolo_slim.row import Timing

CALM, RETAKES = 0.08, 2
"""How far above their best probes may be where the machine is quiet; how often what was timed otherwise is again."""
PAUSE, PAUSES = 5, 12
"""Seconds until the machine is looked at again while it is slow, and how often it is, before it is taken as it is."""
ENOUGH = 2 * measure.IN_A_ROW
"""Runs of which a part may have been quicker than the rest; fewer are taken as they come."""

Ready = Mapping[str, Callable[[], object]]
"""Name -> runs a detector once."""


class Machine:
    """Knows what probes take at best, and so whether it is slow."""

    def __init__(self, probes: Ready) -> None:
        self.probes = dict(probes)
        self.seen: list[tuple[float, ...]] = []  # what they took, each time

    def pace(self) -> tuple[float, ...]:
        """Milliseconds that each probe takes now."""
        return quartiles(self.probes, 5)

    def slow(self, paces: Sequence[float]) -> bool:
        """Whether the machine was slower than it can be."""
        return self.slowness(paces) > 1 + CALM

    def slowness(self, paces: Sequence[float]) -> float:
        """Of the probe that tells it best: what it took, over what it takes where nothing disturbs it."""
        return max(now / fast for now, fast in zip(paces, self.best, strict=True))

    @property
    def best(self) -> list[float]:
        """The 10th percentile of what each took, as one alone may be a slip."""
        return [float(each) for each in np.percentile(self.seen, 10, axis=0)]

    def wait(self, pauses: int) -> int:
        """Until the machine is at its best, for so many pauses at most; returns those that are left."""
        while pauses and self.slow(self.pace()):
            time.sleep(PAUSE)
            pauses -= 1
        return pauses


def quartiles(ready: Ready, runs: int) -> tuple[float, ...]:
    """Milliseconds that each takes: the 25th percentile of runs in turn.

    A machine that is slower for a while is so for all, and where it goes at two speeds, the better one can be had
    again, while a median is now of one, now of the other.
    """
    ms = measure.interleaved(ready, runs, warmup=3, description=None)
    return tuple(float(np.percentile(ms[name], 25)) for name in ready)


def when_quiet(ready: Ready, runs: int, description: str | None = None) -> dict[str, list[float]]:
    """Milliseconds of every run, of all in turn; all again where the machine was slower than in the best of them.

    Args:
        ready: what is timed; the first and the last of them are the probes.
        runs: of each.
        description: what progress is called; None: nothing is shown.
    """
    if runs < ENOUGH:
        return measure.interleaved(ready, runs, description=description)
    machine = Machine({name: ready[name] for name in (*list(ready)[:1], *list(ready)[-1:])})
    found: list[tuple[list[float], dict[str, list[float]]]] = []  # the probes' paces, and all times
    pauses = PAUSES
    while True:
        ms = measure.interleaved(ready, runs, description=description)
        of = [np.array(ms[name]) for name in machine.probes]
        parts = (slice(row, row + measure.IN_A_ROW) for row in range(0, runs, measure.IN_A_ROW))
        machine.seen += [tuple(float(np.percentile(each[part], 25)) for each in of) for part in parts]
        paces = [float(np.percentile(each, 25)) for each in of]
        found.append((paces, ms))
        if not machine.slow(paces) or len(found) > RETAKES:
            return min(found, key=lambda each: machine.slowness(each[0]))[1]
        console.print(
            f"the machine is slow ({machine.slowness(paces):.2f} of its best times): timed again once it is not"
        )
        pauses = machine.wait(pauses)


def latency(
    detectors: Mapping[str, nn.Module], imgsz: int, device: str = "cpu", runs: int = 50
) -> tuple[dict[str, Timing], dict[str, object]]:
    """Time fused detectors in PyTorch at batch 1, fp32, in turn.

    Returns:
        name -> median, p10 and p90 in ms; and what it was measured on.
    """
    where = measure.place(device)
    images = {name: torch.rand(1, image_channels(each, imgsz), imgsz, imgsz) for name, each in detectors.items()}
    ready = {name: measure.runner(detector, images[name], where) for name, detector in detectors.items()}
    torch.set_num_threads(measure.THREADS)
    times = when_quiet(ready, runs, "latency")
    return {name: measure.spread(ms) for name, ms in times.items()}, {
        "runtime": f"PyTorch {torch.__version__}, fused",
        "device": f"{where} ({measure.chip(where)})",
        "threads": torch.get_num_threads(),
        "batch": 1,
        "dtype": "float32",
        "imgsz": imgsz,
        "runs": runs,
    }
