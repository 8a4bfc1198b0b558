"""How long tracing, scoring, selecting (by threshold and by knapsack) and cutting take, in a fresh process.

    python scripts/bench_trace.py [yolov5l.yaml ...]

Each model is timed twice: the first run pays for what torch imports lazily, the second shows the work itself.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise

import torch

from yolo_slim.channels import cut, select, trace
from yolo_slim.checkpoint import build
from yolo_slim.importance import score


def main(models: list[str]) -> None:
    """Print a line per model and run."""
    torch.manual_seed(0)
    print(f"{'model':16}{'run':>4}{'trace':>8}{'score':>8}{'select':>8}{'knapsack':>10}{'cut':>8}{'all, s':>8}")
    for name in models:
        detector = build(name)
        for run in (1, 2):
            marks = [time.perf_counter()]
            wiring = trace(detector, 640)
            marks.append(time.perf_counter())
            scores = score(detector, wiring, "l1")
            marks.append(time.perf_counter())
            selection = select(wiring, scores, target={"flops": 0.5})
            marks.append(time.perf_counter())
            select(wiring, scores, target={"flops": 0.5}, solver="knapsack")
            marks.append(time.perf_counter())
            cut(detector, wiring, selection.plan.kept)
            marks.append(time.perf_counter())
            widths = (8, 8, 8, 10, 8)
            parts = "".join(f"{b - a:{w}.2f}" for w, (a, b) in zip(widths, pairwise(marks), strict=True))
            print(f"{name:16}{run:4}{parts}{marks[-1] - marks[0]:8.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["yolov5l.yaml"])
