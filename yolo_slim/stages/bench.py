"""Bench: the original and the slim detector in every runtime of this machine, and where FLOPs did not become speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import track
from torch import nn

from yolo_slim import checkpoint, deploy, measure, record, report
from yolo_slim.channels import trace
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.record import Record
from yolo_slim.runs.stage import lineage, run_stage, slim_weights
from yolo_slim.scratch import Scratch
from yolo_slim.stages.entry import continues
from yolo_slim.timing.clock import Clock, Started, clock


@continues
def bench(config: Complete) -> Record:
    """runs/<name>/bench/bench.json and bench.md."""
    done = lineage(config)
    slim = slim_weights(config, done)
    if slim is None or "original" not in done:
        raise SlimError(f"nothing slim in {config.folder} to compare: run `yolo-slim prune` or `yolo-slim run` first")
    weights = {"original": done["original"].output(config.folder / "original"), "slim": slim}
    chosen = config.bench
    if chosen is None:
        raise SlimError("bench: null leaves this stage out: say how long, e.g. bench.runs=50")
    runtimes = chosen.runtimes or ["torch", *deploy.present()]
    clocks = [clock(config, runtime, chosen.threads, batch) for runtime in runtimes for batch in chosen.batches]
    # Another machine, device or version of a runtime gives other times.
    settings = {**chosen.model_dump(), "clocks": [each.conditions for each in clocks]}

    def work(folder: Path) -> tuple:
        content = measured_in(config, clocks, {name: checkpoint.load(path) for name, path in weights.items()})
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


def measured_in(config: Complete, clocks: list[Clock], detectors: dict[str, nn.Module]) -> dict[str, Any]:
    """The content of bench.json."""
    chosen, rows, layers = config.bench, [], {}
    assert chosen is not None, "the stage has refused"
    for timer in track(clocks, description="bench"):
        with Scratch() as folder:
            try:
                ready = _ready(detectors, timer, Path(folder))
            except Exception as e:  # each runtime has errors of its own
                if chosen.runtimes:
                    raise SlimError(f"bench.runtimes: {timer.name}, batch {timer.batch}: {e}") from e
                console.print(f"bench: {timer.name}, batch {timer.batch}, left out: {e}", markup=False)
                continue
            times = measure.in_turn({name: run for name, (run, _) in ready.items()}, chosen.runs, told=None)
            for name, ms in times.items():
                row = {"runtime": timer.name, "threads": timer.threads, "batch": timer.batch, "stage": name}
                row |= {"version": timer.version, "device": measure.chip(timer.where)}
                rows.append({**row, "latency_ms": measure.spread(ms)})
            if timer.sees_layers and timer.batch == chosen.batches[0]:
                layers[timer.name] = by_layer(
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


def _ready(detectors: dict[str, nn.Module], clock: Clock, folder: Path) -> dict[str, Started]:
    """Each detector, started and run once."""
    ready = {}
    for name, detector in detectors.items():
        (folder / name).mkdir()
        ready[name] = clock.start(detector, folder / name)
        ready[name][0]()
    return ready


def by_layer(detectors: dict[str, nn.Module], times: dict[str, dict[str, float]], imgsz: int) -> list[dict[str, Any]]:
    """Every convolution of the original: its MACs and milliseconds before and after; 0 where it is gone."""
    macs = {
        name: {conv.name: conv.macs for conv in trace(detector, imgsz).convs.values()}
        for name, detector in detectors.items()
    }
    return [
        {
            "layer": layer,
            "macs_before": before,
            "macs_after": macs["slim"].get(layer, 0),
            "before_ms": times["original"].get(layer, 0.0),
            "after_ms": times["slim"].get(layer, 0.0),
        }
        for layer, before in macs["original"].items()
    ]
