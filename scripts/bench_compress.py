"""What does each compression keep at equal bytes, and at equal FLOPs; and what do chains of them come to?

    python scripts/bench_compress.py --model weights/bccd_v5n.pt --data data/bccd/bccd.yaml --bf16

Each row is a run of the stages: the method alone, set so strong that the packed file (`yolo-slim pack`) takes a share
of the fp16 checkpoint, or that a share of the FLOPs is left; then as many epochs of training for each, in which what
was made is held. Chains end below a number of bytes. Rows are kept in scripts/bench_compress_rows.json as soon as they
are there: interrupted, the same command goes on, and `--print` shows what there is. Two to five minutes a row.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_budget import filled  # beside this file
from bench_peers import spread

from yolo_slim import checkpoint, packing, record
from yolo_slim import prune as cut
from yolo_slim.compress import METHODS, Material
from yolo_slim.compress.apply import applied
from yolo_slim.config import Complete, check
from yolo_slim.console import console
from yolo_slim.data.batches import Batches
from yolo_slim.errors import SlimError
from yolo_slim.runs.given import complete
from yolo_slim.stages.bench import measured_in
from yolo_slim.stages.compress import compress
from yolo_slim.stages.finetune import finetune
from yolo_slim.stages.original import original
from yolo_slim.stages.prune import prune_stage
from yolo_slim.timing.runner import Runner

Entries = list[Any]
"""As `compress` takes them."""


def masks(**more: Any) -> Callable[[float], Entries]:
    """By the share of the weights that is zero."""
    return lambda strength: [{"weights": {"sparsity": round(strength, 4), **more}}]


def low_rank(**more: Any) -> Callable[[float], Entries]:
    """By the share of the FLOPs that goes."""
    return lambda strength: [{"low_rank": {"target": {"flops": round(1 - strength, 4)}, **more}}]


BY_STRENGTH: dict[str, Callable[[float], Entries]] = {
    "weights": masks(),
    "weights, LAMP": masks(criterion="lamp"),
    "weights, OBS": masks(criterion="obs"),
    "weights, random": masks(criterion="random"),
    "weights, every layer alike": masks(scope="local"),
    "kernel": masks(pattern="kernel"),
    "vector": masks(pattern="vector"),
    "shape": masks(pattern="shape"),
    "stripe": masks(pattern="stripe"),
    "block 1x8": masks(pattern="block:1x8"),
    "low rank": low_rank(),
    "low rank, not by images": low_rank(data_aware=False),
    "low rank, Tucker-2": low_rank(how="tucker2"),
}
"""Set by a number from 0 on, below 1: the more, the smaller."""
IN_TRAINING: dict[str, tuple[str, Callable[[float], Entries]]] = {
    "weights, cubic": ("weights", masks(schedule="cubic")),
    "weights, OBS, cubic": ("weights, OBS", masks(criterion="obs", schedule="cubic")),
    "stripe, Filter Skeleton": ("stripe", masks(pattern="stripe", criterion="skeleton")),
}
"""Way -> the one by which its strength is found, for untrained it takes out nothing, and what it is set to."""
BY_STEPS: dict[str, list[Entries]] = {
    "cluster": [[{"cluster": {"bits": bits}}] for bits in range(8, 1, -1)],
    "quantize": [[{"quantize": {"bits": bits}}] for bits in range(8, 3, -1)],
}
"""Set in steps, the largest first."""
AS_THEY_ARE: dict[str, Entries] = {
    "2:4": [{"weights": {"pattern": "2:4"}}],
    "1:4": [{"weights": {"pattern": "1:4"}}],
    "low rank, CP": [{"low_rank": {"how": "cp", "energy": 0.9}}],
    "depthwise and 1x1": [{"compact": {"module": "dwsep"}}],
    "two groups": [{"compact": {"module": "group", "groups": 2}}],
    "ghost": [{"compact": {"module": "ghost"}}],
}
"""Not set by a number: the row says what it comes to."""
CHANNELS = "channels"
FLOPS_ALONE = (CHANNELS, "low rank", "low rank, Tucker-2")
CHAINS: dict[str, Callable[[float], Entries]] = {
    "channels, clusters": lambda s: [prune(s), {"cluster": {"bits": 5}}],
    "channels, INT8": lambda s: [prune(s), {"quantize": {"bits": 8}}],
    "channels, low rank, clusters": lambda s: [prune(s), low_rank()(0.15)[0], {"cluster": {"bits": 5}}],
    "channels, 2:4, clusters": lambda s: [prune(s), {"weights": {"pattern": "2:4"}}, {"cluster": {"bits": 5}}],
    "channels, half zero, clusters": lambda s: [prune(s), masks()(0.5)[0], {"cluster": {"bits": 4}}],
    "channels, low rank, 2:4, INT8": lambda s: [
        prune(s), low_rank()(0.15)[0], {"weights": {"pattern": "2:4"}}, {"quantize": {"bits": 8}},
    ],
}  # fmt: skip
"""By the share of the FLOPs that channel pruning takes."""
HEAD = ("data", "held to", "method", "set to", "FLOPs ×", "kB packed", "of fp16", "before training", "mAP50-95",
        "F1 at 0.25", "onnxruntime, ms", "OpenVINO, ms", "seeds")  # fmt: skip
HALVINGS = 7
ROOM = 0.96
"""Share of the bytes that what is not trained yet may take: training makes numbers less alike."""


def prune(strength: float) -> dict[str, Any]:
    """Channel pruning that takes a share of the FLOPs."""
    return {"prune": {"target": {"flops": round(1 - strength, 4)}}}


@dataclass(frozen=True)
class Case:
    """A row of one seed."""

    args: argparse.Namespace
    way: str
    goal: str  # "bytes", "flops", "kB" or "as it is"
    amount: float
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """What its row is kept under."""
        return {"data": Path(self.args.data).stem, "way": self.way, "goal": self.goal, "amount": self.amount,
                "epochs": self.args.epochs, "imgsz": self.args.imgsz, "seed": self.seed}  # fmt: skip

    def config(self, entries: Entries) -> Complete:
        """Of a run with these methods, as many epochs after each."""
        args = self.args
        train = {"amp": "bf16"} if args.bf16 else {}
        steps = [entry if "prune" in entry else _with(entry, epochs=args.epochs, train=train) for entry in entries]
        name = f"compress_{Path(args.data).stem}_{self.way}_{self.goal}_{self.amount:g}_{self.seed}"
        given = {
            **{key: getattr(args, key) for key in ("model", "data", "imgsz", "device", "runs")},
            "name": "".join(c if c.isalnum() else "_" for c in name),
            "seed": self.seed,
            "sparse_train": {"epochs": 0},
            "finetune": {"epochs": args.epochs, "train": train},
            "compress": steps or ["prune"],
            "bench": {"runtimes": ["onnxruntime", "openvino"], "runs": 50},
        }
        return complete(check(given, "scripts/bench_compress.py"))


def _with(entry: dict[str, Any], **more: Any) -> dict[str, Any]:
    ((name, options),) = entry.items()
    lasting = {k: v for k, v in more.items() if not (name == "quantize" and k == "epochs")}  # its codes do not train
    return {name: {**options, **lasting}}


def main() -> None:
    """Make the rows that are missing, then print the table."""
    args = read_arguments()
    print(table(filled(args, cases, made, "{0.way}, {0.goal} {0.amount:g}, seed {0.seed}")))


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="weights/bccd_v5n.pt")
    parser.add_argument("--data", default="data/bccd/bccd.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=5, help="of training after each method")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25], help="of the fp16 file's bytes")
    parser.add_argument("--flops", type=float, nargs="*", default=[0.5], help="shares of the FLOPs")
    parser.add_argument("--kilobytes", type=float, nargs="*", default=[500, 250], help="that a chain may take")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", help="of the rows; default: all")
    parser.add_argument("--bf16", action="store_true", help="train in mixed precision")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("bench_compress_rows.json"))
    parser.add_argument("--print", action="store_true", help="print what is there and make nothing")
    return parser.parse_args(words)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """The original, methods alone, then chains."""
    wanted = set(args.ways or ["original", CHANNELS, *BY_STRENGTH, *IN_TRAINING, *BY_STEPS, *AS_THEY_ARE, *CHAINS])
    for seed in args.seeds:
        rows = [
            ("original", "as it is", [1.0]),
            *((way, "bytes", args.shares) for way in (CHANNELS, *BY_STRENGTH, *IN_TRAINING, *BY_STEPS)),
            *((way, "flops", args.flops) for way in FLOPS_ALONE),
            *((way, "as it is", [1.0]) for way in AS_THEY_ARE),
            *((way, "kB", args.kilobytes) for way in CHAINS),
        ]
        yield from (Case(args, way, goal, amount, seed) for way, goal, at in rows if way in wanted for amount in at)


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def made(case: Case) -> dict[str, Any]:
    """A row: the methods found, run and trained, packed and timed."""
    begun = original(case.config([]))
    start = begun.output(case.config([]).folder / "original")
    if case.way == "original":
        return row_of(case, begun.metrics, start, {"fp16": start.stat().st_size}, "")
    entries = found(case, start)
    config = case.config(entries)
    before = None
    if any("prune" in entry for entry in entries):
        before = prune_stage(config).metrics["map50_95"]
        done = finetune(config)
    if any("prune" not in entry for entry in entries):
        done = compress(config)
        first = record.read(config.folder / done.details["steps"][0].removesuffix("/trained"))
        before = first.metrics["map50_95"] if before is None and first else before
    return row_of(case, done.metrics, done.output(config.folder / done.stage), {"before": before}, said(entries))


def row_of(case: Case, metrics: dict[str, Any], weights: Path, more: dict[str, Any], told: str) -> dict[str, Any]:
    """What is kept of it."""
    kept = ("params", "flops", "map50_95", "map50_95_low", "map50_95_high", "map50", "f1_at_25", "best_confidence")
    row = {name: metrics[name] for name in kept}
    times = timed(case.config([]), weights) if case.way != "original" else {}
    return {**row, **more, "set": told, "packed": len(packing.pack(weights)), "ms": times}


def timed(config: Complete, weights: Path) -> dict[str, float]:
    """Milliseconds an image, in each runtime: of the original and of these weights, in turn."""
    assert config.bench is not None
    runners = [Runner.of(name, config.bench.threads, config.imgsz, config.device, 1) for name in config.bench.runtimes]
    whole = original(config).output(config.folder / "original")
    content = measured_in(config, runners, {"original": checkpoint.load(whole), "slim": checkpoint.load(weights)})
    return {f"{row['runtime']} {row['stage']}": row["latency_ms"]["median"] for row in content["rows"]}


def said(entries: Entries) -> str:
    """The methods as they are set."""
    return "; ".join(f"{name}: {options}" for entry in entries for name, options in entry.items())


def found(case: Case, start: Path) -> Entries:
    """The methods, as weak as they can be to meet what the row is held to."""
    if case.way in AS_THEY_ARE:
        return AS_THEY_ARE[case.way]
    if case.goal == "flops":
        return [prune(1 - case.amount)] if case.way == CHANNELS else BY_STRENGTH[case.way](1 - case.amount)
    limit = case.amount * 1000 if case.goal == "kB" else case.amount * start.stat().st_size
    fits = Fitting(case, start, ROOM * limit)
    if case.way in BY_STEPS:
        return next((entries for entries in BY_STEPS[case.way] if fits(entries)), None) or _none(case)
    way, made_so = IN_TRAINING.get(case.way, (case.way, None))
    of = CHAINS.get(way) or BY_STRENGTH.get(way) or (lambda s: [prune(s)])
    weak, strong = 0.0, 0.98
    if not fits(of(strong)):
        return _none(case)
    for _ in range(HALVINGS):
        middle = (weak + strong) / 2
        weak, strong = (weak, middle) if fits(of(middle)) else (middle, strong)
    return (made_so or of)(strong)


def _none(case: Case) -> Entries:
    raise SlimError(f"nothing that {case.way} can be set to takes so little")


class Fitting:
    """Whether methods, untrained, bring a detector's packed file below a number of bytes."""

    def __init__(self, case: Case, start: Path, limit: float) -> None:
        self.case, self.limit = case, limit
        self.detector = checkpoint.load(start)
        self.images = Batches(case.args.data, case.args.imgsz, 32)

    def __call__(self, entries: Entries) -> bool:
        detector, material = self.detector, Material(self.case.args.imgsz, self.images)
        try:
            for entry in entries:
                ((name, options),) = entry.items()
                if name == "prune":
                    how = {"calib_images": 8, "rescore": 1, "reconstruct": None}  # about the widths, at once
                    detector = cut(detector, imgsz=material.imgsz, data=self.case.args.data, **options, **how).model
                else:
                    detector = applied(detector, METHODS[name](**options), material, refits=False).model
        except SlimError as e:
            console.print(f"{said(entries)}: {e}", markup=False)
            return False
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.mark_slim(detector, {})
            return len(packing.pack(checkpoint.save(detector, Path(folder) / "tried.pt"))) <= self.limit


# ---------------------------------------------------------------------------------------------------------------------
# Table


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown; means over seeds, where there are several."""
    lines = [f"| {' | '.join(HEAD)} |", f"| --- | --- | --- | --- |{' ---: |' * (len(HEAD) - 4)}"]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["goal"], -row["amount"], row["way"]), []).append(row)
    for same in groups.values():
        first = same[0]
        one = next(r for r in rows if r["way"] == "original" and r["data"] == first["data"])
        held = {"bytes": f"{first['amount']:.0%} of fp16", "flops": f"FLOPs ×{first['amount']:g}",
                "kB": f"{first['amount']:g} kB"}.get(first["goal"], "")  # fmt: skip
        times = [_ratio(same, runtime) for runtime in ("onnxruntime", "openvino")]
        cells = [
            first["data"], held, first["way"], first["set"].replace("|", "\\|"), f"{first['flops'] / one['flops']:.3f}",
            f"{first['packed'] / 1e3:.0f}", f"{first['packed'] / one['fp16']:.2f}" if "fp16" in one else "",
            spread(r.get("before") for r in same), spread(r["map50_95"] for r in same),
            spread(r["f1_at_25"] for r in same), *times, str(len(same)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(same: list[dict[str, Any]], runtime: str) -> str:
    found = [r["ms"] for r in same if f"{runtime} slim" in r["ms"]]
    if not found:
        return ""
    slim, whole = (sum(ms[f"{runtime} {stage}"] for ms in found) / len(found) for stage in ("slim", "original"))
    return f"{slim:.2f} (of {whole:.2f})"


if __name__ == "__main__":
    main()
