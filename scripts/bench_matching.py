"""What does recovery by matching give back? mAP after the cut, and after minutes of matching that read no label.

    python scripts/bench_matching.py --model weights/yolov5n_v6_coco.pt --data data/coco128/coco128.yaml --imgsz 416 \\
        --images data/scenes --steps 300

Images of the training split and of the folder, without their labels; measured on val. A run of the stages themselves,
so that the same command goes on where it was interrupted; rows are kept in scripts/bench_matching_rows.json, and
`--print` shows what there is. Half a second to a second a step for YOLOv5n at 416 px on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from yolo_slim import record
from yolo_slim.config import Complete, check
from yolo_slim.record import Record
from yolo_slim.stages.compress import compress
from yolo_slim.stages.original import original
from yolo_slim.stages.prune import prune_stage
from yolo_slim.stages.recover import recover

KEPT = ("map50", "map50_95", "map50_95_low", "map50_95_high", "f1_at_25", "best_confidence", "blind_images")
BY = ("channels", "low rank")
HEAD = ("data", "FLOPs ×", "recovered by", "mAP50-95", "95 %", "of it", "mAP50", "F1 at 0.25", "best confidence")


def main() -> None:
    """Make the rows that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="weights/yolov5n_v6_coco.pt")
    parser.add_argument("--data", default="data/coco128/coco128.yaml")
    parser.add_argument("--images", help="a folder of pictures to learn from as well")
    parser.add_argument("--imgsz", type=int, default=416)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.75, 0.5])
    parser.add_argument("--by", nargs="+", choices=BY, default=list(BY), help="what makes the detector smaller")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seconds", type=float, help="so long instead, on this machine")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("bench_matching_rows.json"))
    parser.add_argument("--print", action="store_true", help="print what is there and make nothing")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(args.rows.read_text()) if args.rows.exists() else []
    if not args.print:
        for share in args.shares:
            for way in args.by:
                make(args, share, way, rows)
    print(table(rows))


def make(args: argparse.Namespace, share: float, by: str, rows: list[dict[str, Any]]) -> None:
    """The rows of one cut; `rows` grows, and is written after each."""
    match = {"seconds": args.seconds} if args.seconds else {"steps": args.steps}
    budget = {"target": {"flops": share}}
    asked = {
        "name": f"matching_{Path(args.data).stem}_{share:g}{'' if by == 'channels' else '_low_rank'}",
        **{name: getattr(args, name) for name in ("model", "data", "images", "imgsz", "runs")},
        "report": {"split": "val"},
        "sparse_train": {"epochs": 0},
        **(
            {"prune": budget, "recover": {"match": match}}
            if by == "channels"
            else {"compress": [{"low_rank": {**budget, "match": match}}]}
        ),
    }
    config = Complete.of(check(asked, "scripts/bench_matching.py"))
    of = {"data": Path(args.data).stem, "model": Path(args.model).name, "imgsz": args.imgsz}
    long = f"{args.seconds / 60:g} minutes" if args.seconds else f"{args.steps} steps"
    keep(args.rows, rows, {**of, "share": 1.0, "way": "original"}, original(config))
    if by == "channels":
        keep(args.rows, rows, {**of, "share": share, "way": "least squares"}, prune_stage(config))
        keep(args.rows, rows, {**of, "share": share, "way": f"matching, {long}"}, recover(config))
        return
    done = compress(config)
    (matched,) = done.details["steps"]
    first = record.read(config.folder / Path(matched).parent)
    assert first is not None
    keep(args.rows, rows, {**of, "share": share, "way": "low rank, least squares"}, first)
    keep(args.rows, rows, {**of, "share": share, "way": f"low rank, matching, {long}"}, done)


def keep(file: Path, rows: list[dict[str, Any]], key: dict[str, Any], done: Record) -> None:
    """Put what a stage has measured into the rows, in the place of an older one of the same key."""
    rows[:] = [row for row in rows if any(row[name] != value for name, value in key.items())]
    found = {name: done.metrics[name] for name in KEPT}
    rows.append({**key, **found, "seconds": done.seconds, "flops": done.metrics["flops"], "code": record.code()})
    record.write_json(file, rows)


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", f"| --- | ---: | --- |{' ---: |' * (len(HEAD) - 3)}"]
    for row in sorted(rows, key=lambda r: (r["data"], r["model"], -r["share"], "low rank" in r["way"])):
        of = ("data", "model", "imgsz")
        whole = next(r for r in rows if r["way"] == "original" and all(r[k] == row[k] for k in of))
        between = f"{row['map50_95_low']:.3f}–{row['map50_95_high']:.3f}"
        cells = [row["data"], f"{row['flops'] / whole['flops']:.3f}", row["way"], f"{row['map50_95']:.3f}", between]
        cells += [f"{row['map50_95'] / whole['map50_95']:.0%}", f"{row['map50']:.3f}", f"{row['f1_at_25']:.3f}"]
        lines.append(f"| {' | '.join([*cells, format(row['best_confidence'], '.2f')])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
