"""What a stage would do, and about how long it takes on this machine: told before it is done."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim import deploy
from yolo_slim.channels import image_channels
from yolo_slim.config import Complete
from yolo_slim.console import duration
from yolo_slim.data import dataset_info
from yolo_slim.data.batches import Batches
from yolo_slim.measure import place
from yolo_slim.pruning import refine
from yolo_slim.runs.rows import split_of
from yolo_slim.stages.auto import ENOUGH, TRIAL, trained, undecided
from yolo_slim.stages.begun import begun, is_trained_first
from yolo_slim.stages.landing_time import landing_time, training_images
from yolo_slim.training.schedule import STEPS, warming
from yolo_slim.training.steps import optimizer_steps

IMAGES = 2
"""Of the step that is timed."""


@dataclass(frozen=True)
class Pace:
    """Seconds an image takes the whole detector, on the device that was asked for."""

    learning: float  # forward and backward
    looking: float  # forward alone


@dataclass(frozen=True)
class Ahead:
    """A stage that is to be done."""

    stage: str
    what: str
    seconds: float | None  # None: nothing tells


def pace_of(config: Complete) -> Pace:
    """Seconds an image, from a step on random images."""
    detector, device = begun(config), place(config.device)
    detector = detector.to(device)
    images = torch.rand(IMAGES, image_channels(detector), config.imgsz, config.imgsz, device=device)
    with torch.no_grad():
        looking = _timed(lambda: detector.eval()(images))
    return Pace(_timed(lambda: _step(detector.train(), images)) / IMAGES, looking / IMAGES)


def _step(detector: nn.Module, images: Tensor) -> None:
    sum(out.float().square().mean() for out in _tensors(detector(images))).backward()  # type: ignore[union-attr]


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (list, tuple, dict)):
        for each in out.values() if isinstance(out, dict) else out:
            yield from _tensors(each)


def _timed(run: Callable[[], object]) -> float:
    """Seconds of a second run: the first one of anything takes longer."""
    run()
    begin = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def ahead_of(config: Complete, stage: str, pace: Pace) -> Ahead:
    """A stage, in the words of one who waits for it."""
    known = {
        "original": _original,
        "plan": _plan,
        TRIAL: _trial,
        "sparse": _sparse,
        "pruned": _pruned,
        "recovered": _recovered,
        "finetuned": _finetuned,
        "sensitivity": _sensitivity,
        "sweep": _sweep,
        "export": _export,
    }
    what, seconds = known[stage](config, pace) if stage in known else (OTHERS.get(stage, ""), None)
    return Ahead(stage, what, seconds)


OTHERS = {
    "reshaped": "methods before `prune` in `compress`",
    "compressed": "methods behind `prune` in `compress`",
    "bench": "original and slim in every runtime here, in turn",
    "report": "every stage measured and timed, pictures, pages",
}
WITHOUT_IMAGES = ("bn_scale", "l1", "l2", "fpgm", "random")
"""Criteria that go by weights, or by nothing."""
Told = tuple[str, float | None]


def _counted(config: Complete, split: str) -> int:
    """Images of a split; 0 where there is none."""
    if not config.data or not dataset_info(config.data).get(split):
        return 0
    if split == "train":
        return training_images(config.data, 1.0)
    return _images(config.data, split, config.imgsz)


@functools.lru_cache(maxsize=8)
def _images(data: str, split: str, imgsz: int) -> int:
    return len(Batches(data, imgsz, 0, split=split).dataset)


def _measuring(config: Complete, pace: Pace) -> float:
    """Seconds of a validation on the report's split."""
    return _counted(config, split_of(config)) * pace.looking if config.data else 0.0


def _training(config: Complete, pace: Pace, epochs: int, train: dict[str, Any]) -> tuple[int, int, float]:
    """Images, optimizer steps at most, and seconds of a training, a validation each epoch."""
    images = training_images(config.dataset, train.get("fraction", 1.0))
    seconds = epochs * (images * pace.learning + _counted(config, "val") * pace.looking)
    return images, _steps(images, epochs, train), seconds


def _steps(images: int, epochs: int, train: dict[str, Any]) -> int:
    batch = train.get("batch", 16)
    size = int(batch) if batch >= 1 else 16  # what fits into the GPU's memory
    nbs, warm = int(train.get("nbs", size)), train.get("warmup_epochs", warming(epochs))
    return optimizer_steps(images, epochs, batch=size, nbs=nbs, warmup_epochs=warm)


def _looked(config: Complete) -> int:
    images = _counted(config, "train") if config.data else config.prune.calib_images
    return min(config.prune.calib_images, images)


def _original(config: Complete, pace: Pace) -> Told:
    if not is_trained_first(config):
        return "read, checked and measured", _measuring(config, pace)
    epochs = config.original.epochs
    images, steps, seconds = _training(config, pace, epochs, config.original.train)
    return f"trained first: {epochs} epochs over {images} images, {steps} steps", seconds


def _plan(config: Complete, pace: Pace) -> Told:
    chosen = config.prune
    looks = _looked(config) if config.data or config.images else 0
    criterion = chosen.criterion or ("obs" if looks else "l1")
    passes = 0 if criterion in WITHOUT_IMAGES else refine.times_scored(chosen, criterion)
    found = f"channels to go, by {criterion}"
    if passes and looks:
        found += f" on {looks} images" + (f", {passes} times" if passes > 1 else "")
    seconds = passes * looks * pace.learning
    if chosen.search and chosen.search.seconds:
        return f"{found}; a search for {duration(chosen.search.seconds)}", seconds + chosen.search.seconds
    return found, seconds


def _trial(config: Complete, pace: Pace) -> Told:
    return (
        f"that cut, without training: a landing pays where it keeps less than {ENOUGH:.0%} of the mAP",
        2 * _measuring(config, pace),
    )


def _sparse(config: Complete, pace: Pace) -> Told:
    maybe = undecided(config)
    chosen = (trained(config, mode="targeted") if maybe else config).sparse_train
    images, steps, seconds = _training(config, pace, chosen.epochs, chosen.train)
    found = f"{'if so: ' if maybe else ''}{chosen.epochs} epochs ({chosen.mode}) over {images} images, {steps} steps"
    if landing := landing_time(trained(config, mode=chosen.mode)):
        found += f"; a landing needs {landing.needed} steps, {landing.epochs} epochs"
    return found, seconds


def _pruned(config: Complete, pace: Pace) -> Told:
    chosen = config.prune
    if chosen.iterations.rounds > 1:
        epochs = (chosen.iterations.rounds - 1) * chosen.iterations.epochs
        _, steps, seconds = _training(config, pace, epochs, config.finetune.train)
        return f"{chosen.iterations.rounds} rounds with {epochs} epochs between, {steps} steps", seconds
    looks = _looked(config) if config.data or config.images else 0
    return "cut, proven" + (f", refitted on {looks} images" if looks else ""), _measuring(config, pace)


def _recovered(config: Complete, pace: Pace) -> Told:
    match = config.recover.match
    assert match is not None, "the stage has refused"
    if match.seconds is not None:
        return "learning from the original, without labels", match.seconds
    steps = match.steps or 0
    seconds = steps * match.batch * (pace.learning + pace.looking)
    return f"learning from the original, without labels: {steps} steps", seconds


def _finetuned(config: Complete, pace: Pace) -> Told:
    chosen = config.finetune
    images, steps, seconds = _training(config, pace, chosen.epochs, chosen.train)
    if chosen.lesson and chosen.distill != "auto":
        seconds += chosen.epochs * images * pace.looking
    found = f"{chosen.epochs} epochs over {images} images, {steps} steps"
    if not chosen.train.get("time") and steps < STEPS:
        needed = next(n for n in count(chosen.epochs) if _steps(images, n, chosen.train) >= STEPS)
        found += f"; the full learning rate needs {STEPS} steps, {needed} epochs"
    return found, seconds


def _sensitivity(config: Complete, pace: Pace) -> Told:
    chosen = config.prune.sensitivity
    found = f"each group alone, at {len(chosen.ratios)} ratios, on {chosen.images} images"
    return found, None


def _sweep(config: Complete, pace: Pace) -> Told:
    chosen = config.sweep
    points = len(set(chosen.criteria)) * len(set(chosen.flops)) * len(set(chosen.recovery))
    return f"{points} cuts, each measured on val", points * _counted(config, "val") * pace.looking


def _export(config: Complete, pace: Pace) -> Told:
    files = [*config.export.formats, *(f"{name} in INT8" for name in config.export.int8)]
    lacking = deploy.missing(config.export.formats)
    needs = f" (needs {', '.join(lacking)})" if lacking else ""
    return f"{', '.join(files)}: written, run and measured{needs}", len(files) * _measuring(config, pace)
