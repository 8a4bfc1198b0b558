"""Compress: methods beside channel pruning in turn: each is planned, applied, proven, refitted, trained, measured."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from yolo_slim import checkpoint
from yolo_slim.compress import Material, Plan
from yolo_slim.compress.apply import Compressed, applied
from yolo_slim.compress.method import Gradual
from yolo_slim.compress.sizes import sizes, total
from yolo_slim.config import Complete
from yolo_slim.console import console, progress
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import lineage, run_stage
from yolo_slim.stages.chain import Turn, chain_of
from yolo_slim.stages.common import check_data, looked_at, say
from yolo_slim.stages.entry import continues
from yolo_slim.stages.original import original
from yolo_slim.stages.recover import matched_stage
from yolo_slim.stages.tuning import trained_on
from yolo_slim.training.holding import SETTINGS, HoldingTrainer
from yolo_slim.training.plans import load_plan, save_plan

WEIGHTS, PLAN = "step.pt", "step.plan"


@dataclass(frozen=True)
class Held:
    """What a method has made, and training holds."""

    turn: Turn
    file: Path

    @functools.cached_property
    def plan(self) -> Plan:
        """What it has made."""
        return load_plan(self.file)

    @property
    def said(self) -> dict[str, Any]:
        """For the settings of a training that holds it."""
        return {"method": self.turn.step.method, "options": self.turn.step.options, "plan": str(self.file.absolute())}


@continues
def compress(config: Complete) -> Record:
    """runs/<name>/compressed/compressed.pt: the detector as it is now, after what is named behind `prune`."""
    chain = chain_of(config)
    if not chain.behind:
        raise SlimError(
            "compress: names no method behind prune; say which, e.g. compress=[prune, {weights: {pattern: '2:4'}}]"
        )
    if not chain.prunes:
        return _in_turn(config, "compressed", original(config).output(config.folder / "original"), chain.behind)
    done = lineage(config, "compressed")
    if "pruned" not in done:
        raise SlimError(
            f"nothing pruned yet in {config.folder} from what is there now: run `yolo-slim prune` with the same "
            "configuration first, or leave prune out of compress"
        )
    last = [stage for stage in done if stage != "compressed"][-1]
    return _in_turn(config, "compressed", done[last].output(config.folder / last), chain.behind)


def whole(config: Complete) -> Path:
    """What channels are pruned from: the original, or what methods before `prune` make of it (runs/<name>/reshaped)."""
    start = original(config).output(config.folder / "original")
    if not (turns := chain_of(config).before):
        return start
    return _in_turn(config, "reshaped", start, turns).output(config.folder / "reshaped")


def _in_turn(config: Complete, stage: str, start: Path, turns: tuple[Turn, ...]) -> Record:
    """runs/<name>/<stage>/<stage>.pt: what the last of the methods has made, each in a folder of its own below."""
    if any(turn.step.epochs for turn in turns):
        check_data(config)
    weights, held, steps = start, list[Held](), list[str]()
    for turn in turns:
        place = f"{stage}/{turn.name}"
        done = _turn(config, place, weights, turn, held)
        held.append(Held(turn, done.output(config.folder / done.stage, "plan")))
        if turn.step.match:
            done = _matched(config, f"{place}/matched", done.output(config.folder / done.stage), held)
        if turn.step.epochs:
            done = _trained(config, f"{place}/trained", done.output(config.folder / done.stage), held)
            if turn.gradual:
                held[-1] = Held(turn, done.output(config.folder / done.stage, "plan"))
        weights = done.output(config.folder / done.stage)
        steps.append(done.stage)

    def work(folder: Path) -> tuple:
        final = folder / f"{stage}.pt"
        shutil.copyfile(weights, final)
        return {"weights": final}, dict(done.metrics), {"steps": steps}

    return run_stage(config, stage, {"steps": [turn.said for turn in turns]}, [start, weights], work)


def _turn(config: Complete, stage: str, start: Path, turn: Turn, held: list[Held]) -> Record:
    """runs/<name>/<stage>/step.pt: `start` after one method, and its plan beside it; nothing is trained.

    Args:
        config: of the run.
        stage: the folder, below that of the run.
        start: the checkpoint that the method is given.
        turn: which it is.
        held: what methods before it have made.
    """
    settings = {"method": turn.step.method, "options": turn.step.options, "refit": turn.step.refit}
    settings |= {"imgsz": config.imgsz, "seed": config.seed, "calib_images": config.prune.calib_images}
    plans = [each.file for each in held]

    def work(folder: Path) -> tuple:
        detector = checkpoint.load(start)
        images = evidence_from(config, detector).images
        console.print(f"{turn.step.method} {turn.method.help}. Speed: {turn.method.speed}", markup=False)
        zeros = zeros_of(each.plan for each in held)
        made = _applied(detector, turn, Material(config.imgsz, images, zeros, config.seed))
        slim = marked(made)
        weights, plan = checkpoint.save(slim, folder / WEIGHTS), save_plan(made.plan, folder / PLAN)
        row = measured(config, weights)
        say(config, stage, row, weights)
        spent = {name: n for name, n in asdict(total(sizes(slim))).items() if name != "layer"}
        told = ", ".join(f"{name} {n / 1e3:,.0f}" for name, n in spent.items() if n)
        console.print(f"kB of its weights, by how they are stored: {told}", markup=False)
        details = {"plan": turn.method.describe(made.plan), "kept": made.plan.kept, "proof": made.proof, "bytes": spent}
        return {"weights": weights, "plan": plan}, row, details

    return run_stage(config, stage, {**settings, **looked_at(config)}, [start, *plans], work)


def marked(made: Compressed) -> Detector:
    """What a method has made, of which its checkpoint says that it cannot be rebuilt from its YAML."""
    slim = cast(Detector, made.model)
    if grown := made.plan.grown:
        checkpoint.mark_grown(slim, grown)
    else:
        checkpoint.mark_slim(slim, {})
    return slim


def zeros_of(plans: Iterable[Plan]) -> dict[str, Tensor]:
    """What methods before hold at zero, by their plans: parameter -> bool, False there."""
    zeros: dict[str, Tensor] = {}
    for plan in plans:
        masks = {name: mask for name, mask in plan.tensors.items() if mask.dtype == torch.bool}
        zeros |= {name: mask & zeros[name] if name in zeros else mask for name, mask in masks.items()}
    return zeros


def _applied(detector: Detector, turn: Turn, material: Material) -> Compressed:
    next(iter(material.images), None)  # reading them has a bar of its own: before this one
    with progress(f"{turn.step.method}: least squares, layer") as at:
        return applied(detector, turn.method, material, refits=turn.step.refit, step=at)


def _matched(config: Complete, stage: str, start: Path, held: list[Held]) -> Record:
    """runs/<name>/<stage>/recovered.pt: a step's detector after learning from the original, without labels."""
    whole, plans = original(config).output(config.folder / "original"), [each.file for each in held]
    chosen = held[-1].turn.step.match
    assert chosen is not None

    return matched_stage(config, stage, start, whole, chosen, plans=plans, held=lambda: _held(held))


def _held(held: list[Held]) -> Callable[[nn.Module], None]:
    """What brings a detector's numbers to where methods want them in the end."""
    found = [each.turn.method.hold(each.plan) for each in held]

    @torch.no_grad()
    def bring_back(detector: nn.Module) -> None:
        for hold in filter(None, found):
            hold(detector, 1.0)

    return bring_back


def _trained(config: Complete, stage: str, start: Path, held: list[Held]) -> Record:
    """runs/<name>/<stage>/step.pt: a step's detector after its epochs of training, in which what was made is held."""
    turn, plans = held[-1].turn, [each.file for each in held]
    settings = {**turn.said, "imgsz": config.imgsz, "seed": config.seed}

    def work(folder: Path) -> tuple:
        best, details = trained_on(
            config,
            folder,
            start,
            turn.step.epochs,
            turn.step.train,
            settings=settings,
            inputs=[start, *plans],
            taught=lambda lost: (HoldingTrainer, {SETTINGS: [each.said for each in held]}),
            start_counts=not turn.gradual,
        )
        made, found = held, {}
        if isinstance(turn.method, Gradual) and turn.gradual:
            plan = turn.method.settled(best, held[-1].plan)
            found = {"plan": save_plan(plan, folder / PLAN)}
            made = [*held[:-1], Held(turn, found["plan"])]
            details["plan"] = turn.method.describe(plan)
        _held(made)(best)  # between two ends lies what is on no grid
        for each in made:
            each.turn.method.check(best, each.plan)
        weights = checkpoint.save(best, folder / WEIGHTS)
        row = measured(config, weights)
        say(config, stage, row, weights)
        return {"weights": weights, **found}, row, details

    return run_stage(config, stage, settings, [start, *plans], work)
