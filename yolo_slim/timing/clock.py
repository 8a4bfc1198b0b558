"""The time that each layer takes in a runtime, measured once for a detector and kept beside the runs.

Detectors of random widths are cut from it, exported and timed in turn with it: what counts is the share of its time,
which a machine that slows down meanwhile leaves as it is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from yolo_slim import checkpoint, deploy, measure, record
from yolo_slim.channels import Costs, LayerTable, Trace, cut, fit_layers, image_channels, trace
from yolo_slim.config import Complete, Latency
from yolo_slim.console import console, quietly, unheard
from yolo_slim.errors import SlimError, why
from yolo_slim.runs.locks import shared
from yolo_slim.timing.turns import Started, Timer

PROFILED = 8
"""Runs in which the layers of one detector are timed."""

FORMAT = 5
"""Of the files that tables are kept in, and of how they are measured: one of another format is measured anew."""


@dataclass(frozen=True)
class Clock:
    """A runtime on this machine: PyTorch on any device, the others on the CPU."""

    runtime: str
    threads: int
    imgsz: int
    batch: int = 1
    where: str = "cpu"

    @property
    def name(self) -> str:
        """Of the runtime, with its device where that is not the CPU."""
        return self.runtime if self.where == "cpu" else f"{self.runtime} on {self.where}"

    @property
    def sees_layers(self) -> bool:
        """Whether the runtime tells what its layers take."""
        return self.runtime == "torch" or deploy.RUNTIMES[self.runtime].layers is not None

    def start(self, detector: nn.Module, folder: Path) -> Started:
        """Make a detector ready: what runs it on an image, and where it sees layers, what tells their milliseconds."""
        image = torch.rand(self.batch, image_channels(detector, self.imgsz), self.imgsz, self.imgsz)
        if self.runtime == "torch":
            torch.set_num_threads(self.threads)
            ready = measure.runner(detector, image, self.where)
            return ready, lambda: measure.by_layer(detector, image, PROFILED, self.where)
        weights, runtime = checkpoint.save(detector, folder / "timed.pt"), deploy.RUNTIMES[self.runtime]
        arguments: dict[str, Any] = {"batch": self.batch} if "batch" in deploy.taken(runtime.format) else {}
        file = folder / f"timed{deploy.suffix(runtime.format)}"
        with quietly(), unheard():
            deploy.export_file(weights, file, self.imgsz, runtime.format, **arguments)
        run, array = deploy.opened(file, self.runtime, self.threads), image.numpy()
        names = [name for name, m in detector.named_modules() if isinstance(m, nn.Conv2d)]

        def layers() -> dict[str, float]:
            assert runtime.layers is not None, "asked of clocks that see layers alone"
            return deploy.by_layer(runtime.layers(file, self.threads, array, PROFILED), names)

        return lambda: run(array), layers

    def timer(self, detector: nn.Module, wiring: Trace, runs: int, *, layers: bool = False) -> Timer:
        """Of detectors in turn with this one, `runs` images each; `layers`: each layer's milliseconds as well."""
        return Timer(detector, narrowed(detector, wiring), self.start, runs, layers=layers)

    @property
    def version(self) -> str:
        """Of the runtime."""
        return torch.__version__ if self.runtime == "torch" else deploy.version_of(self.runtime)

    @property
    def conditions(self) -> dict[str, Any]:
        """All besides the detector that decides how long it takes."""
        return {**asdict(self), "version": self.version, "device": measure.chip(self.where)}


def clock(config: Complete, runtime: str, threads: int | None, batch: int = 1) -> Clock:
    """A runtime with the run's image size, and for PyTorch its device; as many threads as there are cores, if none."""
    where = str(measure.place(config.device)) if runtime == "torch" else "cpu"
    return Clock(runtime, threads or os.cpu_count() or 1, config.imgsz, batch, where)


def clock_of(config: Complete) -> Clock:
    """What `latency:` asks for."""
    return clock(config, config.latency.runtime, config.latency.threads)


def timing(config: Complete) -> dict[str, Any]:
    """The settings that decide what a latency target is measured with; none where there is no such target."""
    target = config.prune.target
    return {"latency": config.latency.model_dump()} if target and target.timed else {}


def layer_table(config: Complete, detector: nn.Module) -> LayerTable | None:
    """The table that a latency target needs, measured now if it is not there; None: no latency is asked for.

    Args:
        config: of the run.
        detector: the original, before any cut.

    Raises:
        SlimError: the runtime is not installed, or the detector cannot be exported.
    """
    if not timing(config):
        return None
    clock, wiring = clock_of(config), trace(detector, config.imgsz)
    made_of = {"format": FORMAT, **clock.conditions, "detector": _shape(wiring)}
    made_of |= config.latency.model_dump(include={"samples", "runs"})
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
    file = Path(config.runs) / "latency" / f"{clock.runtime}-{config.imgsz}px-{key}.json"
    if file.exists():
        try:
            return read(file)
        except SlimError as e:
            console.print(f"{e}: measured anew", markup=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise SlimError(f"cannot write to {file.parent}: {why(e, file.parent)}") from e
    table, baseline = timed(detector, wiring, clock, config.latency)
    with shared(file.parent):
        record.write_json(file, {**made_of, "baseline_ms": baseline, **asdict(table)})
    console.print(
        f"latency of layers in {clock.runtime}, {clock.threads} threads: kept in {file} "
        f"(on {clock.where}, {made_of['device']})"
    )
    return table


def read(file: Path) -> LayerTable:
    """A table that was kept.

    Raises:
        SlimError: the file is damaged.
    """
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        layers = {name: tuple(map(float, row)) for name, row in kept["layers"].items()}
        return LayerTable(int(kept["block"]), int(kept["align"]), layers, tuple(map(float, kept["rest"])))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise SlimError(f"{file} holds no table of layers ({type(e).__name__}: {e})") from e


def timed(detector: nn.Module, wiring: Trace, clock: Clock, chosen: Latency) -> tuple[LayerTable, float]:
    """Measure: the table in milliseconds, and what the detector as it is takes."""
    keeps = random_widths(wiring, chosen.samples)
    timer = clock.timer(detector, wiring, chosen.runs, layers=True)
    slims = [functools.partial(slimmed, detector, wiring, widths) for widths in keeps[1:]]
    turns = timer.many([lambda: detector, *slims], f"latency of layers, {clock.runtime}")
    turns[0] = replace(turns[0], share=1.0)
    baseline = float(np.median([each.whole for each in turns]))
    # A profiled run takes longer than others: of it only the shares of the layers are taken.
    scaled = [
        {name: ms * each.share * baseline / sum(each.layers.values()) for name, ms in each.layers.items()}
        for each in turns
    ]
    return fit_layers(wiring, keeps, scaled), baseline


def slimmed(detector: nn.Module, wiring: Trace, widths: np.ndarray) -> nn.Module:
    """Cut to widths (groups,), whichever channels go."""
    kept = np.ones(wiring.n_channels, bool)
    for group, width in zip(wiring.groups, widths, strict=True):
        kept[group.channels[width:]] = False
    return cut(detector, wiring, kept)


def narrowed(detector: nn.Module, wiring: Trace) -> nn.Module:
    """Cut to a quarter of its widths: quick, and the first to tell that a machine is slow."""
    quarter = [g.size if g.reason else max(g.size // 4, min(g.size, 8)) for g in wiring.groups]
    return slimmed(detector, wiring, np.array(quarter))


def random_widths(wiring: Trace, samples: int, seed: int = 0) -> np.ndarray:
    """(samples, groups): the first is whole; in the others half of the widths are multiples of 16, others anything."""
    rng = np.random.default_rng(seed)
    full = Costs(wiring).full
    free = np.array([group.reason is None for group in wiring.groups])
    keeps = [full]
    for share in np.linspace(0.9, 0.15, samples - 1):
        drawn = full * np.clip(share * rng.uniform(0.6, 1.6, len(full)), 0.05, 1.0)
        step = rng.choice([16, 16, 8, 1], len(full))
        keeps.append(np.where(free, np.clip(np.ceil(drawn / step) * step, 1, full), full).astype(int))
    return np.stack(keeps)


def _shape(wiring: Trace) -> str:
    """What identifies a detector's layers, whatever its weights."""
    layers = [[c.name, len(c.inputs), len(c.outputs), c.groups, c.kernel, c.positions] for c in wiring.convs.values()]
    return hashlib.sha256(json.dumps(layers, default=float).encode()).hexdigest()[:12]
