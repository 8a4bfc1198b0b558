"""Detectors of the YOLOv5 repository and of Darknet, slimmed: what they are worth, and how fast they are.

    python scripts/bench_yolov5.py --model weights/yolov5n_v6_coco.pt --bccd data/bccd/bccd.yaml \
        --coco data/coco128/coco128.yaml --darknet yolo-fastest-1.1.cfg

Three tables (`--only`): `bccd`, a COCO checkpoint transferred to blood cells and slimmed to half of its FLOPs; `coco`,
the checkpoint itself, on images of its own classes; `speed`, files in onnxruntime and OpenCV, cut without training.
Each row is kept in scripts/bench_yolov5_rows.json as soon as it is there: interrupted, the same command goes on, and
`--print` shows the tables with what is still missing. About two hours on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from yolo_slim import checkpoint, measure, prune, record
from yolo_slim.config import Config, check
from yolo_slim.runs.given import complete
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import run_stage
from yolo_slim.scratch import Scratch
from yolo_slim.stages.common import train_arguments
from yolo_slim.stages.export import export
from yolo_slim.stages.finetune import finetune
from yolo_slim.stages.original import original
from yolo_slim.stages.prune import prune_stage
from yolo_slim.stages.sparse_train import sparse_train
from yolo_slim.timing.quiet import when_quiet
from yolo_slim.timing.runner import Runner
from yolo_slim.training.folder import train_in
from yolo_slim.training.trainer import SlimTrainer

PARTS = ("bccd", "coco", "speed")
TRANSFER = {"batch": 16, "nbs": 16, "optimizer": "AdamW", "lr0": 0.00143, "warmup_epochs": 1}
"""As configs/bccd.yaml trains."""
STRENGTH = 0.01
"""Of sparse training: what eight steps can answer with. At the default strength nothing is left of the detector."""
KEPT = ("params", "flops", "file_mb", "map50", "map50_95", "map50_95_low", "map50_95_high", "f1_at_25",
        "best_confidence", "split")  # fmt: skip
RUNTIMES = {"torch": "PyTorch", "onnxruntime": "onnxruntime"}
FILES_IN = {**RUNTIMES, "opencv": "OpenCV"}
"""Runtimes that files are timed in: as it is called here, and as a reader knows it."""
BCCD = {
    "original": "transferred from COCO",
    "pruned": "FLOPs ×0.5, nothing trained",
    "finetuned": "... fine-tuned",
    "longer": "control: the transferred one, trained on for as long",
}
COCO = {
    "original": "original",
    "longer": "control: the original, trained on for as long as others are fine-tuned",
    "0.9": "FLOPs ×0.9, nothing trained",
    "0.9 finetuned": "... fine-tuned",
    "0.75": "FLOPs ×0.75, nothing trained",
    "0.75 finetuned": "... fine-tuned",
    "sparse": "after an epoch of uniform sparse training",
    "sparse 0.9": "... cut to FLOPs ×0.9",
    "sparse 0.9 finetuned": "... fine-tuned",
}
HEAD = ("detector", "epochs", "params, M", "FLOPs ×", "mAP50-95", "mAP50", "F1 at 0.25", "best confidence",
        *(f"{name}, ms" for name in RUNTIMES.values()))  # fmt: skip
SPEED_HEAD = ("detector", "px", "FLOPs ×", "params ×", "file, MB",
              *(head for name in FILES_IN.values() for head in (f"{name}, ms", "×")))  # fmt: skip

Rows = dict[str, Any]
Keep = Callable[[str, Mapping[str, Any]], None]


def main() -> None:
    """Make the rows that are missing, then print the tables."""
    args = read_arguments()
    rows = json.loads(args.rows.read_text()) if args.rows.exists() else {}
    if not args.print:
        for part in args.only:
            MAKE[part](args, rows)
    for part in PARTS:
        print(f"{part}\n\n{table(rows, part)}\n")


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="weights/yolov5n_v6_coco.pt", help="of ultralytics/yolov5, for COCO")
    parser.add_argument("--bccd", default="data/bccd/bccd.yaml", help="what it is transferred to")
    parser.add_argument("--bccd-imgsz", type=int, default=320)
    parser.add_argument("--coco", default="data/coco128/coco128.yaml", help="images with its own classes")
    parser.add_argument("--coco-imgsz", type=int, default=416)
    parser.add_argument("--darknet", nargs="*", default=[], help="cfgs, their weights beside them")
    parser.add_argument("--transfer-epochs", type=int, default=45)
    parser.add_argument("--epochs", type=int, default=20, help="of fine-tuning on --bccd, and of its control")
    parser.add_argument("--coco-epochs", type=int, default=1, help="of fine-tuning on --coco, and of its control")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.75, 0.5], help="of FLOPs, that are timed")
    parser.add_argument("--runs-timed", type=int, default=100, help="timed runs of each file, in turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("bench_yolov5_rows.json"))
    parser.add_argument("--print", action="store_true", help="print what is there and make nothing")
    return parser.parse_args(words)


def keeper(args: argparse.Namespace, rows: Rows, part: str) -> Keep:
    """What writes a row down."""

    def keep(key: str, row: Mapping[str, Any]) -> None:
        rows.setdefault(part, {})[key] = {**row, "code": record.code()}
        record.write_json(args.rows, rows)

    return keep


# ---------------------------------------------------------------------------------------------------------------------
# What slim detectors are worth


def make_bccd(args: argparse.Namespace, rows: Rows) -> None:
    """Transferred, cut, fine-tuned with the defaults, and trained on uncut."""
    keep = keeper(args, rows, "bccd")
    given = {"original": {"transfer": True, "epochs": args.transfer_epochs, "train": TRANSFER},
             "prune": {"target": {"flops": 0.5}}, "finetune": {"epochs": args.epochs}}  # fmt: skip
    config = configured(args, "bccd", given)

    def made(key: str, epochs: int, stage: Callable[..., record.Record]) -> None:
        if missing(rows, "bccd", key):
            keep(key, {**worth(stage(config)), "epochs": epochs})

    made("original", args.transfer_epochs, original)
    made("pruned", 0, prune_stage)
    made("finetuned", args.epochs, finetune)
    if missing(rows, "bccd", "ms"):
        export(config)
        files = {key: config.folder / key / f"{key}.pt" for key in ("original", "pruned")}
        keep("ms", timed({key: checkpoint.load(file) for key, file in files.items()}, config.imgsz, args, RUNTIMES))
    made("longer", args.epochs, train_on)


def make_coco(args: argparse.Namespace, rows: Rows) -> None:
    """The checkpoint on its own classes: cut as it is, and after an epoch of sparse training; all fine-tuned."""
    keep, whole = keeper(args, rows, "coco"), configured(args, "coco", {"finetune": {"epochs": args.coco_epochs}})
    for key, epochs, stage in (("original", 0, original), ("longer", args.coco_epochs, train_on)):
        if missing(rows, "coco", key):
            keep(key, {**worth(stage(whole)), "epochs": epochs})
    detectors = {"original": whole.folder / "original/original.pt"}
    for share, sparse in ((0.9, 0), (0.75, 0), (0.9, 1)):
        name = f"sparse {share:g}" if sparse else f"{share:g}"
        given = {"prune": {"target": {"flops": share}}, "finetune": {"epochs": args.coco_epochs},
                 "sparse_train": {"mode": "uniform", "epochs": sparse, "strength": STRENGTH}}  # fmt: skip
        config = configured(args, "coco", given, name.replace(" ", "_"))
        stages = [("sparse", sparse, sparse_train)] if sparse else []
        stages += [(name, sparse, prune_stage), (f"{name} finetuned", sparse + args.coco_epochs, finetune)]
        for key, epochs, stage in stages:
            if missing(rows, "coco", key):
                keep(key, {**worth(stage(config)), "epochs": epochs})
        detectors[name] = config.folder / "pruned/pruned.pt"
    if missing(rows, "coco", "ms"):
        keep("ms", timed({key: checkpoint.load(file) for key, file in detectors.items()}, whole.imgsz, args, RUNTIMES))


def configured(args: argparse.Namespace, part: str, given: dict[str, Any], name: str = "whole") -> Config:
    """Settings of a run, all others left as they are for a user who says no more."""
    data, imgsz = (args.bccd, args.bccd_imgsz) if part == "bccd" else (args.coco, args.coco_imgsz)
    common = {"model": args.model, "data": data, "imgsz": imgsz, "device": args.device, "runs": args.runs,
              "name": f"bench_yolov5_{part}_{name}", "sparse_train": {"epochs": 0}}  # fmt: skip
    return complete(check({**common, **given}, "bench_yolov5.py"))


def missing(rows: Rows, part: str, key: str) -> bool:
    """Whether a row is to be made."""
    return key not in rows.get(part, {})


def worth(done: record.Record) -> dict[str, Any]:
    """What is kept of a stage's measurements."""
    return {name: done.metrics[name] for name in KEPT}


def train_on(config: Config) -> record.Record:
    """The original at full width, trained on as others are fine-tuned: what the epochs alone are worth."""
    start = original(config).output(config.folder / "original")
    chosen = config.finetune
    settings = chosen.model_dump()

    def work(folder: Path) -> tuple:
        arguments = train_arguments(config, chosen.epochs, chosen.train)
        trained = train_in(folder, SlimTrainer, start, settings=settings, inputs=[start], extra={}, arguments=arguments)
        weights = checkpoint.save(checkpoint.load(trained / "best.pt"), folder / "longer.pt")
        return {"weights": weights}, measured(config, weights), {}

    return run_stage(config, "longer", settings, [start], work)


# ---------------------------------------------------------------------------------------------------------------------
# How fast they are


def make_speed(args: argparse.Namespace, rows: Rows) -> None:
    """Each net whole and cut by L1 norms, no images being asked for, timed in turn."""
    keep = keeper(args, rows, "speed")
    for path in (args.model, *args.darknet):
        whole = checkpoint.load(path)
        imgsz = args.coco_imgsz if path == args.model else whole.args["imgsz"]
        if not missing(rows, "speed", Path(path).stem):
            continue
        slims = {f"{share:g}": prune(whole, imgsz=imgsz, target={"flops": share}).model for share in args.shares}
        detectors = {"original": whole, **slims}
        sizes = {key: {**costs(each, imgsz), "file_mb": checkpoint.file_bytes(each) / 1e6}
                 for key, each in detectors.items()}  # fmt: skip
        keep(Path(path).stem, {"imgsz": imgsz, "rows": sizes, **timed(detectors, imgsz, args, FILES_IN)})


def costs(detector: nn.Module, imgsz: int) -> dict[str, int]:
    """Parameters and FLOPs."""
    spent = measure.cost(detector, imgsz)
    return {"params": spent.params, "flops": spent.flops}


def timed(
    detectors: Mapping[str, nn.Module], imgsz: int, args: argparse.Namespace, runtimes: Iterable[str]
) -> dict[str, Any]:
    """Milliseconds of an image in each runtime, all detectors in turn; and what they were measured on."""
    threads = os.cpu_count() or 1
    found: dict[str, Any] = {"device": measure.processor(), "threads": threads}
    for runtime in runtimes:
        runner = Runner(runtime, threads, imgsz)
        with Scratch() as folder:
            ready = {}
            for key, detector in detectors.items():
                (place := Path(folder) / key.replace(" ", "_")).mkdir()
                ready[key], _ = runner.start(detector, place)
            times = when_quiet(ready, args.runs_timed, runtime)
        found[runtime] = {key: measure.spread(ms) for key, ms in times.items()}
    return found


MAKE = {"bccd": make_bccd, "coco": make_coco, "speed": make_speed}

# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table(rows: Rows, part: str) -> str:
    """Markdown, with dashes for what is missing."""
    kept = rows.get(part, {})
    head, lines = (SPEED_HEAD, list(speeds(kept))) if part == "speed" else (HEAD, list(values(kept, part)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *lines))


def values(kept: Rows, part: str) -> Iterator[list[str]]:
    """What each detector is worth, line after line."""
    whole = kept.get("original", {}).get("flops")
    for key, name in (BCCD if part == "bccd" else COCO).items():
        if key not in kept:
            yield [name, *["–"] * (len(HEAD) - 1)]
            continue
        row = kept[key]
        cells = [name, f"{row['epochs'] or '–'}", f"{row['params'] / 1e6:.3f}", f"{row['flops'] / whole:.3f}"]
        cells += [f"{row[each]:.3f}" for each in ("map50_95", "map50", "f1_at_25")]
        cells += [f"{row['best_confidence']:.2f}"]
        times = [kept.get("ms", {}).get(runtime, {}).get(key) for runtime in RUNTIMES]
        yield cells + [f"{each['median']:.1f}" if each else "–" for each in times]


def speeds(kept: Rows) -> Iterator[list[str]]:
    """Each net, and its cuts beside it."""
    for net, found in kept.items():
        whole = found["rows"]["original"]
        for key, row in found["rows"].items():
            cells = [net if key == "original" else f"... FLOPs ×{key}", str(found["imgsz"])]
            cells += [f"{row[each] / whole[each]:.3f}" for each in ("flops", "params")] + [f"{row['file_mb']:.2f}"]
            for runtime in FILES_IN:
                now, before = (found[runtime][each]["median"] for each in (key, "original"))
                cells += [f"{now:.1f}", f"{now / before:.2f}"]
            yield cells


if __name__ == "__main__":
    main()
