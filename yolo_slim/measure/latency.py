"""How long one image takes: all detectors in turn, so that whatever else the machine does hits them alike."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import nn

from yolo_slim.console import track
from yolo_slim.formats.detector import Detector
from yolo_slim.mould import duplicate
from yolo_slim.row import Timing

THREADS = torch.get_num_threads()
"""torch's own choice, which Ultralytics lowers when it trains or validates on a CPU."""

IN_A_ROW = 5
"""Timed runs before it is the next one's turn: caches and threads are then its own, as where it is deployed."""
SETTLE = 0.1
"""Seconds at the start of each turn that are not counted: caches are those of the one before, and so are threads that
spin on for work (in onnxruntime for some 50 ms, in which a narrow detector takes half as long again)."""


def fused(detector: nn.Module, where: torch.device | str = "cpu") -> nn.Module:
    """A copy in fp32 whose batch norms are merged into convolutions, as it is deployed."""
    return cast(Detector, duplicate(detector).float()).fuse(verbose=False).eval().to(where)


def runner(detector: nn.Module, image: torch.Tensor, where: torch.device | str = "cpu") -> Callable[[], object]:
    """The detector, fused, on these images (B, C, H, W): returns when it is done."""
    ready, where = fused(detector, where), torch.device(where)
    image = image.to(where)

    @torch.inference_mode()
    def run() -> None:
        ready(image)
        synchronise(where)

    return run


def place(device: str) -> torch.device:
    """What Ultralytics calls a device, of several the first: cpu, 0, cuda:0, 0,1, mps."""
    first = device.split(",")[0]
    return torch.device(f"cuda:{first}" if first.isdigit() else first)


def synchronise(where: torch.device) -> None:
    """Wait for what was begun on a device: without it, only the beginning would be timed."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    elif where.type == "mps":
        torch.mps.synchronize()


def interleaved(
    ready: Mapping[str, Callable[[], object]], runs: int, warmup: int = 10, description: str | None = "latency"
) -> dict[str, list[float]]:
    """Milliseconds of every run: A five times, B five times, A again. The first `SETTLE` of each turn is not counted.

    Args:
        ready: name -> what is timed.
        runs: to be counted, of each.
        warmup: runs of each before any counts.
        description: what progress is called; None: nothing is shown.
    """
    times: dict[str, list[float]] = {name: [] for name in ready}
    for run in ready.values():
        for _ in range(warmup):
            run()
    turns = range(-(-runs // IN_A_ROW))
    for _ in track(turns, description) if description else turns:
        for name, run in ready.items():
            settled = time.perf_counter() + SETTLE
            run()
            while time.perf_counter() < settled:
                run()
            for _ in range(min(IN_A_ROW, runs - len(times[name]))):
                start = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def spread(ms: list[float]) -> Timing:
    """Median, 10th and 90th percentile."""
    low, middle, high = map(float, np.percentile(ms, (10, 50, 90)))
    return {"p10": low, "median": middle, "p90": high}


def chip(where: torch.device | str) -> str:
    """What a device is called by those who made it."""
    where = torch.device(where)
    return torch.cuda.get_device_name(where) if where.type == "cuda" else processor()


def processor() -> str:
    """The CPU's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return next(iter(names), platform.processor() or platform.machine())


@torch.inference_mode()
def by_layer(
    detector: nn.Module, image: torch.Tensor, runs: int, where: torch.device | str = "cpu"
) -> dict[str, float]:
    """Median milliseconds of each convolution in PyTorch, with its activation; under "" all else. Fused."""
    ready, where = fused(detector, where), torch.device(where)
    image = image.to(where)

    def now() -> float:
        synchronise(where)
        return time.perf_counter()

    convs = [name for name, m in ready.named_modules() if isinstance(m, nn.Conv2d)]
    siblings = defaultdict(list)
    for name in convs:
        siblings[name.rpartition(".")[0]].append(name)
    # Where a module is one convolution and its activation, their time is one.
    watched = {n: p if len(siblings[p := n.rpartition(".")[0]]) == 1 and n.endswith(".conv") else n for n in convs}
    started: dict[str, float] = {}
    times = defaultdict(list)
    for conv, name in watched.items():
        module = ready.get_submodule(name)
        module.register_forward_pre_hook(lambda *_, c=conv: started.__setitem__(c, now()))
        module.register_forward_hook(lambda *_, c=conv: times[c].append((now() - started[c]) * 1e3))
    for _ in range(runs + 1):
        start = now()
        ready(image)
        times[""].append((now() - start) * 1e3)
    found = {name: float(np.median(ms[1:])) for name, ms in times.items()}
    return {**found, "": max(0.0, found[""] - sum(ms for name, ms in found.items() if name))}
