"""The report: every stage side by side, measured by one evaluator at one setting, in one run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import yolo_slim.report as report
from yolo_slim import checkpoint, record
from yolo_slim.channels import trace
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.record import Record
from yolo_slim.row import Row, Timing
from yolo_slim.runs import BARE
from yolo_slim.runs.bare import with_file
from yolo_slim.runs.lineage import story, told
from yolo_slim.runs.rows import row_of, split_of
from yolo_slim.runs.stage import lineage, run_stage
from yolo_slim.stages.device import compared, device_of
from yolo_slim.stages.entry import looks_at
from yolo_slim.stages.export import FOUND
from yolo_slim.stages.labels import val_labelled
from yolo_slim.stages.pictures import pictures
from yolo_slim.text import tidy
from yolo_slim.timing.quiet import latency

CURVES = ("epoch", "metrics/mAP50(B)", "metrics/mAP50-95(B)")
"""What is kept of results.csv, besides the losses; without labels on val, only the first of them was measured."""


@looks_at
def report_stage(config: Complete) -> Record:
    """runs/<name>/report/: report.json, report.md, report.html, plots and pictures."""
    done = with_steps(config, with_file(config, lineage(config)))
    if "original" not in done and BARE not in done:
        raise SlimError(f"nothing to report in {config.folder}: run a stage first, e.g. `yolo-slim run`")
    weights = {stage: r.output(config.folder / stage) for stage, r in done.items()}
    beside = {stage: _beside(config, stage, done) for stage in ("export", "sweep", "bench")}
    exported = _failed_export(config, done) or (beside["export"].metrics if beside["export"] else None)
    left_out = story(config.folder)[1]
    device = device_of(config, done)
    beside_it = {"imgsz": config.imgsz, "export": exported, "left_out": left_out, "device": device}
    settings = {**config.report.model_dump(), **beside_it}
    files = {
        name: done_too.output(config.folder / name, "json") for name in ("sweep", "bench") if (done_too := beside[name])
    }

    def work(folder: Path) -> tuple:
        read = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
        bench = read.get("bench")
        content = gather(config, weights, done, bench if bench and bench["rows"] else None)
        content |= {"export": exported, "left_out": left_out, "sweep": read.get("sweep")}
        small: dict[str, bytes] = {}
        content["pictures"] = None
        if config.data and len(weights) > 1:
            content["pictures"], small = pictures(config, *(list(weights.values())[i] for i in (0, -1)))
        content |= {"verdict": report.verdict(content), "changes": report.changes(content)}
        content |= {"advice": report.advice(content)}
        outputs = _write(folder, content, small)
        for line in (report.summary(content), *report.warnings(content)):
            console.print(line, markup=False)
        console.print(f"[bold green]report[/]: {outputs['html']}, {outputs['page']}")
        return outputs, {"rows": content["rows"]}, {}

    return run_stage(config, "report", settings, [*weights.values(), *files.values()], work)


def with_steps(config: Complete, done: dict[str, Record]) -> dict[str, Record]:
    """The stages of a run, and before one that takes several steps all of these but the last, which it is itself."""
    found: dict[str, Record] = {}
    for stage, each in done.items():
        for name in each.details.get("steps", [])[:-1] if stage in ("reshaped", "compressed") else []:
            if Path(str(name)).parts[:1] == (stage,) and (step := record.read(config.folder / name)):
                found[name] = step
        found[stage] = each
    return found


def _write(folder: Path, content: dict[str, Any], small: dict[str, bytes]) -> dict[str, Path]:
    """report.json, what it refers to, and the pages that are made of both."""
    outputs = {"json": folder / "report.json", "page": folder / "report.md", "html": folder / "report.html"}
    record.write_json(outputs["json"], content)
    shutil.rmtree(folder / "images", ignore_errors=True)  # of an earlier report
    (folder / "images").mkdir()
    for name, jpeg in small.items():
        record.write_bytes(folder / name, jpeg)
    shown = tidy(content)  # names of classes and files come from files
    plots = report.draw(shown, folder)
    record.write_text(outputs["html"], report.page(shown, folder))
    record.write_text(outputs["page"], report.markdown(shown, [p.name for p in plots]))
    return outputs | {p.stem: p for p in plots}


def _beside(config: Complete, stage: str, done: dict[str, Record]) -> Record | None:
    """A stage that is no row: its record, unless it was made from weights that are no longer there."""
    found = record.read(config.folder / stage)
    source = "original" if stage == "sweep" else list(done)[-1]
    if source not in done:
        return None
    return found if found and done[source].sums["weights"] in found.inputs.values() else None


def _failed_export(config: Complete, done: dict[str, Record]) -> dict[str, Any] | None:
    """What an export of the last weights has found, and what was wrong with it: it has no record of its own."""
    found = record.read_json(config.folder / "export" / FOUND)
    if not isinstance(found, dict) or not found.keys() >= {"weights", "files", "wrong"} or not found["wrong"]:
        return None
    of_these = found["weights"] == done[list(done)[-1]].sums["weights"]
    return {"files": found["files"], "wrong": found["wrong"]} if of_these else None


def gather(
    config: Complete, weights: dict[str, Path], done: dict[str, Record], bench: dict[str, Any] | None
) -> dict[str, Any]:
    """The content of report.json, but for what other stages have found."""
    detectors = {stage: checkpoint.load(path) for stage, path in weights.items()}
    split = split_of(config) if config.data else None
    times, conditions = timed(config, detectors, bench)
    rows: list[Row] = [
        {
            "stage": stage,
            "weights": str(path),
            **row_of(config, done[stage], path, split),
            "latency_ms": times.get(stage),
        }
        for stage, path in weights.items()
    ]
    for row in rows:
        of = done[row["stage"]]
        if epochs := of.settings.get("epochs") or of.details.get("epochs"):  # details: trained between rounds
            row["train_epochs"] = epochs
    keys = CURVES if val_labelled(config) else CURVES[:1]
    return {
        "name": config.name,
        "data": config.data,
        "split": split,
        "imgsz": config.imgsz,
        "measured_on": conditions,
        "device": compared(device, detectors, config.imgsz) if (device := device_of(config, done)) else None,
        "rows": rows,
        "bench": bench,
        "lineage": told(done, config.folder),
        "widths": done["pruned"].details["widths"] if "pruned" in done else [],
        "iterations": done["pruned"].details.get("iterations") if "pruned" in done else None,
        "scales": {"before": _scales(detectors["original"]), "after": _scales(detectors["sparse"])}
        if "sparse" in done
        else None,
        "sparsity": done["sparse"].details["sparsity"] if "sparse" in done else [],
        "training": {
            stage: log for stage in done if (log := _curves(config.folder / stage / "train/results.csv", keys))
        },
        "versions": record.versions(),
    }


def timed(
    config: Complete, detectors: dict[str, Detector], bench: dict[str, Any] | None
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Milliseconds by stage, and what they were measured on: one runtime, and one protocol, wherever they are told.

    Of a benchmark it is the first and the last of the stages, which it has timed; without one, all of them in PyTorch.
    """
    if found := report.chosen(bench) if bench else None:
        (before, after), on = found
        return {**dict.fromkeys(list(detectors)[-1:], after), **dict.fromkeys(list(detectors)[:1], before)}, on
    return latency(detectors, config.imgsz, config.device.split(",")[0], config.report.latency_runs)


def _curves(file: Path, keys: tuple[str, ...]) -> list[dict[str, float]]:
    """Ultralytics' results.csv, an entry an epoch: these columns, and the losses; none of a file that is damaged."""
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            lines = [{key.strip(): value for key, value in line.items()} for line in csv.DictReader(opened)]
        return [{k: float(v) for k, v in line.items() if k in keys or k.endswith("_loss")} for line in lines]
    except (OSError, ValueError, TypeError, AttributeError, csv.Error):
        return []


def _before_and_after(detectors: dict[str, Detector]) -> dict[str, list[float]]:
    return {"before": _scales(detectors["original"]), "after": _scales(detectors["sparse"])}


def _scales(detector: Detector) -> list[float]:
    """|gamma| of every batch norm whose channels may be removed."""
    wiring = trace(detector, 64 if int(detector.stride.max()) <= 32 else 128)
    names = dict.fromkeys(n for g in wiring.free for n in g.norms)
    found = (wiring.norms[name].layer(detector).weight for name in names)
    return [round(float(v), 5) for weight in found if weight is not None for v in weight.detach().abs()]
