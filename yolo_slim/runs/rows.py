"""What can be measured of a detector alone, on the split that every row of a report is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_slim import checkpoint
from yolo_slim.config import Complete
from yolo_slim.data import dataset_info, labelled
from yolo_slim.measure import NOT_MEASURED, accuracy, cost


def split_of(config: Complete) -> str:
    """The split every row is measured on: as asked for, else test where it has labels, else val.

    Many a benchmark (COCO's test-dev) keeps those labels back.

    Raises:
        SlimError: the data set, or the images that it names, cannot be read.
    """
    if config.report.split != "auto":
        return config.report.split
    if not config.data or not dataset_info(config.data).get("test"):
        return "val"
    return "test" if labelled(config.data, "test") else "val"


def measured(config: Complete, weights: Path, split: str | None = None) -> dict[str, Any]:
    """The row of a table that can be measured alone: size, cost and, with data, accuracy (on the report's split)."""
    detector = checkpoint.load(weights)
    spent = cost(detector, config.imgsz)
    row: dict[str, Any] = {
        "params": spent.params,
        "macs": spent.macs,
        "flops": spent.flops,
        "file_mb": round(weights.stat().st_size / 1e6, 3),
        **NOT_MEASURED,
    }
    if config.data:
        split = split or split_of(config)
        row |= {"split": split, **accuracy(detector, config.data, config.imgsz, split, config.device)}
    return row
