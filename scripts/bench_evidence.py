"""What should a channel be judged by? mAP right after the cut, recovered by least squares, nothing trained.

    python scripts/bench_evidence.py --model weights/yolov5n_v6_coco.pt --data data/coco128/coco128.yaml --imgsz 416
    python scripts/bench_evidence.py --model weights/bccd_v5n.pt --data data/bccd/bccd.yaml --imgsz 320 --split test

Calibrated on training images, measured on another split. Torch-Pruning's cuts (`pip install torch-pruning`) have their
batch norms recalibrated on the same images. Each row is kept in scripts/bench_evidence_rows.json as soon
as it is there: interrupted, the same command goes on, and `--print` shows what there is. A minute or two a row.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, TypeAlias

import torch_pruned as peer  # beside this file

from yolo_slim import checkpoint, measure, prune, record
from yolo_slim.compress import METHODS, Material
from yolo_slim.compress.apply import applied
from yolo_slim.data.batches import Batches
from yolo_slim.formats.detector import Detector
from yolo_slim.importance import Evidence
from yolo_slim.measure.loss import detection_loss
from yolo_slim.pruning.recalibrate import recalibrate

Cut: TypeAlias = tuple[Any, dict[str, float]]

WAYS: dict[str, dict[str, Any]] = {
    "obs, scored three times (the default)": {},
    "obs, scored three times, then 200 cuts searched": {"search": {"trials": 200}},
    "obs, scored once": {"rescore": 1},
    "obs, scored once, then 60 cuts searched": {"rescore": 1, "search": {"trials": 60}},
    "obs, scored once, threshold": {"rescore": 1, "solver": "threshold"},
    "obs, scored once, by labels": {"rescore": 1, "fisher": "labels"},
    "obs, scored once, by labels, threshold (the default until 0.1)": {
        "rescore": 1,
        "fisher": "labels",
        "solver": "threshold",
    },
    "group Fisher": {"criterion": "group_fisher"},
    "Taylor": {"criterion": "taylor"},
    "L1": {"criterion": "l1"},
    "L1, the same share of every layer": {"criterion": "l1", "scope": "layer"},
    "random": {"criterion": "random"},
    "no channels, but low rank": {"method": {"low_rank": {}}},
    "no channels, but low rank, not refitted": {"method": {"low_rank": {}}, "refits": False},
    "Torch-Pruning, Magnitude": {"tp": "magnitude"},
    "Torch-Pruning, GroupNorm": {"tp": "groupnorm_max"},
    "Torch-Pruning, Taylor": {"tp": "taylor"},
    "Torch-Pruning, Hessian": {"tp": "hessian"},
}
HEAD = (
    "data",
    "FLOPs ×",
    "judged by",
    "params ×",
    "mAP50-95",
    "95 %",
    "of it",
    "mAP50",
    "F1 at 0.25",
    "best confidence",
    "seconds",
)


def main() -> None:
    """Make the rows that are missing, then print the tables."""
    args = read_arguments()
    rows: list[dict[str, Any]] = json.loads(args.rows.read_text()) if args.rows.exists() else []
    if not args.print:
        make(args, rows)
    print(table(rows))


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="weights/bccd_v5n.pt")
    parser.add_argument("--data", default="data/bccd/bccd.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--split", default="val")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.75, 0.5, 0.25])
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="ways to judge")
    parser.add_argument("--images", type=int, default=256, help="training images that are looked at, at most")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("bench_evidence_rows.json"))
    parser.add_argument("--print", action="store_true", help="print what is there and make nothing")
    return parser.parse_args(words)


def make(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """One cut after the other, the original first; `rows` grows, and is written after each."""
    detector = checkpoint.load(args.model)
    of = {"data": Path(args.data).stem, "model": Path(args.model).name, "imgsz": args.imgsz, "split": args.split}
    asked = [(1.0, "original"), *((share, way) for share in args.shares for way in WAYS if way in args.only)]
    for share, way in asked:
        key = {**of, "share": share, "way": way, "images": args.images if share < 1 else 0}
        if any(all(row[name] == value for name, value in key.items()) for row in rows):
            continue
        slim, cost = detector, {}
        if share < 1:
            begun = time.perf_counter()
            chosen = WAYS[way]
            make_it = torch_pruned if "tp" in chosen else factored if "method" in chosen else ours
            slim, cost = make_it(detector, args, share, chosen)
            cost["seconds"] = round(time.perf_counter() - begun, 1)
        found = measure.accuracy(slim, args.data, args.imgsz, args.split)
        kept = (
            "map50",
            "map50_95",
            "map50_95_low",
            "map50_95_high",
            "f1_at_25",
            "best_confidence",
            "f1_best",
            "blind_images",
        )
        rows.append({**key, **cost, **{name: found[name] for name in kept}, "code": record.code()})
        record.write_json(args.rows, rows)


def ours(detector: Detector, args: argparse.Namespace, share: float, way: dict[str, Any]) -> Cut:
    """A cut of ours, and what is left of parameters and FLOPs."""
    chosen = {"calib_images": args.images, "target": {"flops": share}, **way}
    pruned = prune(detector, imgsz=args.imgsz, data=args.data, **chosen)
    return pruned.model, {name: pruned.cost.achieved[name] for name in ("params", "flops")}


def factored(detector: Detector, args: argparse.Namespace, share: float, way: dict[str, Any]) -> Cut:
    """Another method of ours, to the same FLOPs."""
    ((name, options),) = way["method"].items()
    material = Material(args.imgsz, Batches(args.data, args.imgsz, args.images))
    method = METHODS[name](**options, target={"flops": share})
    made = applied(detector, method, material, refits=way.get("refits", True)).model
    return made, left_of(detector, made, args.imgsz)


def left_of(detector: Detector, made: Any, imgsz: int) -> dict[str, float]:
    """Shares of parameters and FLOPs."""
    whole, left = (measure.cost(network, imgsz) for network in (detector, made))
    return {"params": left.params / whole.params, "flops": left.flops / whole.flops}


def torch_pruned(detector: Detector, args: argparse.Namespace, share: float, way: dict[str, Any]) -> Cut:
    """A cut of Torch-Pruning, recalibrated on the images that we refit on."""
    images = Batches(args.data, args.imgsz, args.images)
    labelled = Batches(args.data, args.imgsz, args.images, labelled=True)
    evidence = Evidence(images=images, batches=labelled, loss=detection_loss)
    narrow = peer.cut(detector, way["tp"], "global", args.imgsz, share, evidence)
    recalibrate(narrow, images)
    return narrow, left_of(detector, narrow, args.imgsz)


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, a detector after the other."""
    lines = [f"| {' | '.join(HEAD)} |", f"| --- | ---: | --- |{' ---: |' * (len(HEAD) - 3)}"]
    order = {name: i for i, name in enumerate(["original", *WAYS])}
    sets = list(dict.fromkeys(row["data"] for row in rows))
    for row in sorted(rows, key=lambda r: (sets.index(r["data"]), -r["share"], order[r["way"]])):
        whole = next(
            r for r in rows if r["way"] == "original" and all(r[k] == row[k] for k in ("data", "model", "imgsz"))
        )
        share = row["map50_95"] / whole["map50_95"]
        cells = [row["data"], f"{row.get('flops', 1):.3f}", row["way"], f"{row.get('params', 1):.3f}"]
        doubt = f"{row['map50_95_low']:.3f}–{row['map50_95_high']:.3f}"
        cells += [f"{row['map50_95']:.3f}", doubt, f"{share:.0%}", f"{row['map50']:.3f}", f"{row['f1_at_25']:.3f}"]
        cells += [
            format(row["best_confidence"], ".2f"),
            format(row.get("seconds", ""), ".0f" if "seconds" in row else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
