"""What looking at a checkpoint before it is believed costs, in seconds: bounded by 0.3 for one of some 10 MB.

    python scripts/bench_load.py

Prints the time to load YOLOv5s in fp16 from the disk (best of several), as `yolo_slim.load` does with every check, and
as torch alone does with the same classes allowed; then what each check takes of the difference.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from yolo_slim import checkpoint
from yolo_slim.formats import archive, door, head, layers, modules, pickles, unpickle, vocabulary

BOUND = 0.3
"""Seconds that the checks may add."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5s.yaml", help="a model YAML, or a checkpoint")
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(checkpoint.load(args.model), Path(folder) / "loaded.pt")
        print(f"{args.model}: {path.stat().st_size / 1e6:.1f} MB in fp16; seconds, best of {args.runs}")
        seconds = measured(path, args.runs)
    for name, took in seconds.items():
        print(f"  {name:42}{took:7.3f} s")
    added = seconds["with every check"] - seconds["torch alone"]
    print(f"The checks add {added:.3f} s; the bound is {BOUND} s: {'met' if added <= BOUND else 'NOT MET'}")


def measured(path: Path, runs: int) -> dict[str, float]:
    """Seconds of each way, and of each check alone; the best of all runs."""
    opened = archive.opened(path)
    sizes = {key: len(content) for key, content in opened.storages.items()}
    words, found = vocabulary.ultralytics(), pickles.walk(opened.pickle, sizes)
    meant = {**words.objects, **words.helpers}
    classes = [(meant[name], name) for name in found if isinstance(meant[name], type)]
    detector = unpickle.unpickled(path)["model"]
    whole = checkpoint.load(path)

    def checked() -> None:
        unpickle.walked.cache_clear()
        unpickle.KEPT.moulds.clear()
        checkpoint.load(path)

    def alone() -> None:
        with torch.serialization.safe_globals(classes):
            torch.load(path, map_location="cpu", weights_only=True)["model"].float().eval()

    ways: dict[str, Callable[[], object]] = {
        "with every check": checked,
        "torch alone": alone,
        "of these: the zip, its sums": lambda: archive.opened(path),
        "the pickle's instructions": lambda: pickles.walk(opened.pickle, sizes),
        "not of these: unpickling": lambda: unpickle.Unpickler(opened, found, words).load(),
        "modules and their values": lambda: modules.check_modules(detector),
        "layers and their weights": lambda: layers.check_layers(detector),
        "NaN and infinity": lambda: layers.check_finite(whole),
        "the cut": lambda: door.check_yaml(detector.yaml),
        "one run on the meta device": lambda: head.check_run(whole),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
