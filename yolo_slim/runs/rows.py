"""What can be measured of a detector alone, on the split that every row of a report is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from yolo_slim import checkpoint, record
from yolo_slim.config import Complete
from yolo_slim.data import dataset_info, labelled, yaml_of
from yolo_slim.measure import NOT_MEASURED, accuracy, cost
from yolo_slim.record import Record
from yolo_slim.row import Row


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


def measured(config: Complete, weights: Path, split: str | None = None) -> Row:
    """The row of a table that can be measured alone: size, cost and, with data, accuracy (on the report's split)."""
    detector = checkpoint.load(weights)
    spent = cost(detector, config.imgsz)
    row = {
        "params": spent.params,
        "macs": spent.macs,
        "flops": spent.flops,
        "file_mb": round(weights.stat().st_size / 1e6, 3),
        **NOT_MEASURED,
    }
    if config.data:
        split = split or split_of(config)
        row |= {"split": split, **accuracy(detector, config.data, config.imgsz, split, config.device)}
    return cast(Row, row)


def row_of(config: Complete, done: Record, weights: Path, split: str | None) -> Row:
    """`measured`, but for what the stage that made these weights has measured in the same way."""
    data = yaml_of(config.data)
    same_data = not data or record.sha256(data) in done.inputs.values()
    if same_data and done.metrics.get("split") == split and done.versions == record.versions():
        return cast(Row, dict(done.metrics))
    return measured(config, weights, split)
