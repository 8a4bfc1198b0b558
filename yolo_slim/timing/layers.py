"""The time that each layer takes in a runtime, measured once for a detector and kept beside the runs.

Detectors of random widths are cut from it, exported and timed in turn with it: what counts is the share of its time,
which a machine that slows down meanwhile leaves as it is.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import nn

from yolo_slim import record
from yolo_slim.channels import Costs, LayerTable, Trace, cut, fit_layers, trace
from yolo_slim.console import console
from yolo_slim.errors import SlimError, why
from yolo_slim.runs.locks import shared
from yolo_slim.timing.beside import Comparator
from yolo_slim.timing.runner import Runner

FORMAT = 5
"""Of the files that tables are kept in, and of how they are measured: one of another format is measured anew."""


def layer_table(detector: nn.Module, runner: Runner, folder: Path, *, samples: int, runs: int) -> LayerTable:
    """The table of layers that a latency target goes by, measured now if it is not kept yet.

    Args:
        detector: the original, before any cut.
        runner: what it is timed in.
        folder: where tables are kept.
        samples: detectors of random widths that are timed for it.
        runs: images of each.

    Raises:
        SlimError: the runtime is not installed, or the detector cannot be exported.
    """
    wiring = trace(detector, runner.imgsz)
    made_of = {"format": FORMAT, **runner.conditions, "detector": _shape(wiring), "samples": samples, "runs": runs}
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
    file = folder / f"{runner.runtime}-{runner.imgsz}px-{key}.json"
    if file.exists():
        try:
            return read(file)
        except SlimError as e:
            console.print(f"{e}: measured anew", markup=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise SlimError(f"cannot write to {folder}: {why(e, folder)}") from e
    table, baseline = measured_table(detector, wiring, runner, samples=samples, runs=runs)
    with shared(folder):
        record.write_json(file, {**made_of, "baseline_ms": baseline, **asdict(table)})
    console.print(
        f"latency of layers in {runner.runtime}, {runner.threads} threads: kept in {file} "
        f"(on {runner.where}, {made_of['device']})"
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


def measured_table(
    detector: nn.Module, wiring: Trace, runner: Runner, *, samples: int, runs: int
) -> tuple[LayerTable, float]:
    """Now: the table in milliseconds, and what the detector as it is takes."""
    keeps = random_widths(wiring, samples)
    beside = comparator(detector, wiring, runner, runs, layers=True)
    slims = [functools.partial(slimmed, detector, wiring, widths) for widths in keeps[1:]]
    found = beside.many([lambda: detector, *slims], f"latency of layers, {runner.runtime}")
    found[0] = replace(found[0], share=1.0)
    baseline = float(np.median([each.whole for each in found]))
    # A profiled run takes longer than others: of it only the shares of the layers are taken.
    scaled = [
        {name: ms * each.share * baseline / sum(each.layers.values()) for name, ms in each.layers.items()}
        for each in found
    ]
    return fit_layers(wiring, keeps, scaled), baseline


def comparator(detector: nn.Module, wiring: Trace, runner: Runner, runs: int, *, layers: bool = False) -> Comparator:
    """Of detectors with this one, `runs` images each; `layers`: each layer's milliseconds as well."""
    return Comparator(detector, narrowed(detector, wiring), runner.start, runs, layers=layers)


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
