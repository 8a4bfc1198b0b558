"""Recover: the slim detector learns to say again what the original says, from images without labels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim import checkpoint, record
from yolo_slim.config import Complete, Match
from yolo_slim.console import console, progress
from yolo_slim.data import dataset_info, dice
from yolo_slim.data.unlabelled import Unlabelled, augmented, images_at, sum_of_pictures
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.measure import place
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import finished, lineage, run_stage, sums_of
from yolo_slim.stages.common import say
from yolo_slim.stages.entry import continues
from yolo_slim.training.matching import Length, Progress, match, shuffled
from yolo_slim.training.resuming import MARK, StartAfresh, whole

STATE = "matching.pt"
"""In the stage's folder while it runs: how far it has come."""
HELD_OUT = 64
"""Images that agreement is measured on, at most: an eighth of those there are, where that is fewer."""


@continues
def recover(config: Complete) -> Record:
    """runs/<name>/recovered/recovered.pt."""
    chosen = config.recover.match
    if chosen is None:
        raise SlimError("recover.match: say how long, e.g. recover.match.seconds=600 or recover.match.steps=200")
    pruned = lineage(config, "recovered").get("pruned")
    original = finished(config, "original")
    if pruned is None or original is None:
        raise SlimError(
            f"nothing pruned yet in {config.folder} from what is there now: run `yolo-slim prune` with the same "
            "configuration first"
        )
    return matched_stage(config, "recovered", pruned.output(config.folder / "pruned"), original, chosen)


def matched_stage(
    config: Complete,
    stage: str,
    start: Path,
    original: Path,
    chosen: Match,
    *,
    plans: Sequence[Path] = (),
    held: Callable[[], Callable[[nn.Module], None]] = lambda: lambda student: None,
) -> Record:
    """runs/<name>/<stage>/recovered.pt: `start`, trained to say what the original says.

    Args:
        config: of the run.
        stage: its folder.
        start: the slim detector.
        original: what it is to say again.
        chosen: how long.
        plans: files that say what is held.
        held: gives what is done to the detector after every step.
    """
    inputs = [start, original, *plans]
    settings = {**chosen.model_dump(), "imgsz": config.imgsz, "seed": config.seed, "data": config.data}
    if config.images:
        settings |= {"images": config.images, "images_sum": sum_of_pictures(config.images, "images")}

    def work(folder: Path) -> tuple:
        slim, unpruned = checkpoint.load(start), checkpoint.load(original)
        plain = images_at(places(config), unpruned, config.imgsz)
        state = State(folder / STATE, {"settings": settings, "inputs": sums_of(inputs), "code": record.code()})
        device = place(config.device)
        best, at = _match(slim.to(device), unpruned.to(device), plain, chosen, config, state, held())
        weights = checkpoint.save(best.cpu(), folder / "recovered.pt")
        row = measured(config, weights)
        say(config, stage, row, weights)
        state.file.unlink(missing_ok=True)
        gaps = [{"steps": steps, "disagreement": gap if math.isfinite(gap) else None} for steps, gap in at.history]
        return {"weights": weights}, row, {"steps": at.step, "images": len(plain), "agreement": gaps}

    return run_stage(config, stage, settings, inputs, work)


def places(config: Complete) -> list[str]:
    """Where images are that need no labels: those of the training split, and those of the folder of pictures.

    Raises:
        SlimError: there are neither.
    """
    split = dataset_info(config.data).get("train") if config.data else None
    found = [*(split if isinstance(split, list) else [split] if split else []), *filter(None, [config.images])]
    if not found:
        raise SlimError("recover.match learns from images: give data=, or a folder of pictures, images=FOLDER")
    return [str(place) for place in found]


def _match(
    slim: Detector,
    unpruned: Detector,
    plain: Unlabelled,
    chosen: Match,
    config: Complete,
    state: State,
    hold: Callable[[nn.Module], None],
) -> tuple[Detector, Progress]:
    device = next(slim.parameters()).device
    order = shuffled(len(plain), len(plain), config.seed)(0)
    out = min(HELD_OUT, len(plain) // 8)
    if not out:
        raise SlimError(f"recover.match: expected 8 images at least to learn from and to judge by, got {len(plain)}")
    held, learned = order[:out], order[out:]
    batches, seen = shuffled(len(learned), chosen.batch, config.seed), augmented(plain)

    def batch(step: int) -> Tensor:
        with dice.seeded(config.seed, step):
            images = torch.stack([seen[learned[i]]["img"] for i in batches(step)])
        return images.to(device).float() / 255

    groups = [held[i : i + chosen.batch] for i in range(0, out, chosen.batch)]
    judged = [torch.stack([plain[i]["img"] for i in group]).to(device).float() / 255 for group in groups]
    length, begun = Length(chosen.steps, chosen.seconds), state.found()
    with progress("matching the original") as tell:

        def on_step(at: Progress, loss: float) -> None:
            tell(length.share(at), 1.0, f"step {at.step}, loss {loss:.3f}")

        best, at = match(
            slim,
            unpruned,
            batch,
            judged,
            length,
            config.imgsz,
            begun=begun,
            hold=hold,
            keep=state.keep_of(slim),
            on_step=on_step,
        )
    (_, before), after = at.history[0], at.least
    if at.broken:
        console.print(f"step {at.step}: the loss is not a number any more, and the best point before it is taken")
    console.print(
        f"{at.step} steps on {len(learned)} images; on {out} others the distance to the original went from "
        f"{before:.3f} to {after:.3f}" + ("" if after < before else ": nothing was gained, and the start is kept")
    )
    return best, at


class State:
    """How far a matching has come, in a file: a kill costs a tenth of it."""

    def __init__(self, file: Path, asked: dict[str, Any]) -> None:
        self.file = file
        self.mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def keep_of(self, slim: Detector) -> Callable[[Progress], None]:
        """What writes it."""

        def keep(at: Progress) -> None:
            checkpoint.save(slim, self.file, **{MARK: self.mark, **vars(at)})

        return keep

    def found(self) -> Progress | None:
        """What was written, if it is whole and of the same matching."""
        if not self.file.exists():
            return None
        try:
            content = whole(self.file, self.mark)
        except StartAfresh as e:
            console.print(f"starting afresh: {e}", markup=False)
            return None
        at = Progress(**{entry.name: content[entry.name] for entry in fields(Progress)})
        console.print(f"going on after step {at.step}")
        return at
