"""Is the table of layers right? Latencies predicted and measured, targets asked for and met, FLOPs that became speed.

    python scripts/bench_latency.py --model yolov5s.yaml --imgsz 640 --runtimes onnxruntime openvino --threads 2

Measures each runtime's table anew (its seconds are printed), then cuts at random, to a share of the latency as `prune`
does (chosen again where a cut is timed and off), and to half of the FLOPs with widths in multiples of 1, 8 and 16, and
times every exported file in turn with the original's: rows are printed when all of a runtime are timed.
Ends with 1 where a prediction is over 10 % off, or a target of latency over 5 %.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels import Constraints, Costs, LayerTable, Selection, Trace, cut, select, trace
from yolo_slim.config import Latency
from yolo_slim.config.choices import TIMED_BY_LAYER
from yolo_slim.errors import SlimError
from yolo_slim.importance import score
from yolo_slim.timing.beside import Comparator
from yolo_slim.timing.layers import comparator, measured_table, random_widths, slimmed
from yolo_slim.timing.runner import Runner
from yolo_slim.timing.targets import as_fast

RUNTIMES = ("torch", *TIMED_BY_LAYER)
PREDICTED, MET = 0.10, 0.05
"""How far off a prediction, and a target that was met, may be."""


@dataclass(frozen=True)
class Asked:
    """What was asked for, and what was found."""

    name: str
    share: float
    round_to: int
    found: Selection | SlimError  # refused: out of reach

    @property
    def asked(self) -> str:
        """As a table has it."""
        return f"{self.name} ×{self.share:g} | {self.round_to}"


def cuts_aimed(
    wiring: Trace, detector: nn.Module, table: LayerTable, latency: float, flops: float, beside: Comparator
) -> list[Asked]:
    """Cuts by L1 norms: to a share of the latency, and to one of the FLOPs, with the same roundings."""
    scores, targets = score(detector, wiring, "l1", normalize="mean"), []

    def at(round_to: int, target: Mapping[str, float]) -> Selection:
        return select(wiring, scores, Constraints(target=target, round_to=round_to, latency=table))

    def timed(found: Selection) -> dict[str, float]:
        return {"latency": beside.one(cut(detector, wiring, found.kept)).share}

    for name, share in (("latency", latency), ("flops", flops)):
        for round_to in (1, 8, 16):
            rounded, target = functools.partial(at, round_to), {name: share}
            try:
                found = as_fast(rounded, target, timed) if name == "latency" else rounded(target)
            except SlimError as e:
                found = e
            targets.append(Asked(name, share, round_to, found))
    return targets


def predicted_rows(costs: Costs, table: LayerTable, cuts: Sequence[np.ndarray], shares: Sequence[float]) -> list[str]:
    """Random cuts: predicted against measured. Prints them; returns what is beyond its bound."""
    whole = float(table.many(costs, costs.full[None])[0])
    print("\n| random cut | FLOPs × | predicted × | measured × | error |\n| ---: | ---: | ---: | ---: | ---: |")
    errors = []
    for i, (widths, measured) in enumerate(zip(cuts, shares, strict=True)):
        predicted = float(table.many(costs, widths[None])[0]) / whole
        errors.append(predicted / measured - 1)
        flops = costs.of(widths).macs / costs.of(costs.full).macs
        print(f"| {i + 1} | {flops:.3f} | {predicted:.3f} | {measured:.3f} | {errors[-1]:+.1%} |")
    worst = np.abs(errors).max()
    print(f"\nLargest error {worst:.1%}, mean of their sizes {np.abs(errors).mean():.1%}.")
    return [f"a prediction is {worst:.1%} off, more than {PREDICTED:.0%}"] if worst > PREDICTED else []


def target_rows(targets: Sequence[Asked], shares: Sequence[float]) -> list[str]:
    """Targets: asked for, found and measured. Prints them; returns what is beyond its bound.

    Args:
        targets: one out of reach is refused, which is no miss.
        shares: of those that are not.
    """
    missed, shares = [], list(shares)
    print("\n| asked | widths of | FLOPs × | predicted × | measured × | share of the FLOPs cut that became speed |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for target in targets:
        if isinstance(target.found, SlimError):
            print(f"| {target.asked} | – | – | – | {target.found} |")
            continue
        measured, now = shares.pop(0), target.found.achieved
        became = f"{(1 - measured) / (1 - now['flops']):.0%}"
        cells = [target.asked, f"{now['flops']:.3f}", f"{now['latency']:.3f}", f"{measured:.3f}", became]
        print(f"| {' | '.join(cells)} |")
        if target.name == "latency" and abs(measured / target.share - 1) > MET:
            missed.append(
                f"latency ×{target.share:g}, widths of {target.round_to}: measured ×{measured:.3f}, over {MET:.0%} off"
            )
    return missed


def main(words: list[str] | None = None) -> int:
    """Everything, runtime by runtime; 1: something is beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5s.yaml", help="a checkpoint, or a YAML: weights do not matter here")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"], choices=RUNTIMES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cuts", type=int, default=20, help="random cuts to predict")
    parser.add_argument("--latency", type=float, default=0.5, help="share asked for")
    parser.add_argument("--flops", type=float, default=0.5, help="share asked for")
    parser.add_argument("--runs", type=int, default=20, help="timed runs of each detector, in turn with the original")
    args, missed = parser.parse_args(words), []
    detector = checkpoint.load(args.model)
    wiring = trace(detector, args.imgsz)
    for runtime in args.runtimes:
        runner = Runner(runtime, args.threads, args.imgsz)
        start = time.time()
        table, baseline = measured_table(detector, wiring, runner, samples=Latency().samples, runs=args.runs)
        print(f"\n## {args.model} at {args.imgsz} px, {runtime} {runner.version}, {args.threads} threads\n")
        print(
            f"Table of layers: {time.time() - start:.0f} s; blocks of {table.block}, aligned to {table.align}; the "
            f"original takes {baseline:.1f} ms."
        )
        cuts = random_widths(wiring, args.cuts + 1, seed=1)[1:]
        beside = comparator(detector, wiring, runner, args.runs)
        targets = cuts_aimed(wiring, detector, table, args.latency, args.flops, beside)
        slims = [functools.partial(slimmed, detector, wiring, widths) for widths in cuts]
        chosen = [target.found.kept for target in targets if not isinstance(target.found, SlimError)]
        slims += [functools.partial(cut, detector, wiring, kept) for kept in chosen]
        shares = [each.share for each in beside.many(slims, f"exported files, {runtime}")]
        found = predicted_rows(Costs(wiring), table, cuts, shares[: len(cuts)])
        found += target_rows(targets, shares[len(cuts) :])
        print("\n" + ("; ".join(f"MISSED: {line}" for line in found) if found else "All within their bounds."))
        missed += found
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
