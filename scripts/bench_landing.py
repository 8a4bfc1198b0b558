"""How long must a landing be? mAP and confidence right after the cut, by optimizer steps (`sparse_train.min_steps`).

    python scripts/bench_landing.py --data data/bccd/bccd.yaml

Each landing is a run of its own (runs/bench_landing_...), each row is kept in scripts/bench_landing_rows.json as soon
as it is there: interrupted, the same command goes on, and `--print` shows the table with what is still missing. Nothing
is trained after the cut. About 20 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from yolo_slim import record
from yolo_slim.config import Config, read_config
from yolo_slim.stages.landing_time import landing_arguments, training_images
from yolo_slim.stages.original import original
from yolo_slim.stages.prune import prune_stage
from yolo_slim.stages.sparse_train import sparse_train
from yolo_slim.training.steps import optimizer_steps

HEAD = ("landing, epochs", "images a step", "steps", "mAP50-95", "F1 at 0.25", "best confidence", "F1 there",
        "images with nothing at 0.25")  # fmt: skip


class Landing(NamedTuple):
    """Epochs, and images a step (Ultralytics' `nbs`)."""

    epochs: int
    nbs: int

    def __str__(self) -> str:
        return f"{self.epochs}_{self.nbs}"


LANDINGS = [Landing(0, 0), *(Landing(n, 64) for n in (2, 3, 5)), *(Landing(n, 16) for n in (2, 3, 5, 10))]


def main() -> None:
    """Make the rows that are missing, then print the table."""
    args = read_arguments()
    rows = json.loads(args.rows.read_text()) if args.rows.exists() else {}
    if not args.print:
        make(args, rows)
    print(table(rows))


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/bccd.yaml")
    parser.add_argument("--model", default="weights/bccd_v5n.pt")
    parser.add_argument("--data", default="data/bccd/bccd.yaml")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("bench_landing_rows.json"))
    parser.add_argument("--print", action="store_true", help="print what is there and make nothing")
    return parser.parse_args(words)


def make(args: argparse.Namespace, rows: dict[str, Any]) -> None:
    """Land, cut and measure, each landing that has no row."""
    common = [f"{key}={getattr(args, key)}" for key in ("model", "data", "device", "runs")]
    for landing in LANDINGS:
        given = [f"name=bench_landing_{landing}", f"sparse_train.epochs={landing.epochs}", "sparse_train.min_steps=0"]
        if landing.nbs:
            given.append(f"sparse_train.train.nbs={landing.nbs}")
        config = read_config(args.config, [*common, *given])
        if "original" not in rows:
            rows["original"] = original(config).metrics
        if str(landing) not in rows:
            rows[str(landing)] = {**land(config), "steps": steps(config)}
        record.write_json(args.rows, rows)


def land(config: Config) -> dict[str, Any]:
    """What the detector is worth right after the cut."""
    original(config)
    if config.sparse_train.epochs:
        sparse_train(config)
    return prune_stage(config).metrics


def steps(config: Config) -> int:
    """Optimizer steps of the landing."""
    train, images = landing_arguments(config), training_images(config.data, 1.0)
    counts = {key: train[key] for key in ("batch", "nbs", "warmup_epochs")}
    return optimizer_steps(images, config.sparse_train.epochs, **counts) if config.sparse_train.epochs else 0


def table(rows: dict[str, Any]) -> str:
    """Markdown, with dashes for what is missing."""
    lines = [f"| {' | '.join(HEAD)} |", "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    named = [("original", ["original", "–", "–"])]
    named += [(str(o), [str(o.epochs or "none"), str(o.nbs or "–")]) for o in LANDINGS]
    for key, cells in named:
        row = rows.get(key)
        if row and len(cells) == 2:
            cells = [*cells, str(row["steps"] or "–")]
        cells = [*cells, *([] if not row else shown(row))]
        lines.append(f"| {' | '.join(cells + ['–'] * (len(HEAD) - len(cells)))} |")
    return "\n".join(lines)


def shown(row: dict[str, Any]) -> list[str]:
    """The cells of one row of numbers."""
    numbers = [f"{row['map50_95']:.3f}", f"{row['f1_at_25']:.3f}", f"{row['best_confidence']:.2f}"]
    return [*numbers, f"{row['f1_best']:.3f}", f"{row['blind_images']} of {row['labelled_images']}"]


if __name__ == "__main__":
    main()
