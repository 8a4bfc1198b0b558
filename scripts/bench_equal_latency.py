"""At one latency: our cut to that latency, our cut by FLOPs, and the next smaller stock detector, all trained alike.

    python scripts/bench_equal_latency.py --model weights/bccd_v5s.pt --smaller weights/bccd_v5n.pt --runtime openvino
    python scripts/bench_equal_latency.py --model yolov5s.yaml --smaller yolov5n.yaml     # trains both first

The smaller detector's latency, timed in turn with the original's, is what both cuts are made to meet: the target is
halved in on until the exported file is measured to be as fast. Each finished part of a row is kept on disk at once:
interrupted, the same command goes on, and `--print` shows what is there.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bench_peers as peers
import numpy as np
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels import trace
from yolo_slim.config import Config, Prune, read_config
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.measure import cost
from yolo_slim.pruning.choose import findings, judge
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.runs.rows import measured
from yolo_slim.stages.original import original
from yolo_slim.timing.beside import Comparator
from yolo_slim.timing.layers import comparator
from yolo_slim.timing.runner import Runner

TITLES = {
    "original": "original",
    "latency": "ours, cut to the latency",
    "flops": "ours, cut by FLOPs until as fast",
    "smaller": "the next smaller stock detector",
}
SINCE = {"fisher", "rescore", "search", "device"}
"""Settings of `prune:` that came after the first rows, and are as they were then."""
SOLVERS = {"latency": "knapsack", "flops": "threshold"}
"""By latency, what a channel saves is weighed as well; by FLOPs the scores alone decide, as everywhere else."""
STEPS = 8
"""Of the search for the target that is as fast: a 256th of the original."""


@dataclass(frozen=True)
class Row:
    """One row, to be made; what `bench_peers.part` asks of one."""

    args: argparse.Namespace
    recipe: str
    seed: int

    @property
    def key(self) -> str:
        """What the row is kept under."""
        return f"{Path(self.args.data).stem} {self.args.runtime} {self.args.imgsz} px seed {self.seed} {self.recipe}"

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.config().folder

    def config(self, *words: str) -> Config:
        """The row's settings as the stages read them."""
        args = self.args
        runs = Path(args.runs) / Path(args.data).stem / args.runtime
        common = [f"model={args.model}", f"data={args.data}", f"imgsz={args.imgsz}", f"device={args.device}",
                  f"runs={runs}", f"name={self.recipe}-seed{self.seed}", f"seed={self.seed}", f"prune.seed={self.seed}",
                  f"latency.runtime={args.runtime}", f"latency.threads={args.timed_threads}", "prune.round_to=8",
                  "prune.min_channels=8",
                  f"prune.solver={SOLVERS.get(self.recipe, 'auto')}", *peers.OURS,
                  *peers.AS_THEN[:2]]  # fmt: skip
        return read_config(None, [*common, *words])

    def made_of(self, part: str) -> dict[str, Any]:
        """What decides the outcome."""
        args = self.args
        stamp = {"model": peers.sum_of(args.model), "smaller": peers.sum_of(args.smaller), "imgsz": args.imgsz,
                 "runtime": args.runtime, "threads": args.timed_threads,
                 "prune": self.config().prune.model_dump(mode="json", exclude=SINCE)}  # fmt: skip
        if part == "trained":
            stamp |= {"epochs": args.epochs, "train": peers.train_as(args)}
        return stamp


@functools.cache
def _timer(model: str, runtime: str, threads: int, imgsz: int) -> Comparator:
    detector = checkpoint.load(model)
    return comparator(detector, trace(detector, imgsz), Runner(runtime, threads, imgsz), runs=20)


def timer(row: Row) -> Comparator:
    """Of the original in the runtime, made ready once."""
    args = row.args
    return _timer(args.model, args.runtime, args.timed_threads, args.imgsz)


def bisected(cut_at: Callable[[float], nn.Module], latency: float, time: Callable[[nn.Module], float]) -> float:
    """The target in (0, 1) at which a cut comes closest to a share of the original's latency, as measured."""
    low, high, best, least = 0.0, 1.0, None, np.inf
    for _ in range(STEPS):
        asked = (low + high) / 2
        try:
            found = time(cut_at(asked))
        except SlimError:  # out of reach
            low = asked
            continue
        console.print(f"asked ×{asked:.3f}: measured ×{found:.3f} of the latency, wanted ×{latency:.3f}")
        if abs(found - latency) < least:
            best, least = asked, abs(found - latency)
        low, high = (low, asked) if found > latency else (asked, high)
    if best is None:
        raise SlimError(f"no cut comes near ×{latency:.3f} of the original's latency")
    return best


def slim(row: Row) -> None:
    """Cut by latency or by FLOPs to the smaller detector's latency: cut.pt, and recovered start.pt."""
    wanted = peers.part(replace(row, recipe="smaller"), "cut", MAKE)["latency"]
    detector, evidence = checkpoint.load(row.args.model), peers.evidence(row.args)
    wiring, base = trace(detector, row.args.imgsz), row.config("prune.target.latency=0.5")
    scores = judge(detector, wiring, base.prune, evidence)
    found = replace(findings(base, detector, timed=False), scores=lambda: scores)

    def at(target: float, recovery: tuple[str, ...]) -> nn.Module:
        chosen: Prune = row.config(f"prune.target.{row.recipe}={target}", *recovery).prune
        return cut_to_plan(detector, chosen, row.args.imgsz, evidence, found=found).model

    target = bisected(lambda asked: at(asked, peers.BARE), wanted, lambda slim: timer(row).one(slim).share)
    for name, recovery in (("cut", peers.BARE), ("start", peers.RECOVERY)):
        checkpoint.save(at(target, recovery), row.folder / f"{name}.pt")


def make_cut(row: Row) -> dict[str, Any]:
    """Write start.pt, and measure it before any training."""
    row.folder.mkdir(parents=True, exist_ok=True)
    if row.recipe in ("original", "smaller"):
        source = row.args.model if row.recipe == "original" else row.args.smaller
        checkpoint.save(checkpoint.load(source), row.folder / "start.pt")
    else:
        slim(row)
    config, start = row.config(), row.folder / "start.pt"
    made = {**measured(config, start), "latency": timer(row).one(checkpoint.load(start)).share}
    made["share"] = made["macs"] / cost(checkpoint.load(row.args.model), config.imgsz).macs
    if (bare := row.folder / "cut.pt").exists():
        made["bare"] = measured(config, bare)["map50_95"]
    return made


def make_trained(row: Row) -> dict[str, Any]:
    """Train from start.pt, and measure; the original as it is."""
    begun = peers.part(row, "cut", MAKE)
    if row.recipe == "original":
        return {**begun, "epochs": 0}
    config, epochs = row.config(), row.args.epochs
    trained = peers.train_and_measure(config, row.folder / "start.pt", epochs, peers.train_as(row.args))
    return {**trained, "epochs": epochs}


MAKE = {"cut": make_cut, "trained": make_trained}


def rows_of(args: argparse.Namespace) -> list[Row]:
    """In order: the first seed of all first; the original has one."""
    return [
        Row(args, recipe, seed)
        for seed in args.seeds
        for recipe in args.recipes
        if recipe != "original" or seed == args.seeds[0]
    ]


def table(args: argparse.Namespace) -> str:
    """Markdown, with dashes for what is missing, and what it comes to in words."""
    kept, rows, missing, results = peers.read_rows(args), rows_of(args), [], {}
    lines = [f"{args.runtime}, {args.timed_threads} threads, {args.imgsz} px, {Path(args.data).stem}, mAP50-95", ""]
    lines += ["| detector | params, M | FLOPs × | latency × | as cut | recovered | trained | seeds |"]
    lines += [f"| --- |{' ---: |' * 7}"]
    for recipe in args.recipes:
        mine = [r for r in rows if r.recipe == recipe]
        cuts = [c for r in mine if (c := peers.found(kept, r, "cut"))]
        ends = {r.seed: t["map50_95"] for r in mine if (t := peers.found(kept, r, "trained"))}
        results[recipe] = list(ends.values())
        cells = [f"{TITLES[recipe]} (`{recipe}`)"]
        cells += [f"{statistics.fmean(c['params'] for c in cuts) / 1e6:.3f}" if cuts else "–"]
        cells += [peers.spread(c["share"] for c in cuts), peers.spread(c["latency"] for c in cuts)]
        cells += [peers.spread(c.get("bare") for c in cuts), peers.spread(c["map50_95"] for c in cuts if "bare" in c)]
        cells += [peers.spread(ends.values()), f"{len(ends)} of {len(mine)}"]
        lines.append(f"| {' | '.join(cells)} |")
        if left := [str(r.seed) for r in mine if r.seed not in ends]:
            missing.append(f"{recipe} (seed {', '.join(left)})")
    if results.get("latency"):
        lines += ["", peers.verdict("latency", results)]
    if missing:
        lines += ["", f"Still missing: {'; '.join(missing)}"]
    return "\n".join(lines)


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = peers.common_parser(__doc__, TITLES)
    parser.set_defaults(model="weights/bccd_v5s.pt", runs="runs/bench_equal_latency")
    parser.add_argument("--smaller", default="weights/bccd_v5n.pt", help="trained as the original was")
    parser.add_argument(
        "--original-epochs", type=int, default=60, help="of a --model or --smaller that is a YAML: default %(default)s"
    )
    parser.add_argument("--runtime", default="openvino", help="openvino, onnxruntime or torch: default %(default)s")
    parser.add_argument("--timed-threads", type=int, default=os.cpu_count(), help="of the runtime: default %(default)s")
    args = parser.parse_args(words)
    peers.settle(parser, args, TITLES)
    args.untrained = []
    for role in ("model", "smaller"):
        if (stock := getattr(args, role)).endswith(".yaml"):
            args.untrained.append(first_trained(args, stock))
            setattr(args, role, str(args.untrained[-1].folder / "original" / "original.pt"))
        else:
            peers.expect_checkpoints(parser, args, stock)
    return args


def first_trained(args: argparse.Namespace, stock: str) -> Config:
    """How an untrained detector is trained, and where: from scratch, so with Ultralytics' own warm-up and mosaic."""
    train = {k: v for k, v in peers.train_as(args).items() if k not in ("warmup_epochs", "close_mosaic")}
    return read_config(None, [
        f"model={stock}", f"data={args.data}", f"imgsz={args.imgsz}", f"device={args.device}",
        f"runs={Path(args.runs) / Path(args.data).stem}", f"name={Path(stock).stem}",
        f"original.epochs={args.original_epochs}", f"original.train={json.dumps(train)}",
    ])  # fmt: skip


def make(args: argparse.Namespace) -> list[str]:
    """Everything that is missing; returns what cannot be made, and why."""
    for config in args.untrained:
        try:
            original(config)
        except SlimError as e:
            return [f"{config.name}: not available: {e}"]
    return peers.complete(rows_of(args), "trained", MAKE)


def main(words: list[str] | None = None) -> None:
    """The table at one latency."""
    peers.run(read_arguments(words), make, table)


if __name__ == "__main__":
    main()
