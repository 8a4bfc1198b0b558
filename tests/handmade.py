"""A report by hand, whose ratios can be worked out in one's head; asked for with `pytest_plugins = ["handmade"]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yolo_slim.report import chosen, counted, picture


@pytest.fixture
def report() -> dict[str, Any]:
    """Two stages, 45 layers, and a sparse training."""
    rng = np.random.default_rng(0)
    before = rng.normal(1, 0.2, 1000)
    quantiles = {"q05": 0.1, "q25": 0.4, "q50": 0.6, "q75": 0.8, "q95": 1.1}
    return {
        "name": "bccd",
        "data": "data/bccd.yaml",
        "split": "test",
        "imgsz": 320,
        "measured_on": {"runtime": "PyTorch 2.13.0, fused", "device": "cpu (x86_64)", "threads": 2, "batch": 1}
        | {"dtype": "float32", "imgsz": 320, "runs": 50},
        "rows": [
            {"stage": "original", "weights": "runs/bccd/original/original.pt", "params": 2_000_000, "macs": 1.1e9}
            | {"flops": 2.2e9, "file_mb": 4.0, "map50": 0.9, "map50_95": 0.595}
            | {"latency_ms": {"median": 40.0, "p10": 39.0, "p90": 45.0}},
            {"stage": "finetuned", "weights": "runs/bccd/finetuned/finetuned.pt", "params": 940_000, "macs": 0.55e9}
            | {"flops": 1.1e9, "file_mb": 1.92, "map50": 0.91, "map50_95": 0.571, "train_epochs": 30}
            | {"latency_ms": {"median": 30.0, "p10": 29.5, "p90": 31.25}},
        ],
        "widths": [{"layer": f"model.{i}.conv", "before": 32, "after": 16, "reason": None} for i in range(42)]
        + [{"layer": "model.42.conv", "before": 32, "after": 32, "reason": None}]
        + [{"layer": f"model.24.m.{i}", "before": 24, "after": 24, "reason": "view in model.24"} for i in range(2)],
        "scales": {"before": before.tolist(), "after": (before * (rng.random(1000) > 0.5)).tolist()},
        "sparsity": [{"epoch": e, **quantiles} for e in (1, 2, 3)],
        "export": {
            "files": [
                {"format": "onnx", "precision": "fp32", "file": "slim.onnx", "file_mb": 3.5, "difference": 2e-5}
                | {"map50_95": 0.571, "map50_95_difference": 1e-6, "runtime": "onnxruntime", "also": {"opencv": 3e-5}}
                | {"tolerance": 1e-3, "images": 8, "map50": 0.91},
                {"format": "openvino", "precision": "int8", "file": "slim_int8_openvino_model", "file_mb": 1.1}
                | {"difference": None, "map50_95": 0.566, "map50_95_difference": -0.0052, "map50": 0.9}
                | {"tolerance": None, "images": 8, "runtime": "openvino", "also": {}},
            ]
        },
        "lineage": [step("original", "best.pt", {}), step("finetuned", "original/original.pt", {"epochs": 30})],
        "versions": {"python": "3.12.1", "yolo-slim": "0.1.0"},
    }


@pytest.fixture
def whole(report: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same with everything a report can have; its pictures lie in `tmp_path`."""
    for row, worth in zip(report["rows"], ((0.7, 0.49), (0.68, 0.462)), strict=True):
        both = enumerate(zip(("cat", "dog"), worth, strict=True))
        row["per_class"] = [{"id": k, "name": name, "images": 3, "labels": 5, "ap50_95": ap} for k, (name, ap) in both]
    ms = {"onnxruntime": (10.0, 6.0), "openvino": (8.0, 6.0)}
    timings = [
        {"runtime": runtime, "threads": 2, "batch": batch, "stage": stage, "latency_ms": spread(batch * value)}
        | {"version": "1.2", "device": "a chip"}
        for batch in (1, 8)
        for runtime, both in ms.items()
        for stage, value in zip(("original", "slim"), both, strict=True)
    ]
    late = {"layer": "model.7.conv", "macs_before": 100, "macs_after": 50, "before_ms": 4.0, "after_ms": 3.5}
    report["bench"] = {"name": "bccd", "imgsz": 320, "runs": 6, "flops": {"original": 2.2e9, "slim": 1.1e9}}
    report["bench"] |= {"rows": timings, "layers": {"openvino": [late]}}
    retold(report)
    report["sweep"] = {"split": "val", "original": {"flops": 2.2e9, "map50_95": 0.6}, "rows": sweep_rows()}
    report["training"] = {"finetuned": [epoch(e) for e in (1, 2, 3)]}
    cuts = [{"round": 1, "flops": 1.6e9, "map50_95_cut": 0.5, "map50_95_finetuned": 0.6}]
    cuts += [{"round": 2, "flops": 1.1e9, "map50_95_cut": 0.4, "map50_95_finetuned": None}]
    cuts = [{**cut, "asked": {"flops": 0.5}, "achieved": {"flops": 0.5}} for cut in cuts]
    report["iterations"] = {"map50_95_original": 0.61, "split": "val", "stopped": None, "rounds": cuts}
    pictures = [shown(tmp_path, i) for i in range(4)]
    report["pictures"] = {"looked_at": 4, "of": 4, "counted": counted(pictures), "shown": pictures}
    return report


def retold(report: dict[str, Any]) -> None:
    """Its rows as the benchmark has them, as the stage does."""
    (before, after), report["measured_on"] = chosen(report["bench"])
    for row, ms in zip(report["rows"], (before, after), strict=True):
        row["latency_ms"] = ms


def step(stage: str, source: str, training: dict[str, Any]) -> dict[str, Any]:
    """How a stage was made."""
    settings = {"epochs": 30, "train": {"lr0": 0.01, "freeze": None}, "distill": None} if training else {"imgsz": 320}
    return {"stage": stage, "file": f"runs/bccd/{stage}/{stage}.pt", "sha256": 64 * "a", "made_from": [source]} | {
        "settings": settings,
        "training": training,
        "teacher": None,
        "asked": None,
        "achieved": None,
        "seconds": 90.0,
        "versions": {"yolo-slim": "0.1.0"},
    }


def spread(value: float) -> dict[str, float]:
    """A latency."""
    return {"p10": 0.9 * value, "median": value, "p90": 1.2 * value}


def sweep_rows() -> list[dict[str, Any]]:
    """Two criteria at two targets, and one that failed."""
    worth = {"obs": (0.59, 0.5), "random": (0.4, 0.1)}
    rows = [
        {"criterion": criterion, "recovery": "reconstruct", "flops_asked": share, "flops": share * 2.2e9}
        | {"map50_95": value, "error": None}
        for criterion, values in worth.items()
        for share, value in zip((0.8, 0.5), values, strict=True)
    ]
    return [*rows, {"criterion": "l1", "recovery": "reconstruct", "flops_asked": 0.5, "error": "no"}]


def epoch(e: int) -> dict[str, float]:
    """A line of results.csv."""
    maps = {"metrics/mAP50(B)": 0.8 + 0.01 * e, "metrics/mAP50-95(B)": 0.5 + 0.01 * e}
    return {"epoch": float(e), **maps, "train/box_loss": 1 / e, "val/box_loss": 1.1 / e}


def shown(folder: Path, i: int) -> dict[str, Any]:
    """A picture with a cat that both find, a dog that the slim one misses; each sees a dog where none is."""
    (folder / "images").mkdir(exist_ok=True)
    pixels = np.full((90, 120, 3), 40 * i, np.uint8)
    (folder / f"images/{i:02d}.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    cat = {"id": 0, "name": "cat", "xyxy": [10.0, 20.0, 60.0, 70.0]}
    dog = {"id": 1, "name": "dog", "xyxy": [80.0, 5.0, 118.0, 40.0]}
    wrong = [{"id": 1, "name": "dog", "score": 0.4, "xyxy": box} for box in ([2.0, 50, 30, 88], [40.0, 72, 90, 89])]
    before = [{**cat, "score": 0.9}, {**dog, "score": 0.5}, wrong[0]]
    after = [{**cat, "score": 0.88}, wrong[1], {**dog, "score": 0.1}]
    found = picture(f"x/{i}.jpg", (90, 120), before, after, [cat, dog])
    return {**found, "file": f"images/{i:02d}.jpg"}
