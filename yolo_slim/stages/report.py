"""The report: every stage side by side, measured by one evaluator at one setting, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from yolo_slim import checkpoint, record, report
from yolo_slim.channels import trace
from yolo_slim.config import Config
from yolo_slim.errors import SlimError
from yolo_slim.measure import latency
from yolo_slim.record import Record
from yolo_slim.stages.common import console, lineage, measured, run_stage, split_of


def report_stage(config: Config) -> Record:
    """runs/<name>/report/: report.json, report.md, and plots."""
    done = lineage(config)
    if "original" not in done:
        raise SlimError(f"nothing to report in {config.folder}: run a stage first, e.g. `yolo-slim run`")
    weights = {stage: r.output(config.folder / stage) for stage, r in done.items()}
    exported = record.read(config.folder / "export")
    if exported and not set(exported.inputs.values()) & set(done[list(done)[-1]].sums.values()):
        exported = None  # of weights that are no longer the last
    settings = {**config.report.model_dump(), "imgsz": config.imgsz, "export": exported.metrics if exported else None}

    def work(folder: Path) -> tuple:
        content = gather(config, weights, done)
        content["export"] = exported.metrics if exported else None
        record.write_json(folder / "report.json", content)
        plots = report.draw(content, folder)
        page = folder / "report.md"
        record.write_text(page, report.markdown(content, [p.name for p in plots]))
        console.print(report.summary(content))
        console.print(f"[bold green]report[/]: {page}")
        outputs = {"json": folder / "report.json", "page": page, **{p.stem: p for p in plots}}
        return outputs, {"rows": content["rows"]}, {}

    return run_stage(config, "report", settings, list(weights.values()), work)


def gather(config: Config, weights: dict[str, Path], done: dict[str, Record]) -> dict[str, Any]:
    """The content of report.json."""
    detectors = {stage: checkpoint.load(path) for stage, path in weights.items()}
    times, conditions = latency(detectors, config.imgsz, config.device.split(",")[0], config.report.latency_runs)
    rows = [
        {"stage": stage, "weights": str(path), **measured(config, path), "latency_ms": times[stage]}
        for stage, path in weights.items()
    ]
    for row in rows:
        of = done[row["stage"]]
        if epochs := of.settings.get("epochs") or of.details.get("epochs"):  # details: trained between rounds
            row["train_epochs"] = epochs
    before = detectors["original"]
    return {
        "name": config.name,
        "data": config.data,
        "split": split_of(config) if config.data else None,
        "imgsz": config.imgsz,
        "measured_on": conditions,
        "rows": rows,
        "widths": done["pruned"].details["widths"] if "pruned" in done else [],
        "iterations": done["pruned"].details.get("iterations") if "pruned" in done else None,
        "scales": {"before": _scales(before), "after": _scales(detectors["sparse"])} if "sparse" in done else None,
        "sparsity": done["sparse"].details["sparsity"] if "sparse" in done else [],
        "versions": record.versions(),
    }


def _scales(detector: torch.nn.Module) -> list[float]:
    """|gamma| of every batch norm whose channels may be removed."""
    wiring = trace(detector, 64 if int(detector.stride.max()) <= 32 else 128)
    names = dict.fromkeys(n for g in wiring.free for n in g.norms)
    return [round(float(v), 5) for n in names for v in detector.get_submodule(n).weight.detach().abs()]
