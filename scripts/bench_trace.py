"""How long tracing, scoring, selecting (by threshold and by knapsack) and cutting take, in a fresh process.

    python scripts/bench_trace.py [yolov5l.yaml ...]

Each model is timed twice: the first run pays for what torch imports lazily, the second shows the work itself. Then the
whole of `yolo_slim.prune(detector, criterion="l1", ratio=0.5)`, its proof included, beside the same of Torch-Pruning
(`pip install torch-pruning`), which proves nothing: L2 norms of groups, global, half of the channels, in turn.
"""

from __future__ import annotations

import copy
import sys
import time
from itertools import pairwise

import torch
import torch_pruned
from torch import nn

import yolo_slim
from yolo_slim.channels import Constraints, cut, select, trace
from yolo_slim.checkpoint import build
from yolo_slim.errors import SlimError
from yolo_slim.importance import score


def main(models: list[str]) -> None:
    """Print a line per model and run, then one per model, size and whole call."""
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
            selection = select(wiring, scores, Constraints(target={"flops": 0.5}))
            marks.append(time.perf_counter())
            select(wiring, scores, Constraints(target={"flops": 0.5}, solver="knapsack"))
            marks.append(time.perf_counter())
            cut(detector, wiring, selection.kept)
            marks.append(time.perf_counter())
            widths = (8, 8, 8, 10, 8)
            parts = "".join(f"{b - a:{w}.2f}" for w, (a, b) in zip(widths, pairwise(marks), strict=True))
            print(f"{name:16}{run:4}{parts}{marks[-1] - marks[0]:8.2f}", flush=True)
    print(f"{'whole call':16}{'px':>4}{'run':>4}{'ours, s':>10}{'Torch-Pruning, s':>18}")
    for name in models:
        for imgsz in (64, 640):
            for run in (1, 2, 3):
                ours, theirs = whole_call(build(name), imgsz)
                shown = "not installed" if theirs is None else f"{theirs:.2f}"
                print(f"{name:16}{imgsz:4}{run:4}{ours:10.2f}{shown:>18}", flush=True)


def whole_call(detector: nn.Module, imgsz: int) -> tuple[float, float | None]:
    """Seconds of ours and of Torch-Pruning's, from a detector to a slim one; None: it is not installed."""
    marks = [time.perf_counter()]
    yolo_slim.prune(detector, criterion="l1", ratio=0.5, imgsz=imgsz)
    marks.append(time.perf_counter())
    try:
        narrow = copy.deepcopy(detector)  # it cuts what it is given, ours a copy
        torch_pruned.pruner(narrow, "magnitude", "global", imgsz).step()
    except SlimError:
        return marks[1] - marks[0], None
    marks.append(time.perf_counter())
    return marks[1] - marks[0], marks[2] - marks[1]


if __name__ == "__main__":
    main(sys.argv[1:] or ["yolov5l.yaml"])
