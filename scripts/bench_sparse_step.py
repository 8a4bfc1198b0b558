"""What the pull on the scales costs a training step: plain Ultralytics and SparseTrainer, step by step in turn.

    python scripts/bench_sparse_step.py [--model yolov5n.yaml] [--imgsz 320] [--batch 16] [--steps 30]

One optimizer step per batch, the worst case: with gradient accumulation the pull comes less often.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from make_shapes import draw  # beside this file
from ultralytics.models.yolo.detect import DetectionTrainer

from yolo_slim.training.sparse import SETTINGS, SparseTrainer


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5n.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = draw(Path(folder) / "shapes", train=args.batch * 2, val=8, test=8, imgsz=args.imgsz, seed=0)
        pull = {SETTINGS: {"strength": 0.3, "penalty": "group_lasso", "update": "proximal"}}
        trainers = {
            "plain": prepared(DetectionTrainer, Path(folder) / "plain", data, args),
            "sparse": prepared(SparseTrainer, Path(folder) / "sparse", data, args, pull),
        }
        times = interleaved(trainers, args.steps)
    median = {name: float(np.median(t)) for name, t in times.items()}
    ratios = np.array(times["sparse"]) / np.array(times["plain"])
    print(f"plain {median['plain'] * 1e3:.1f} ms, sparse {median['sparse'] * 1e3:.1f} ms per step")
    print(f"ratio of medians {median['sparse'] / median['plain']:.4f}, median of paired ratios {np.median(ratios):.4f}")


def interleaved(trainers: dict[str, DetectionTrainer], steps: int) -> dict[str, list[float]]:
    """Seconds of each step, of all trainers in turn, so that a machine that slows down slows all of them down."""
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for i in range(steps + 3):
        for name, trainer in trainers.items():
            seconds = step(trainer)
            if i >= 3:  # the first steps warm caches up
                times[name].append(seconds)
    return times


def prepared(
    trainer_class: type,
    folder: Path,
    data: Path,
    args: argparse.Namespace,
    files: dict[str, dict] | None = None,
    **changed: Any,
) -> DetectionTrainer:
    """A trainer that has set up everything and waits for its first batch.

    Args:
        trainer_class: of the trainer.
        folder: to be made, for its run.
        data: the data set's YAML.
        args: model, imgsz and batch.
        files: for the run folder: name -> content.
        changed: further Ultralytics arguments.
    """
    folder.mkdir()
    for name, content in (files or {}).items():
        (folder / name).write_text(yaml.safe_dump(content))
    overrides = {"model": args.model, "data": str(data), "imgsz": args.imgsz, "batch": args.batch, "nbs": args.batch}
    trainer = trainer_class(
        overrides={
            **overrides,
            "epochs": 100,
            "device": "cpu",
            "save_dir": str(folder),
            "plots": False,
            "warmup_epochs": 0,
            **changed,
        }
    )
    trainer._setup_train()
    trainer.model.train()
    trainer.epoch = 0
    trainer.run_callbacks("on_train_epoch_start")
    trainer.batch = next(iter(trainer.train_loader))
    return trainer


def step(trainer: DetectionTrainer) -> float:
    """Seconds of one batch, as Ultralytics' loop does it."""
    batch = {k: v.clone() if hasattr(v, "clone") else v for k, v in trainer.batch.items()}
    start = time.perf_counter()
    trainer.run_callbacks("on_train_batch_start")
    loss, _ = trainer.model(trainer.preprocess_batch(batch))
    trainer.scaler.scale(loss.sum()).backward()
    trainer.optimizer_step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
