"""What a teacher costs a training step: plain fine-tuning, our default and Ultralytics' own, step by step in turn.

    python scripts/bench_distill_step.py [--model weights/bccd_v5n.pt] [--imgsz 320] [--batch 16] [--steps 30]

The student is the model cut to half of its FLOPs, the teacher the model itself.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from bench_sparse_step import interleaved, prepared  # beside this file
from make_shapes import draw

import yolo_slim
from yolo_slim import checkpoint
from yolo_slim.config import Distill
from yolo_slim.stages.lesson import lesson
from yolo_slim.training.distill import SETTINGS, DistillTrainer
from yolo_slim.training.trainer import SlimTrainer


def main() -> None:
    """Print medians, and their ratio to plain fine-tuning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5n.yaml", help="a .pt, or a .yaml (untrained: steps take as long)")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        detector = yolo_slim.load(args.model)
        data = draw(folder / "shapes", train=args.batch * 2, val=8, test=8, imgsz=args.imgsz, seed=0)
        rename(data, dict(detector.names))
        teacher = checkpoint.save(detector, folder / "teacher.pt")
        cut = yolo_slim.prune(detector, imgsz=args.imgsz, criterion="l1", target={"flops": 0.5})
        args.model = str(checkpoint.save(cut.model, folder / "student.pt"))
        files = {SETTINGS: lesson(Distill(), [teacher])}
        trainers = {
            "plain": prepared(SlimTrainer, folder / "plain", data, args),
            "ours": prepared(DistillTrainer, folder / "ours", data, args, files),
            "ultralytics": prepared(SlimTrainer, folder / "ultralytics", data, args, distill_model=str(teacher)),
        }
        times = interleaved(trainers, args.steps)
    plain = np.array(times["plain"])
    print(f"{args.imgsz} px, batch {args.batch}, {torch.get_num_threads()} threads, {args.steps} steps each, in turn")
    for name, seconds in times.items():
        ratio = np.median(np.array(seconds) / plain)
        print(f"{name:12} {np.median(seconds) * 1e3:8.1f} ms per step, median of paired ratios {ratio:.3f}")


def rename(data: Path, names: dict[int, str]) -> None:
    """Give the shapes the names of the detector's classes; which shape is which does not matter here."""
    described = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump(described | {"names": names}))
    for file in (data.parent / "labels").rglob("*.txt"):
        rows = (line.split() for line in file.read_text().splitlines())
        file.write_text("".join(f"{int(first) % len(names)} {' '.join(rest)}\n" for first, *rest in rows))


if __name__ == "__main__":
    main()
