"""BCCD at half of the FLOPs, every stage and its controls, on the test split.

    python scripts/bench_bccd.py --model weights/bccd_v5n.pt --data data/bccd/bccd.yaml

Each row is kept on disk (runs/bench_bccd/rows.json) as soon as it is there: interrupted, the same command goes on, and
`--print` shows the table with what is still missing. About 90 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from yolo_slim import checkpoint, record
from yolo_slim.config import Config, read_config
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import run_stage
from yolo_slim.stages.common import train_arguments
from yolo_slim.stages.finetune import finetune
from yolo_slim.stages.original import original
from yolo_slim.stages.prune import prune_stage
from yolo_slim.stages.sparse_train import sparse_train
from yolo_slim.training.folder import train_in
from yolo_slim.training.trainer import SlimTrainer

RECIPE = ("sparse_train.mode=uniform", "sparse_train.epochs=15", "sparse_train.strength=0.3",
          "prune.criterion=bn_scale", "prune.scope=layer",
          "prune.reconstruct=none", "prune.recalibrate=200")  # fmt: skip
"""Network slimming as it is usually done: sparse training, scales, constants absorbed, batch norm recalibrated."""

ROWS = {  # key -> what the row is called
    "original": "original",
    "longer": "original, trained on for as many epochs as all stages together",
    "sparse": "after sparse training",
    "cut": "cut, nothing recovered",
    "absorbed": "cut, constants absorbed (measured)",
    "pruned": "cut, absorbed, recalibrated",
    "plain": "... fine-tuned",
    "mimic": "... fine-tuned with mimicry",
    "direct_pruned": "control: no sparse training, L1 norms, recalibrated",
    "direct": "control: ... fine-tuned as long as sparse training and fine-tuning together",
}


def main() -> None:
    """Make the rows that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/bccd.yaml")
    parser.add_argument("--model", default="weights/bccd_v5n.pt")
    parser.add_argument("--data", default="data/bccd/bccd.yaml")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--print", action="store_true", help="print what is there and make nothing")
    args = parser.parse_args()
    store = Path(args.runs) / "bench_bccd" / "rows.json"
    rows = json.loads(store.read_text()) if store.exists() else {}
    if not args.print:
        store.parent.mkdir(parents=True, exist_ok=True)
        make(args, rows, store)
    print(table(rows))


def make(args: argparse.Namespace, rows: dict, store: Path) -> None:
    """Every row, in an order in which later ones build on earlier ones."""
    common = [f"model={args.model}", f"data={args.data}", f"device={args.device}", f"runs={args.runs}", *RECIPE]

    def config(name: str, *words: str) -> Config:
        return read_config(args.config, [*common, f"name=bench_bccd_{name}", *words])

    def keep(key: str, row: dict) -> None:
        rows[key] = {k: row[k] for k in ("params", "flops", "file_mb", "map50", "map50_95", "split")}
        record.write_json(store, rows)

    plain, mimic = config("plain", "finetune.distill=null"), config("mimic", "finetune.distill.features=mimic")
    epochs = plain.sparse_train.epochs + plain.finetune.epochs
    direct = config("direct", "sparse_train.epochs=0", "prune.criterion=l1", "prune.scope=global",
                    f"finetune.epochs={epochs}", "finetune.distill=null")  # fmt: skip
    longer = config("longer", f"finetune.epochs={epochs}", "finetune.distill=null")

    keep("original", original(plain).metrics)
    keep("sparse", sparse_train(plain).metrics)
    partly(plain, keep)
    keep("pruned", prune_stage(plain).metrics)
    share(plain, mimic)
    keep("mimic", finetune(mimic).metrics)
    keep("plain", finetune(plain).metrics)
    keep("direct_pruned", prune_stage(direct).metrics)
    keep("direct", finetune(direct).metrics)
    keep("longer", train_on(longer).metrics)


def partly(config: Config, keep: object) -> None:
    """The same cut without its recovery, one part at a time."""
    folder = config.folder / "partly"
    folder.mkdir(parents=True, exist_ok=True)
    detector = checkpoint.load(config.folder / "sparse" / "sparse.pt")
    evidence = evidence_from(config, detector)
    for key, absorb in (("cut", "none"), ("absorbed", "measured")):
        chosen = config.prune.model_copy(update={"absorb": absorb, "recalibrate": 0})
        weights = checkpoint.save(cut_to_plan(detector, chosen, config.imgsz, evidence).model, folder / f"{key}.pt")
        keep(key, measured(config, weights))


def share(done: Config, other: Config) -> None:
    """Both ways of fine-tuning start from the very same cut."""
    for stage in ("original", "sparse", "pruned"):
        shutil.copytree(done.folder / stage, other.folder / stage, dirs_exist_ok=True)


def train_on(config: Config) -> record.Record:
    """The original at full width, trained on: what the epochs alone are worth."""
    start = original(config).output(config.folder / "original")
    chosen = config.finetune

    def work(folder: Path) -> tuple:
        arguments = train_arguments(config, chosen.epochs, chosen.train)
        trained = train_in(
            folder, SlimTrainer, start, settings=chosen.model_dump(), inputs=[start], extra={}, arguments=arguments
        )
        weights = checkpoint.save(checkpoint.load(trained / "best.pt"), folder / "longer.pt")
        return {"weights": weights}, measured(config, weights), {}

    return run_stage(config, "longer", chosen.model_dump(), [start], work)


def table(rows: dict) -> str:
    """Markdown, with dashes for what is missing."""
    lines = [
        "| detector | params, M | GFLOPs | file, MB | mAP50 | mAP50-95 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, name in ROWS.items():
        r = rows.get(key)
        cells = ["–"] * 5
        if r:
            cells = [f"{r['params'] / 1e6:.3f}", f"{r['flops'] / 1e9:.3f}", f"{r['file_mb']:.2f}"]
            cells += [f"{r[k]:.3f}" for k in ("map50", "map50_95")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    missing = [name for key, name in ROWS.items() if key not in rows]
    return "\n".join([*lines, *([f"\nStill missing: {'; '.join(missing)}"] if missing else [])])


if __name__ == "__main__":
    main()
