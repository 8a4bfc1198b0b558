"""One point of a sweep: cut, recover, measure, in whatever process it is sent to; its record is written last."""

from __future__ import annotations

import io
import json
import os
import platform
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from yolo_slim import checkpoint, record
from yolo_slim.channels import trace
from yolo_slim.config import RECOVERIES, Complete
from yolo_slim.data import yaml_of
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence
from yolo_slim.pruning.choose import evidence_from, findings, judge, sources
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import check_device, sums_of


@dataclass(frozen=True)
class Point:
    """All that a process elsewhere needs. It sees the same disk: paths hold from the folder `home`."""

    key: str  # names its files
    config: Complete  # with the point's own `prune:` section
    weights: Path  # what is cut
    folder: Path  # where <key>.json and <key>.pt go
    home: Path  # working directory
    threads: int
    scan: Path | None = None  # what prune.solver=sensitivity goes by
    cell: dict[str, Any] = field(default_factory=dict)  # criterion, recovery, flops_asked; none: the original

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the outcome, as it is read back from the record."""
        prune = {**self.config.prune.model_dump(), **self.config.timing} if self.cell else None
        split = self.config.report.split
        return json.loads(json.dumps({"prune": prune, "imgsz": self.config.imgsz, "split": split}))

    @property
    def inputs(self) -> dict[str, str]:
        """What went in, with its sha256."""
        data, own = yaml_of(self.config.data), sources(self.cell.get("criterion"))
        return sums_of([self.weights, *([data] if data else []), *own])

    def finished(self) -> Record | None:
        """Its record, if it was made before with the same settings, inputs and code."""
        return record.unchanged(self.folder, self.key, self.settings, self.inputs, f"{self.key}.json")


def work(point: Point) -> tuple[str, str | None]:
    """`make` in a process that does nothing else."""
    os.chdir(point.home)
    torch.set_num_threads(point.threads)
    return make(point)


def make(point: Point) -> tuple[str, str | None]:
    """Make and measure a point: its key and, where it cannot be made, why."""
    start = time.time()
    try:
        check_device(point.config.device)  # a cluster's node may have another
        weights, details = _cut(point) if point.cell else (point.weights, {})
        metrics = measured(point.config, weights)
    except SlimError as e:
        return point.key, str(e)
    outputs = {"weights": weights} if point.cell else {}
    done = Record(
        point.key,
        point.settings,
        point.inputs,
        {name: path.name for name, path in outputs.items()},
        {name: record.sha256(path) for name, path in outputs.items()},
        dict(metrics),
        round(time.time() - start, 1),
        record.versions(),
        {**details, "process": f"{platform.node()}:{os.getpid()}"},
    )
    record.write(point.folder, done, f"{point.key}.json")
    return point.key, None


def _cut(point: Point) -> tuple[Path, dict[str, Any]]:
    config = point.config
    detector = checkpoint.load(point.weights)
    evidence = evidence_from(config, detector)
    scores = partial(_scores, point, detector, evidence)
    found = replace(findings(config, detector, point.scan, timed=False), scores=scores)
    result = cut_to_plan(detector, config.prune, config.imgsz, evidence, found=found)
    weights = checkpoint.save(result.model, point.folder / f"{point.key}.pt")
    return weights, {"asked": result.cost.asked, "achieved": result.cost.achieved}


def file_name(criterion: str) -> str:
    """A criterion as part of the name of a file."""
    return criterion.replace(":", ".")


def _scores(point: Point, detector: nn.Module, evidence: Evidence) -> dict[str, np.ndarray]:
    """What the criterion says: the same for each of its points, so the first that has it leaves it for the others."""
    name, folder = file_name(point.cell["criterion"]), point.folder / "scores"
    own = {"target", "ratio", *(name for recovery in RECOVERIES.values() for name in recovery)}
    prune = {key: value for key, value in point.config.prune.model_dump(mode="json").items() if key not in own}
    settings = {"prune": prune, "imgsz": point.config.imgsz}
    if known := record.unchanged(folder, name, settings, point.inputs, f"{name}.json"):
        with np.load(known.output(folder, "scores")) as scores:
            return dict(scores)
    start = time.time()
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.npz"
    scores = judge(detector, trace(detector, point.config.imgsz), point.config.prune, evidence)
    content = io.BytesIO()
    np.savez(content, **scores)  # type: ignore[arg-type]
    record.write_bytes(file, content.getvalue())
    outputs, sums = {"scores": file.name}, {"scores": record.sha256(file)}
    seconds, versions = round(time.time() - start, 1), record.versions()
    record.write(folder, Record(name, settings, point.inputs, outputs, sums, {}, seconds, versions), f"{name}.json")
    return scores
