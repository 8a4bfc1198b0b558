"""Sweep: criterion x target x recovery without training, to see where accuracy falls off and what to ask for."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

import yolo_slim.report as report
from yolo_slim import checkpoint, record
from yolo_slim.config import RECOVERIES, Complete, Prune, Target, section, words
from yolo_slim.console import Terminal, console, track
from yolo_slim.data.batches import Batches
from yolo_slim.errors import SlimError
from yolo_slim.importance import criterion_of
from yolo_slim.pruning.choose import findings, sources
from yolo_slim.record import Record
from yolo_slim.runs.identity import free_name
from yolo_slim.runs.stage import check_device, run_stage
from yolo_slim.stages.entry import begins
from yolo_slim.stages.labels import check_labels
from yolo_slim.stages.original import original
from yolo_slim.stages.sensitivity import SCAN, scan_of
from yolo_slim.sweeping.executors import executor, make_all
from yolo_slim.sweeping.point import Point, file_name, make
from yolo_slim.text import tidy
from yolo_slim.timing.quiet import latency

SCANS = "sweep/scans"
"""In the run's folder: a scan for each criterion, which decides who goes first in a group."""

PIPED_WIDTH = 120  # columns, when nobody's terminal says how many there are


@begins
def sweep(config: Complete) -> Record:
    """runs/<name>/sweep/: sweep.json, sweep.md, sweep.svg, and a file for each point that is kept over a kill."""
    _check(config)
    start = original(config).output(config.folder / "original")
    points = grid(config, start)
    settings = {
        "points": {point.key: point.settings for point in points},
        "drop": config.sweep.drop,
        "latency_runs": config.report.latency_runs,
    }

    def work(folder: Path) -> tuple:
        (folder / "points").mkdir(exist_ok=True)
        failed = _make(config, points, folder)
        content = gather(config, points, failed)
        record.write_json(folder / "sweep.json", content)
        plots = report.draw(tidy(content), folder, {"sweep.svg": report.sweep_plot})
        page = folder / "sweep.md"
        record.write_text(page, report.sweep_markdown(content, [p.name for p in plots]))
        outputs = {"json": folder / "sweep.json", "page": page, **{p.stem: p for p in plots}}
        return outputs, {"rows": content["rows"], "recommended": content["recommended"]}, {}

    done = run_stage(config, "sweep", settings, [start, *sources(*config.sweep.criteria)], work)
    _tell(json.loads(done.output(config.folder / "sweep", "json").read_text(encoding="utf-8")))
    console.print(f"[bold green]sweep[/]: {done.output(config.folder / 'sweep', 'page')}")
    return done


def _check(config: Complete) -> None:
    """What is wrong with the settings shows before anything runs."""
    check_device(config.device)
    if not config.data:
        raise SlimError("a sweep measures every point on the val split: give data=path/to/data.yaml")
    for name in config.sweep.criteria:
        criterion_of(name, "sweep.criteria")
    executor(config.sweep, 1, Path(), config.device)  # is it installed?
    check_labels(config, "a sweep compares detectors by mAP")


def grid(config: Complete, weights: Path) -> list[Point]:
    """The original, then every point: the user's `prune:` section with criterion, target and recovery replaced."""
    chosen = config.sweep
    val = config.model_copy(update={"report": config.report.model_copy(update={"split": "val"})})
    threads = max(1, (os.cpu_count() or 1) // chosen.workers)
    original = Point("original", val, weights, config.folder / "sweep" / "points", Path.cwd(), threads)
    points = [original]
    shares = sorted(set(chosen.flops), reverse=True)
    for criterion, recovery, share in product(dict.fromkeys(chosen.criteria), dict.fromkeys(chosen.recovery), shares):
        own = val.model_copy(update={"prune": section_of(config.prune, criterion, share, recovery)})
        cell = {"criterion": criterion, "recovery": recovery, "flops_asked": share}
        scan = config.folder / SCANS / file_name(criterion) / SCAN if own.prune.solver == "sensitivity" else None
        key = f"{file_name(criterion)}-x{share:g}-{recovery}"
        points.append(replace(original, key=key, config=own, scan=scan, cell=cell))
    return points


def section_of(prune: Prune, criterion: str, share: float, recovery: str) -> Prune:
    """The `prune:` section of a point."""
    target = (prune.target or Target()).model_copy(update={"flops": share})
    images = prune.recalibrate or None  # who prunes without recalibration may still ask what it would bring
    scan = prune.sensitivity.model_copy(update={"tolerance": None})  # it would be a budget of its own
    replaced = {"criterion": criterion, "ratio": None, "target": target, "sensitivity": scan, "recalibrate": images}
    replaced |= RECOVERIES[recovery]
    return prune.model_copy(update=replaced)


def _make(config: Complete, points: list[Point], folder: Path) -> dict[str, str]:
    """Make what is not there yet; key -> why, of the points that cannot be made."""
    missing = [point for point in points if not point.finished()]
    if len(missing) < len(points):
        console.print(f"{len(points) - len(missing)} of {len(points)} points were made before")
    if missing and not missing[0].cell:
        _, why = make(missing.pop(0))
        if why:
            raise SlimError(why)
    if not missing:
        return {}
    for name, first in {point.cell["criterion"]: point for point in missing}.items():
        if first.scan:
            scan_of(first.config, first.weights, f"{SCANS}/{file_name(name)}")
    for split in ("train", "val"):  # Ultralytics' label caches, which processes must not write at the same time
        _ = Batches(config.dataset, config.imgsz, 1, split=split).items
    findings(missing[0].config, checkpoint.load(missing[0].weights), timed=False)  # once, and with nothing beside it
    where = executor(config.sweep, missing[0].threads, folder / "workers.log", config.device)
    # A criterion's first point leaves its scores to the others: all criteria at once, then the next target.
    missing.sort(key=lambda point: -point.cell["flops_asked"])
    told = track(make_all(missing, where), "points", len(missing))
    failed = {key: why for key, why in told if why}
    if len(failed) == len(points) - 1:
        raise SlimError(f"no point of the sweep can be made: {next(iter(failed.values()))}")
    return failed


def gather(config: Complete, points: list[Point], failed: dict[str, str]) -> dict[str, Any]:
    """The content of sweep.json."""
    found = {point.key: point.finished() for point in points if point.key not in failed}
    made = {key: done for key, done in found.items() if done is not None}
    if lost := [key for key in found if key not in made]:
        raise SlimError(
            f"points were made, but their files are not in {points[0].folder}: {', '.join(lost)}. "
            "The nodes of a cluster must write to the same disk"
        )
    files = {p.key: made[p.key].output(p.folder) if p.cell else p.weights for p in points if p.key in made}
    detectors = {key: checkpoint.load(path) for key, path in files.items()}
    times, conditions = latency(detectors, config.imgsz, config.device.split(",")[0], config.report.latency_runs)
    rows = []
    for point in points:
        row = {**point.cell, "error": failed.get(point.key)}
        if done := made.get(point.key):
            row |= {"flops_achieved": done.details["achieved"]["flops"]} if point.cell else {}
            row |= {"weights": str(files[point.key]), **done.metrics}
            row |= {"latency_ms": times[point.key], "seconds": done.seconds}
        rows.append(row)
    content: dict[str, Any] = {
        "name": config.name,
        "data": config.data,
        "split": "val",
        "imgsz": config.imgsz,
        "drop": config.sweep.drop,
        "original": rows[0],
        "rows": rows[1:],
        "measured_on": conditions,
        "versions": record.versions(),
    }
    best = content["recommended"] = report.recommended(content)
    chosen = next(point for point in points if point.cell and point.cell.items() <= best.items())
    content["command"] = command(chosen.config, "prune" if report.stays_within(content, best) else "run")
    return content


def command(config: Complete, stage: str) -> str:
    """What to type for a stage with these settings, on the original: exact, whatever file they came from.

    In a run of a name that is free: what this one has come to stays.
    """
    read = {"original", "prune", "latency"} | (set() if stage == "prune" else {"finetune", "export", "bench"})
    settings = config.model_dump(exclude_defaults=True, exclude={"overwrite"})
    chosen = {key: value for key, value in settings.items() if section([key]) is None or key in read}
    share = config.prune.target and config.prune.target.flops
    name = free_name(Path(config.runs), f"{config.name}-x{share:g}" if share else config.name)
    return shlex.join(["yolo-slim", stage, *words({**chosen, "name": name, "sparse_train": {"epochs": 0}})])


def _tell(content: dict[str, Any]) -> None:
    best = report.recommended(content)
    several = len({row["recovery"] for row in content["rows"]}) > 1
    left_out = {"mAP50", *([] if several else ["recovery"])}  # a terminal may be 80 columns wide; sweep.md has them all
    shown = [i for i, column in enumerate(report.SWEEP_HEAD) if column not in left_out]
    listed = Table(title=f"{content['name']}: without training, on {content['split']}", box=SIMPLE_HEAD, pad_edge=False)
    for i in shown:
        listed.add_column(report.SWEEP_HEAD[i].replace(" ", "\n"), justify="right" if i > 1 else "left", no_wrap=True)
    for row, cells in report.sweep_rows(content):
        listed.add_row(*(cells[i] for i in shown), style="bold green" if row is best else None)
    wide = console if console.is_terminal else Terminal(width=PIPED_WIDTH)
    wide.print(listed)
    then = ("Next:", f"  {content['command']}") if report.tells(content) else ()
    for line in (*report.failures(content), *report.sentences(content), *then):
        console.print(line, markup=False)
