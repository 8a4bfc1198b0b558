"""What do the defaults come to in so many epochs, all told? Beside the original trained on, and cuts of others.

    python scripts/bench_budget.py --model weights/bccd_v5n.pt --data data/bccd/bccd.yaml --share 0.5 --epochs 5 20

Each row is what a user gets who says no more than model, data, target and epochs: a run of the stages, fine-tuned with
the same defaults whatever was cut and by whom. `auto` is that of our two rows which `sparse_train.mode=auto` takes.
Rows are kept in scripts/bench_budget_rows.json as soon as they are there: interrupted, the same command goes on, and
`--print` shows what there is. With --bf16 (CPUs that have it) the five-epoch table of BCCD takes ten minutes on two
cores. Rows that begin with tp_ need `pip install torch-pruning`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch_pruned as peer
from bench_peers import spread

from yolo_slim import checkpoint, record
from yolo_slim.config import Complete, check
from yolo_slim.console import console
from yolo_slim.data.batches import first
from yolo_slim.errors import SlimError
from yolo_slim.measure import accuracy
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.pruning.recalibrate import recalibrate
from yolo_slim.runs.given import complete
from yolo_slim.runs.rows import measured, split_of
from yolo_slim.stages.auto import trained
from yolo_slim.stages.finetune import finetune, tune
from yolo_slim.stages.original import original
from yolo_slim.stages.prune import prune_stage
from yolo_slim.stages.sparse_train import sparse_train
from yolo_slim.stages.trial import decided

KEPT = ("params", "flops", "map50_95", "map50_95_low", "map50_95_high", "map50", "f1_at_25", "best_confidence")
WAYS = {
    "original": "original",
    "imgsz": "original, at a smaller image side of as many FLOPs",
    "longer": "original, trained on",
    "cut": "ours, cut first",
    "landing": "ours, half of the epochs landing first",
    "l1": "L1 norms, our recovery",
    "random": "random channels, our recovery",
    "tp_magnitude": "Torch-Pruning, MagnitudePruner, global",
    "tp_groupnorm_max": "Torch-Pruning, GroupNormPruner, global",
    "tp_taylor": "Torch-Pruning, Taylor, global",
    "tp_hessian": "Torch-Pruning, Hessian, global",
}
CHOSEN_BY = {"cut": None, "landing": None, "l1": "l1", "random": "random"}
"""Way -> `prune.criterion`."""
STRIDE = 32
HEAD = ("data", "FLOPs ×", "epochs", "detector", "params, M", "before training", "mAP50-95", "95 %", "F1 at 0.25",
        "best confidence", "seeds")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A row of one seed."""

    args: argparse.Namespace
    way: str
    epochs: int
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """What its row is kept under; the first two are trained for no epoch, and have one seed."""
        alone, share = self.way in ("original", "imgsz"), 1.0 if self.way == "original" else self.args.share
        return {"data": Path(self.args.data).stem, "share": share, "way": self.way, "imgsz": self.args.imgsz,
                "epochs": 0 if alone else self.epochs, "seed": 0 if alone else self.seed,
                "bf16": self.args.bf16}  # fmt: skip

    def config(self, sparse: int = 0) -> Complete:
        """The run's settings, all others as they are for a user who says no more."""
        args, chosen = self.args, CHOSEN_BY.get(self.way)
        train = {"amp": "bf16"} if args.bf16 else {}
        given = {
            **{name: getattr(args, name) for name in ("model", "data", "imgsz", "device", "runs")},
            "name": f"budget_{Path(args.data).stem}_{args.share:g}_{self.epochs}_{self.way}_{self.seed}",
            "seed": self.seed,
            "sparse_train": {"epochs": sparse, "train": train},
            "prune": {"target": {"flops": args.share}, "criterion": chosen, "seed": self.seed},
            "finetune": {"epochs": self.epochs - sparse, "train": train},
        }
        return complete(check(given, "scripts/bench_budget.py"))


def main() -> None:
    """Make the rows that are missing, then print the table."""
    args = read_arguments()
    print(table(filled(args, cases, lambda case: MAKE[case.way](case), "{0.way}, {0.epochs} epochs, seed {0.seed}")))


def filled(
    args: argparse.Namespace,
    cases: Callable[[argparse.Namespace], Iterable[Any]],
    make: Callable[[Any], dict[str, Any]],
    title: str,
) -> list[dict[str, Any]]:
    """The rows in `args.rows`, and those of the cases that were missing there: each is written once it is made.

    Args:
        args: `rows`, the file, and `print`: whether none is to be made.
        cases: from the arguments; each with `key`, what its row is kept under, and `way`.
        make: the rest of a row.
        title: said before one is made; {0} is the case.
    """
    rows: list[dict[str, Any]] = json.loads(args.rows.read_text()) if args.rows.exists() else []
    for case in [] if args.print else cases(args):
        if not any(has(row, case.key) for row in rows):
            console.rule(title.format(case))
            try:
                rows.append({**case.key, **make(case), "code": record.code()})
            except SlimError as e:
                console.print(f"{case.way}: not available: {e}", markup=False)
                continue
            record.write_json(args.rows, rows)
    return rows


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="weights/bccd_v5n.pt")
    parser.add_argument("--data", default="data/bccd/bccd.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--share", type=float, default=0.5, help="of the FLOPs, to keep")
    parser.add_argument("--epochs", type=int, nargs="+", default=[5], help="of training in all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--bf16", action="store_true", help="train in mixed precision")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("bench_budget_rows.json"))
    parser.add_argument("--print", action="store_true", help="print what is there and make nothing")
    return parser.parse_args(words)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """In order: the first seed of every row first."""
    for seed in args.seeds:
        for epochs in args.epochs:
            for way in args.ways:
                yield Case(args, way, epochs, seed)


def has(row: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether a row is kept under this key."""
    return all(row[name] == value for name, value in key.items())


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def worth(metrics: Any) -> dict[str, Any]:
    """What is kept of a stage's measurements."""
    return {name: metrics[name] for name in KEPT}


def whole(case: Case) -> dict[str, Any]:
    """The original as it is."""
    return worth(original(case.config()).metrics)


def smaller(case: Case) -> dict[str, Any]:
    """The original on smaller images: what costs no training at all."""
    config = case.config()
    weights = original(config).output(config.folder / "original")
    side = max(math.floor(config.imgsz * math.sqrt(case.args.share) / STRIDE), 1) * STRIDE
    found = accuracy(checkpoint.load(weights), config.dataset, side, split_of(config), config.device)
    return worth({**measured(config.model_copy(update={"imgsz": side}), weights), **found})


def longer(case: Case) -> dict[str, Any]:
    """The original, trained on for as many epochs in the same way."""
    config = plain(case.config())
    return worth(tune(config, "finetuned", original(config).output(config.folder / "original"), case.epochs).metrics)


def cut(case: Case) -> dict[str, Any]:
    """Cut by us, then fine-tuned for all of the epochs."""
    return stages(case.config())


def landing(case: Case) -> dict[str, Any]:
    """Landed for half of the epochs, cut, then fine-tuned for the other half; and whether `auto` would."""
    config = case.config(sparse=case.epochs // 2)
    takes = decided(config).sparse_train.epochs > 0
    config = trained(config, mode="targeted", min_steps=0)
    sparse_train(config)
    return {**stages(config), "auto": takes}


def stages(config: Complete) -> dict[str, Any]:
    """Cut and fine-tuned."""
    before = prune_stage(config).metrics
    return {**worth(finetune(config).metrics), "before": before["map50_95"]}


def torch_pruned(case: Case) -> dict[str, Any]:
    """Cut by Torch-Pruning and recalibrated on the images that we refit on, then fine-tuned as ours is."""
    config = plain(case.config())
    source = checkpoint.load(original(config).output(config.folder / "original"))
    evidence = evidence_from(config, source)
    narrow = peer.cut(source, case.way.removeprefix("tp_"), "global", config.imgsz, case.args.share, evidence)
    recalibrate(narrow, first(evidence.images, 256))
    start = checkpoint.save(narrow, config.folder / "torch_pruned.pt")
    return {
        **worth(tune(config, "finetuned", start, case.epochs).metrics),
        "before": measured(config, start)["map50_95"],
    }


def plain(config: Complete) -> Complete:
    """From labels alone: the teacher is part of what is ours."""
    return config.model_copy(update={"finetune": config.finetune.model_copy(update={"distill": None})})


MAKE: dict[str, Callable[[Case], dict[str, Any]]] = {
    "original": whole,
    "imgsz": smaller,
    "longer": longer,
    "cut": cut,
    "landing": landing,
    "l1": cut,
    "random": cut,
    "tp_magnitude": torch_pruned,
    "tp_groupnorm_max": torch_pruned,
    "tp_taylor": torch_pruned,
    "tp_hessian": torch_pruned,
}

# ---------------------------------------------------------------------------------------------------------------------
# Table


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown; means ± standard deviations over seeds, where there are several."""
    lines = [f"| {' | '.join(HEAD)} |", f"| --- | ---: | ---: | --- |{' ---: |' * (len(HEAD) - 4)}"]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], -row["share"], row["epochs"], list(WAYS).index(row["way"])), []).append(row)
    for key in sorted(groups):
        same = groups[key]
        one = next(r for r in rows if r["way"] == "original" and r["data"] == same[0]["data"])
        low, high = (statistics.fmean(r[f"map50_95_{end}"] for r in same) for end in ("low", "high"))
        cells = [
            same[0]["data"],
            f"{same[0]['flops'] / one['flops']:.3f}",
            str(same[0]["epochs"]),
            named(same[0], rows),
            f"{same[0]['params'] / 1e6:.3f}",
            spread(r.get("before") for r in same),
            spread(r["map50_95"] for r in same),
            f"{low:.3f}–{high:.3f}",
            spread(r["f1_at_25"] for r in same),
            f"{statistics.fmean(r['best_confidence'] for r in same):.2f}",
            str(len(same)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def named(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What a way is called; of ours, whether `auto` takes it."""
    if row["way"] not in ("cut", "landing"):
        return WAYS[row["way"]]
    key = {name: row[name] for name in ("data", "share", "epochs", "seed")} | {"way": "landing"}
    landed = next((r["auto"] for r in rows if has(r, key)), None)
    taken = landed is not None and landed == (row["way"] == "landing")
    return WAYS[row["way"]] + (" (`auto`)" if taken else "")


if __name__ == "__main__":
    main()
