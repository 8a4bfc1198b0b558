"""Which weights should the pruner get: the live ones, or Ultralytics' moving average of them?

    python scripts/bench_live_average.py --model weights/bccd_v5n.pt --data data/bccd/bccd.yaml --imgsz 160 --epochs 10

The average forgets with a decay that grows with the number of updates (0.9999 * (1 - exp(-n / 2000))): after a few
hundred updates it follows closely, after many thousands it lags by thousands. So sparse training is run twice, with
the count of updates starting at 0, as in a short run, and at 20,000, as late in a long one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import yaml

from yolo_slim import checkpoint
from yolo_slim.config import Prune
from yolo_slim.data.batches import Batches
from yolo_slim.importance import Evidence
from yolo_slim.measure import accuracy
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.training.sparse import SETTINGS, SparseTrainer
from yolo_slim.training.trainer import train


class LateTrainer(SparseTrainer):
    """Sparse training whose average has already seen 20,000 updates."""

    def _setup_train(self) -> None:
        super()._setup_train()
        self.ema.updates = 20_000


def main() -> None:
    """Train twice, cut both kinds of weights, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="weights/bccd_v5n.pt")
    parser.add_argument("--data", default="data/bccd/bccd.yaml")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--strength", type=float, default=0.3)
    args = parser.parse_args()
    lines = [
        "| updates before | weights | median scale | mAP50-95 | cut to FLOPs x0.5, recovered |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for trainer, before in ((SparseTrainer, 0), (LateTrainer, 20_000)):
            run = Path(folder) / str(before)
            run.mkdir()
            (run / SETTINGS).write_text(
                yaml.safe_dump({"strength": args.strength, "penalty": "group_lasso", "update": "proximal"})
            )
            recipe = {
                "batch": 16,
                "nbs": 16,
                "optimizer": "AdamW",
                "lr0": 0.00143,
                "warmup_epochs": 1,
                "close_mosaic": 3,
            }
            train(trainer, args.model, run, False, data=args.data, imgsz=args.imgsz, epochs=args.epochs, device="cpu",
                  plots=False, val=False, **recipe)  # fmt: skip
            for kind in ("live", "average"):
                lines.append(f"| {before} | {kind} | {row(run, kind, args)} |")
    print("\n".join(lines))


def row(run: Path, kind: str, args: argparse.Namespace) -> str:
    """Median scale, mAP before the cut, mAP after it."""
    ckpt = checkpoint.read(run / "weights" / "last.pt")
    detector = checkpoint.detector_of(ckpt, run)
    if kind == "live":
        detector.load_state_dict(ckpt["live"])
    chosen = Prune(target={"flops": 0.5}, scope="layer")
    evidence = Evidence(images=Batches(args.data, args.imgsz, 200))
    slim = cut_to_plan(detector, chosen, args.imgsz, evidence).model
    worth = [accuracy(d, args.data, args.imgsz, "val")["map50_95"] for name, d in (("whole", detector), ("cut", slim))]
    scales = torch.cat([m.weight.detach().abs() for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    return f"{float(scales.median()):.3f} | {worth[0]:.3f} | {worth[1]:.3f}"


if __name__ == "__main__":
    main()
