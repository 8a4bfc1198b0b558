"""Plan: which residual branches and channels go. Cuts and landings follow it; nothing is cut here."""

from __future__ import annotations

from pathlib import Path

from yolo_slim import checkpoint, record
from yolo_slim.channels import Selection, Start, trace
from yolo_slim.channels.select import amount
from yolo_slim.config import Complete, Prune
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.pruning.choose import findings, sources
from yolo_slim.pruning.plan import make_plan
from yolo_slim.record import Record
from yolo_slim.runs.stage import run_stage
from yolo_slim.stages.auto import settled
from yolo_slim.stages.common import Look, look_of, looked_at
from yolo_slim.stages.compress import whole
from yolo_slim.stages.device import tell_widths
from yolo_slim.stages.entry import begins
from yolo_slim.stages.modes import check_compatible, decisive, landing_mode
from yolo_slim.stages.sensitivity import scanned
from yolo_slim.stages.unpruned import unpruned
from yolo_slim.timing.targets import said

FILE = "plan.json"
FIGURES = ("asked", "achieved", "measured", "looser", "tighter")
"""Of a selection, for records."""


@begins
def plan(config: Complete) -> Record:
    """runs/<name>/plan/plan.json, of the detector that is cut, or that a landing begins with."""
    config = settled(config)
    mode = landing_mode(config)
    check_compatible(config.prune, mode)
    if mode == "soft":
        raise SlimError("sparse_train.mode=soft ends with the plan that is followed: run `yolo-slim sparse-train`")
    if config.prune.iterations.rounds > 1:
        raise SlimError("every round plans for itself: run `yolo-slim prune`, or give prune.iterations.rounds=1")
    start = whole(config) if mode else unpruned(config)
    return plan_stage(config, "plan", start, config.prune, look_of(config, start))


def plan_stage(
    config: Complete,
    stage: str,
    weights: Path,
    chosen: Prune,
    look: Look,
    *,
    start: Start | None = None,
    origin: Path | None = None,
) -> Record:
    """runs/<name>/<stage>/plan.json: what `chosen` takes out of `weights`.

    Latencies refer to `origin`, the weights before the first of several rounds; None: to `weights`. In every round,
    solver sensitivity goes by the scan of the detector before the first: its shares are of the channels of then.
    """
    scan = scanned(config) if chosen.solver == "sensitivity" else None
    settings = {**decisive(config, chosen), **looked_at(config)}

    def work(folder: Path) -> tuple:
        widths = tell_widths(chosen)
        detector = checkpoint.load(weights)
        whole = checkpoint.load(origin) if origin else detector
        found = findings(config, whole, scan)
        wiring = trace(detector, config.imgsz)
        made, cost = make_plan(detector, wiring, chosen, look(), start=start, found=found)
        tell_cost(cost, config)
        blocks, file = made.branches(wiring), folder / FILE
        if blocks:
            console.print(f"taken out whole: {', '.join(blocks)}")
        console.print(f"[bold green]plan[/]: {len(made.outputs)} of {len(wiring.convs)} convolutions lose channels")
        record.write_json(file, made.as_json)
        return {"plan": file}, {}, {**{key: getattr(cost, key) for key in FIGURES}, **widths}

    inputs = [weights, *([scan] if scan else []), *sources(chosen.criterion)]
    return run_stage(config, stage, settings, inputs, work)


def planned(config: Complete, start: Path, look: Look) -> Record:
    """The stage whose plan a cut of `start` follows: sparse training that knew what goes, or one made now.

    Raises:
        SlimError: sparse training was done in another mode, or for another budget.
    """
    folder = config.folder / "sparse"
    done = record.read(folder) if landing_mode(config) else None
    if done is None:
        return plan_stage(config, "plan", start, config.prune, look)
    if done.settings["mode"] != config.sparse_train.mode:
        raise SlimError(
            f"{folder} was trained with sparse_train.mode={done.settings['mode']}, and leaves no plan that "
            f"{config.sparse_train.mode} would follow: run `yolo-slim sparse-train` with this configuration first, "
            "give the mode that it was trained with, or prune the original: sparse_train.epochs=0"
        )
    then, now = done.details.get("chosen") or done.settings["prune"], decisive(config, config.prune)
    changed = [f"{k}: {v} (then: {then[k]})" for k, v in now.items() if k in then and then[k] != v]
    if changed:
        raise SlimError(
            f"the channels that {folder} has brought to zero are not those that the prune: section asks for now: "
            f"{', '.join(changed)}. Run `yolo-slim sparse-train` again, it lands the new plan; or set that back; "
            "or choose anew from the weights as they are: sparse_train.mode=uniform"
        )
    return done


def tell_cost(cost: Selection, config: Complete) -> None:
    """What was asked for, what a plan comes to, and what its neighbours would."""
    asked = ", ".join(f"{k} {amount(k, v)}" for k, v in cost.asked.items()) or "ratios by layer"
    got = ", ".join(f"{k} {amount(k, v)}" for k, v in cost.achieved.items())
    beside = [
        f"one step {word} removed: {', '.join(f'{k} {amount(k, other[k])}' for k in cost.asked)}"
        for word, other in (("less", cost.looser), ("more", cost.tighter))
        if other and cost.asked
    ]
    console.print(f"asked for {asked}; achieved {got}" + (f" ({'; '.join(beside)})" if beside else ""))
    for line in said(cost, config.latency.runtime):
        console.print(line)
