"""Rows of report.json, sweep.json and bench.json. docs/report.md describes the first; a test holds it against one."""

from __future__ import annotations

from typing import Any, TypeAlias, TypedDict

Maybe: TypeAlias = float | Any
"""None: not measured, for want of labels, of images or of boxes. Who asks for one has asked whether there are any."""


class Timing(TypedDict):
    """Milliseconds an image, of runs that take turns."""

    median: float
    p10: float  # percentiles
    p90: float


class OfClass(TypedDict):
    """One of the data set's classes, on the split."""

    id: int
    name: str
    images: int
    labels: int
    ap50_95: Maybe


class Row(TypedDict, total=False):
    """A stage, or another detector beside it: what it costs, and what it is worth."""

    stage: str  # original, sparse, pruned or finetuned
    weights: str  # path
    params: int
    macs: int  # for one image, as thop counts
    flops: int  # 2 * macs
    file_mb: float  # 1e6 bytes
    split: str  # that it was measured on
    images: int  # of the split
    labels: int
    labelled_images: Maybe
    map50: Maybe
    map50_95: Maybe
    map50_95_low: Maybe  # between these two it lies on 95 % of other draws of the images
    map50_95_high: Maybe
    precision_at_25: Maybe  # at confidence 0.25, IoU 0.5
    recall_at_25: Maybe
    f1_at_25: Maybe
    best_confidence: Maybe  # where F1 is highest
    precision_best: Maybe
    recall_best: Maybe
    f1_best: Maybe
    blind_images: Maybe  # with labels, and nothing found at 0.25
    median_best_score: Maybe  # of an image's best detection
    per_class: list[OfClass]
    replicates: list[float]  # map50_95 on those draws
    replicates_at_25: dict[str, list[float]]  # and precision, recall and f1 at 0.25
    latency_ms: Timing | None  # None: not timed, as stages between the first and the last are not in a benchmark
    train_epochs: int


class SweepRow(Row, total=False):
    """A point of a sweep's grid; the original has none of these."""

    criterion: str
    recovery: str
    flops_asked: float  # share of the original's
    flops_achieved: float
    error: str | None  # why it could not be made
    seconds: float


class BenchRow(Row, total=False):
    """A detector in a runtime."""

    runtime: str
    version: str
    device: str
    threads: int
    batch: int


class Width(TypedDict):
    """A convolution's output channels before the cut and after it."""

    layer: str
    before: int
    after: int
    reason: str | None  # why it must stay
