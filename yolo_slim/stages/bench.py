"""Bench: the original and the slim detector in every runtime of this machine, and where FLOPs did not become speed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

import yolo_slim.report as report
from yolo_slim import checkpoint, deploy, measure, record
from yolo_slim.channels import trace
from yolo_slim.config import Complete
from yolo_slim.console import console, track
from yolo_slim.errors import SlimError
from yolo_slim.record import Record
from yolo_slim.runs import BARE
from yolo_slim.runs.bare import with_file
from yolo_slim.runs.stage import lineage, run_stage, slim_weights
from yolo_slim.scratch import Scratch
from yolo_slim.stages.entry import looks_at
from yolo_slim.timing.beside import Started
from yolo_slim.timing.quiet import when_quiet
from yolo_slim.timing.runner import Runner


@looks_at
def bench(config: Complete) -> Record:
    """runs/<name>/bench/bench.json and bench.md."""
    done = with_file(config, lineage(config))
    slim = slim_weights(config, done)
    if slim is None or not {"original", BARE} & done.keys():
        raise SlimError(
            f"nothing slim in {config.folder} to time: run `yolo-slim prune` or `yolo-slim run` first, or give a slim "
            "checkpoint, model=slim.pt"
        )
    whole = {"original": done["original"].output(config.folder / "original")} if "original" in done else {}
    weights = {**whole, "slim": slim}
    chosen = config.bench
    if chosen is None:
        raise SlimError("bench: null leaves this stage out: say how long, e.g. bench.runs=50")
    runtimes = chosen.runtimes or ["torch", *deploy.present()]
    runners = [
        Runner.of(runtime, chosen.threads, config.imgsz, config.device, batch)
        for runtime in runtimes
        for batch in chosen.batches
    ]
    # Another machine, device or version of a runtime gives other times.
    settings = {**chosen.model_dump(), "clocks": [each.conditions for each in runners]}

    def work(folder: Path) -> tuple:
        content = measured_in(config, runners, {name: checkpoint.load(path) for name, path in weights.items()})
        record.write_json(folder / "bench.json", content)
        page = folder / "bench.md"
        record.write_text(page, report.bench_markdown(content))
        for row in report.bench_rows(content):
            console.print("  ".join(f"{name} {cell}" for name, cell in zip(report.BENCH_HEAD, row, strict=True)))
        for line in report.bench_sentences(content):
            console.print(line, markup=False)
        console.print(f"[bold green]bench[/]: {page}")
        return {"json": folder / "bench.json", "page": page}, {"rows": content["rows"]}, {}

    return run_stage(config, "bench", settings, list(weights.values()), work)


def measured_in(config: Complete, runners: list[Runner], detectors: dict[str, nn.Module]) -> dict[str, Any]:
    """The content of bench.json."""
    chosen, rows, layers = config.bench, [], {}
    assert chosen is not None, "the stage has refused"
    for runner in track(runners, "bench"):
        with Scratch() as folder:
            try:
                ready = _ready(detectors, runner, Path(folder))
            except Exception as e:  # each runtime has errors of its own
                if chosen.runtimes:
                    raise SlimError(f"bench.runtimes: {runner.name}, batch {runner.batch}: {e}") from e
                console.print(f"bench: {runner.name}, batch {runner.batch}, left out: {e}", markup=False)
                continue
            times = when_quiet({name: run for name, (run, _) in ready.items()}, chosen.runs)
            for name, ms in times.items():
                row = {"runtime": runner.name, "threads": runner.threads, "batch": runner.batch, "stage": name}
                row |= {"version": runner.version, "device": measure.chip(runner.where)}
                rows.append({**row, "latency_ms": measure.spread(ms)})
            if "original" in detectors and runner.sees_layers and runner.batch == chosen.batches[0]:
                layers[runner.name] = by_layer(
                    detectors, {n: inside() for n, (_, inside) in ready.items()}, config.imgsz
                )
    return {
        "name": config.name,
        "imgsz": config.imgsz,
        "runs": chosen.runs,
        "flops": {name: measure.cost(detector, config.imgsz).flops for name, detector in detectors.items()},
        "rows": rows,
        "layers": layers,
        "versions": record.versions(),
    }


def _ready(detectors: dict[str, nn.Module], runner: Runner, folder: Path) -> dict[str, Started]:
    """Each detector, started and run once."""
    ready = {}
    for name, detector in detectors.items():
        (folder / name).mkdir()
        ready[name] = runner.start(detector, folder / name)
        ready[name][0]()
    return ready


def by_layer(detectors: dict[str, nn.Module], times: dict[str, dict[str, float]], imgsz: int) -> list[dict[str, Any]]:
    """Every convolution of the original: its MACs and milliseconds before and after; 0 where it is gone."""
    macs = {
        name: {conv.name: conv.macs for conv in trace(detector, imgsz).convs.values()}
        for name, detector in detectors.items()
    }
    whole = macs["original"]
    after = {name: gathered(found["slim"], whole) for name, found in (("macs", macs), ("ms", times))}
    return [
        {
            "layer": layer,
            "macs_before": before,
            "macs_after": after["macs"].get(layer, 0),
            "before_ms": times["original"].get(layer, 0.0),
            "after_ms": after["ms"].get(layer, 0.0),
        }
        for layer, before in whole.items()
    ]


def gathered(slim: dict[str, Any], whole: Iterable[str]) -> dict[str, Any]:
    """Figures of layers by those of the original; of several in the place of one (factors of it), the sum."""
    places = {layer.removesuffix(".conv") + ".": layer for layer in whole}
    found: dict[str, Any] = {}
    for name, figure in slim.items():
        within = [place for place in places if name.startswith(place)]
        layer = name if name in places.values() or not within else places[max(within, key=len)]
        found[layer] = found.get(layer, 0) + figure
    return found
