"""Prune in rounds: cut a little, fine-tune, cut on; each round is two stages with records of their own.

So a kill between rounds costs nothing, one inside a training costs an epoch, and another setting redoes only what it
changes: `stop_if_map_drop` no round at all, another number of rounds every one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.markdown import Markdown

import yolo_slim.report as report
from yolo_slim import checkpoint, record
from yolo_slim.channels import SCHEDULES, Costs, Plan, Start, trace
from yolo_slim.channels.space import SLACK
from yolo_slim.config import Complete, Prune
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.pruning.choose import findings
from yolo_slim.pruning.plan import read_plan
from yolo_slim.record import Record
from yolo_slim.row import Row
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import finished, run_stage
from yolo_slim.stages.common import look_of, say
from yolo_slim.stages.cut import cut_stage
from yolo_slim.stages.finetune import tune
from yolo_slim.stages.labels import check_labels
from yolo_slim.stages.lesson import pictures, teachers_of
from yolo_slim.stages.plan import FILE, plan_stage

SPLIT = "val"  # where to stop is a choice, and the test split has no say in choices


@dataclass(frozen=True)
class Round:
    """A cut and, but for the last round, what fine-tuning made of it."""

    asked: dict[str, float]  # shares of the detector before the first round
    plan: Plan
    cut: Record
    tuned: Record | None

    @property
    def map50_95(self) -> float | None:
        """After fine-tuning."""
        return self.tuned.metrics["map50_95"] if self.tuned else None


def prune_in_rounds(config: Complete, start: Path) -> Record:
    """runs/<name>/pruned/{pruned.pt, plan.json} as after one cut of `start`, and rounds/<k>/{plan, cut, finetuned}/.

    Raises:
        SlimError: no data set, a target that cannot be met, or no round within the limit.
    """
    if not config.data:
        raise SlimError(
            f"prune.iterations.rounds={config.prune.iterations.rounds} fine-tunes between the rounds and needs a data "
            "set for it: give data=path/to/data.yaml, or cut at once: prune.iterations.rounds=1"
        )
    if config.prune.iterations.stop_if_map_drop is not None:
        check_labels(config, "prune.iterations.stop_if_map_drop goes by mAP")
    settings = {**config.prune.model_dump(), "imgsz": config.imgsz, "data": config.data, **config.timing}
    tuning = {**config.finetune.model_dump(exclude={"epochs"}), "seed": config.seed}
    teaching = config.finetune.lesson
    if teaching:
        tuning |= pictures(teaching)

    def work(folder: Path) -> tuple:
        first = finished(config, "original")
        assert first is not None, "`start` comes from it"
        before = measured(config, first, SPLIT)
        whole = before["map50_95"]
        rounds, stopped = _until_stopped(config, start, before)
        used = rounds[:-1] if stopped else rounds
        weights = checkpoint.save(checkpoint.load(_weights(config, used[-1])), folder / "pruned.pt")
        record.write_json(folder / FILE, _composed(used).as_json)
        details = _details(config, rounds, len(used)) | {"iterations": _table(rounds, whole, stopped)}
        console.print(Markdown(report.rounds(details["iterations"])))
        row = measured(config, weights)
        say(config, "pruned", row, weights)
        return {"weights": weights, "plan": folder / FILE}, row, details

    inputs = [start, *(teachers_of(config, teaching) if teaching and teaching.teacher != "original" else [])]
    return run_stage(config, "pruned", {**settings, "finetune": tuning}, inputs, work)


def _until_stopped(config: Complete, start: Path, whole: Row) -> tuple[list[Round], str | None]:
    """The rounds, and why they ended early; the last one is then the one that fell too far."""
    chosen, limit = config.prune.iterations, config.prune.iterations.stop_if_map_drop
    detector = checkpoint.load(start)
    before, whole_is = trace(detector, config.imgsz), {"size_mb": start.stat().st_size / 1e6}
    if table := findings(config, detector, timed=False).layers:
        costs = Costs(before)
        whole_is["latency_ms"] = float(table.many(costs, costs.full[None])[0])
    rounds: list[Round] = []
    for k in range(1, chosen.rounds + 1):
        weights = _weights(config, rounds[-1]) if rounds else start
        rounds.append(_round(config, k, weights, Start(before, _composed(rounds)), rounds, start, whole_is))
        tuned = rounds[-1].tuned
        if limit is None or tuned is None:
            continue
        drop = whole["map50_95"] - tuned.metrics["map50_95"]
        if drop > limit + SLACK:
            sure = report.in_brackets(report.sure(cast(Row, tuned.metrics), whole))
            said = (
                f"round {k} of {chosen.rounds}, fine-tuned, is {100 * drop:.1f} points of mAP50-95 ({SPLIT}) "
                f"below the original{sure}, and {100 * limit:.1f} were allowed"
            )
            if k == 1:
                raise SlimError(
                    f"{said}: no round is left to keep. Ask for more rounds (smaller steps), more "
                    "prune.iterations.epochs or a larger prune.iterations.stop_if_map_drop"
                )
            return rounds, f"stopped: {said}; the result is round {k - 1}, fine-tuned"
    return rounds, None


def _round(
    config: Complete,
    k: int,
    weights: Path,
    start: Start,
    earlier: list[Round],
    origin: Path,
    whole_is: Mapping[str, float],
) -> Round:
    chosen, iterations = config.prune, config.prune.iterations
    achieved = earlier[-1].cut.details["achieved"] if earlier else {}
    asked, settings = _asked(chosen, k / iterations.rounds, achieved, whole_is)
    place = f"pruned/rounds/{k}"
    look = look_of(config, weights)
    by = plan_stage(config, f"{place}/plan", weights, settings, look, start=start, origin=origin)
    cut = cut_stage(config, f"{place}/cut", weights, settings, by, look, split=SPLIT)
    tuned = None
    if k < iterations.rounds:
        narrower = cut.output(config.folder / cut.stage)
        tuned = tune(config, f"{place}/finetuned", narrower, iterations.epochs, SPLIT)
    return Round(asked, read_plan(by.output(config.folder / by.stage, "plan")), cut, tuned)


def _asked(
    chosen: Prune, done: float, achieved: dict[str, float], whole_is: Mapping[str, float] = {}
) -> tuple[dict[str, float], Prune]:
    """What is to be left when this share of the rounds is done, and the settings that ask for it.

    Schedules are of shares: what is asked for in a unit is one of `whole_is`, as much as there was before the first
    round: `size_mb`, megabytes of the checkpoint, and `latency_ms`, as the table of layers tells it.
    """

    def keep(share: float) -> float:
        return SCHEDULES[chosen.iterations.schedule](min(share, 1.0), done)

    target = chosen.target.model_dump(exclude_none=True) if chosen.target else {}
    asked = {key: (one := whole_is.get(key, 1.0)) * keep(v / one) for key, v in target.items()}
    if chosen.ratio is not None:
        asked["channels"] = keep(1 - chosen.ratio)
    # A round that overshot may have done the next one's work: then that one cuts nothing, and nothing comes back.
    least = {key: min(share, achieved.get(key, share)) for key, share in asked.items()}
    update: dict[str, Any] = {"layers": {pattern: 1 - keep(1 - share) for pattern, share in chosen.layers.items()}}
    if chosen.target:
        update["target"] = chosen.target.model_copy(update=least)
    if chosen.ratio is not None:
        update["ratio"] = 1 - least["channels"]
    return asked, chosen.model_copy(update=update)


def _weights(config: Complete, r: Round) -> Path:
    last = r.tuned or r.cut
    return last.output(config.folder / last.stage)


def _composed(rounds: list[Round]) -> Plan:
    return Plan.composed(r.plan.outputs for r in rounds)


def _details(config: Complete, rounds: list[Round], used: int) -> dict[str, Any]:
    """As of one cut, from the first round's detector to the last one's that is used."""
    first, last = rounds[0].cut.details, rounds[used - 1].cut.details
    after = {w["layer"]: w["after"] for w in last["widths"]}  # without layers whose branch went in an earlier round
    return {
        **{key: last[key] for key in ("achieved", "measured", "looser", "tighter")},
        "asked": rounds[used - 1].asked,
        "masked_vs_cut": max(r.cut.details["masked_vs_cut"] for r in rounds[:used]),
        "blocks": [name for r in rounds[:used] for name in r.cut.details["blocks"]],
        "widths": [{**w, "after": after.get(w["layer"], 0)} for w in first["widths"]],
        "epochs": config.prune.iterations.epochs * sum(r.tuned is not None for r in rounds[:used]),
    }


def _table(rounds: list[Round], whole: float | None, stopped: str | None) -> dict[str, Any]:
    """Every round for the report, the one that fell too far among them."""
    rows = [
        {
            "round": k,
            "asked": r.asked,
            "achieved": r.cut.details["achieved"],
            "flops": r.cut.metrics["flops"],
            "map50_95_cut": r.cut.metrics["map50_95"],
            "map50_95_finetuned": r.map50_95,
            "masked_vs_cut": r.cut.details["masked_vs_cut"],
        }
        for k, r in enumerate(rounds, 1)
    ]
    return {"split": SPLIT, "map50_95_original": whole, "rounds": rows, "stopped": stopped}
