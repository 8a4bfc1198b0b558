"""Sensitivity: how much worse the detector gets when one group of channels alone loses some, without training.

For every group and ratio the channels with the lowest scores are silenced in a copy, and the copy is evaluated
(Li et al., Pruning Filters, ICLR 2017, arXiv:1608.08710, 3.2).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.utils.torch_utils import select_device

import yolo_slim.report as report
from yolo_slim import checkpoint, record
from yolo_slim.channels import Group, Trace, masked, trace
from yolo_slim.config import SCORING, Complete
from yolo_slim.console import console, quietly, track
from yolo_slim.data import one_class, yaml_of
from yolo_slim.data.batches import Batches
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.measure import accuracy
from yolo_slim.measure.loss import detection_loss
from yolo_slim.pruning.choose import evidence_from, judge, sources
from yolo_slim.record import Record
from yolo_slim.runs.stage import run_stage, sums_of
from yolo_slim.stages.auto import settled
from yolo_slim.stages.compress import whole
from yolo_slim.stages.entry import begins
from yolo_slim.stages.labels import check_labels
from yolo_slim.stages.modes import landing_mode
from yolo_slim.stages.unpruned import unpruned
from yolo_slim.text import tidy

SCAN = "sensitivity.json"

Worth = Callable[[nn.Module], float]
"""What a detector is worth: its loss or its mAP."""


@begins
def sensitivity(config: Complete) -> Record:
    """runs/<name>/sensitivity/sensitivity.json and sensitivity.svg, of the detector that channels are chosen in.

    A landing chooses in the original: what training has brought to zero by then says nothing of what may go.
    """
    if not config.data:
        raise SlimError("the scan measures the detector on images: give data=path/to/data.yaml")
    config = settled(config)
    start = whole(config) if landing_mode(config) else unpruned(config)
    return scan_of(config, start)


def scan_of(config: Complete, start: Path, stage: str = "sensitivity") -> Record:
    """runs/<name>/<stage>/sensitivity.json and sensitivity.svg, of the detector in `start`."""
    check_labels(config, "the scan measures loss or mAP")
    wanted = config.prune.sensitivity
    inputs = [start, *sources(config.prune.criterion)]
    settings = {
        **config.prune.model_dump(include=SCORING),
        **wanted.model_dump(exclude={"tolerance"}),
        "imgsz": config.imgsz,
        "data": config.data,
    }

    def work(folder: Path) -> tuple:
        also = [data] if (data := yaml_of(config.data)) else []
        made_from = {"settings": settings, "inputs": sums_of([*inputs, *also]), "code": record.code()}
        made_from = json.loads(json.dumps(made_from))
        file = folder / SCAN
        scan = _begun(file, made_from) or {"made_from": made_from, "metric": wanted.metric, "base": None, "groups": []}
        measure(config, checkpoint.load(start), scan, file)
        (plot,) = report.draw(tidy(scan), folder, {"sensitivity.svg": report.scan_plot})
        console.print(f"[bold green]sensitivity[/]: {report.scan_summary(scan)}  -> {plot}")
        return {"scan": file, "plot": plot}, {"metric": wanted.metric, "base": scan["base"]}, {}

    return run_stage(config, stage, settings, inputs, work)


def scanned(config: Complete) -> Path:
    """The scan of the detector that channels are chosen in, made now if it is not there."""
    return sensitivity(config).output(config.folder / "sensitivity", "scan")


def measure(config: Complete, detector: Detector, scan: dict[str, Any], file: Path) -> None:
    """Evaluate what is still missing in the scan, which grows on disk group by group; the detector is left alone."""
    wiring = trace(detector, config.imgsz)
    scores = judge(detector, wiring, config.prune, evidence_from(config, detector))
    worth, ratios = _worth(config, one_class(detector)), config.prune.sensitivity.ratios
    if scan["base"] is None:
        scan["base"] = worth(detector)
    done = {group["group"] for group in scan["groups"]}
    missing = [(g, r) for g in wiring.free if g.name not in done for r in ratios]
    console.print(f"{len(wiring.free)} groups at {len(ratios)} ratios; {len(done)} groups were measured before")
    rows: list[dict[str, Any]] = []
    for group, ratio in track(missing, "sensitivity"):
        kept = lowest_gone(wiring, group, scores[group.name], ratio)
        removed = int((~kept).sum())
        before = rows[-1] if rows else {"removed": 0, "value": scan["base"]}
        same = removed == before["removed"]
        value = before["value"] if same else worth(masked(detector, wiring, kept))
        rows.append({"ratio": ratio, "removed": removed, "value": value})
        if ratio == ratios[-1]:
            scan["groups"].append({"group": group.name, "channels": group.size, "rows": rows})
            record.write_json(file, scan)
            rows = []


def lowest_gone(wiring: Trace, group: Group, scores: np.ndarray, ratio: float) -> np.ndarray:
    """Bool per channel: all stay but floor(ratio * n) of one group, its lowest scores; infinite ones stay."""
    n = min(int(ratio * group.size + 1e-9), int(np.isfinite(scores).sum()))
    kept = np.ones(wiring.n_channels, bool)
    kept[group.channels[np.argsort(scores, kind="stable")[:n]]] = False
    return kept


def _worth(config: Complete, single_cls: bool) -> Worth:
    wanted = config.prune.sensitivity
    where = select_device(config.device, verbose=False)
    if wanted.metric == "map50_95":
        console.print("mAP50-95 is measured on the whole val split, however many `images` are asked for")
        return lambda detector: _map(detector, config)
    # Not the training images: there the detector is better than it is, and scores may have been made on them.
    seed = config.prune.seed
    batches = Batches(
        config.dataset, config.imgsz, wanted.images, split="val", seed=seed, labelled=True, single_cls=single_cls
    )

    @torch.no_grad()
    def loss(detector: nn.Module) -> float:
        detector.to(where)
        sums = [
            (float(detection_loss(detector, {**batch, "img": batch["img"].to(where)})), len(batch["img"]))
            for batch in batches
        ]
        detector.cpu()
        return sum(value * n for value, n in sums) / sum(n for _, n in sums)

    return loss


def _map(detector: nn.Module, config: Complete) -> float:
    with quietly():
        return accuracy(detector, config.dataset, config.imgsz, "val", config.device)["map50_95"]


def _begun(file: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """A scan that was killed, if it was of the same detector with the same settings."""
    scan = record.read_json(file)
    return scan if isinstance(scan, dict) and scan.get("made_from") == made_from else None
