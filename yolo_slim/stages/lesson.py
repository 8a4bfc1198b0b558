"""What a student learns from its teachers, and from which: read from the settings, and checked before any training."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from yolo_slim import checkpoint, record
from yolo_slim.config import Complete, Distill
from yolo_slim.data import dataset_info
from yolo_slim.data.batches import Batches
from yolo_slim.data.unlabelled import sum_of_pictures
from yolo_slim.distill import FEATURES, OUTPUTS, Pair
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate
from yolo_slim.runs.stage import finished
from yolo_slim.stages.begun import begun
from yolo_slim.training.distill import enrol, losses_between
from yolo_slim.training.images import twins

ANY_PAIR = Pair([4, 4], [4, 4], [torch.arange(4)] * 2, classes=2, bins=16)
"""A student and a teacher that every loss can work for."""


def check_distill(config: Complete) -> None:
    """What is wrong with `finetune.distill` shows before hours of training: the original stands for the student.

    Raises:
        SlimError: a loss that there is not, a file that is not there, a teacher that does not fit.
    """
    chosen, train = config.finetune.distill, config.finetune.train
    if not chosen or chosen == "auto":  # the original, whose maps every detector cut from it has
        return
    pictures(chosen)
    files = [Path(teacher) for teacher in asked(chosen)]
    settings = lesson(chosen, files)
    if checkpoint.is_stored(config.model):
        student = begun(config)
        check_kin(chosen, Path(config.model), files)
    else:  # it is trained first, for the classes of the data
        info = dataset_info(config.data) if config.data else {}
        student = checkpoint.build(config.model, info.get("nc"))
        student.names = info.get("names", student.names)
    detectors = [duplicate(student) if n == "original" else checkpoint.load(n) for n in asked(chosen)]
    square = not (train.get("multi_scale") or train.get("rect"))
    _, pairs, _ = enrol(student, detectors, settings, config.imgsz, square=square)
    # How wide the student will be is not known yet: it is not to be refused for that.
    losses_between([p if p.same is not None else replace(p, student=p.teacher) for p in pairs], settings)
    if chosen.teacher_images and config.data and "fraction" not in train:
        twins(Batches(config.data, config.imgsz, 0).dataset.im_files, chosen.teacher_images)


def asked(chosen: Distill) -> list[str]:
    """The teachers as they are named: `original`, or paths."""
    return [chosen.teacher] if isinstance(chosen.teacher, str) else chosen.teacher


def kin_of(chosen: Distill) -> list[bool]:
    """Of each teacher: whether the student is taken to be cut from it."""
    return [name == "original" or "channels" in chosen.features for name in asked(chosen)]


def check_kin(chosen: Distill, student: Path, teachers: list[Path]) -> None:
    """Nothing, where the student may have been cut from the files that `channels` compares it with.

    Two trainings of one architecture have channels of the same number, and nothing in common. Which of them a detector
    comes from is what its card tells; one without a card, made from Python, is believed.

    Args:
        chosen: the `finetune.distill` section.
        student: its checkpoint, or that which it will be cut from.
        teachers: theirs, as `chosen` names them.

    Raises:
        SlimError: a teacher that comes from another detector.
    """
    named = zip(asked(chosen), teachers, kin_of(chosen), strict=True)
    strangers = [teacher for name, teacher, kin in named if kin and name != "original"]
    if not strangers or (checkpoint.is_slim(checkpoint.load(student)) and not checkpoint.card(student)):
        return
    for teacher in strangers:
        if origin(teacher) != origin(student):
            raise SlimError(
                f"finetune.distill.features: channels compares the student with what it was cut from, but {teacher} "
                f"comes from another detector than {student}; take `original`, or `mimic`, which has adapters"
            )


def origin(weights: Path) -> Any:
    """What tells a detector's first checkpoint from others: its sha256; where we trained it, the record of that."""
    card = checkpoint.card(weights)
    if not card:
        return record.sha256(weights)
    return card["source"]["sha256"] if "source" in card else card["steps"][0]


def pictures(chosen: Distill) -> dict[str, str]:
    """What is in the folders of pictures, as settings.

    Raises:
        SlimError: a folder that is not there, or holds no picture.
    """
    folders = {key: getattr(chosen, key) for key in ("teacher_images", "extra_images")}
    return {f"{key}_sum": sum_of_pictures(at, f"finetune.distill.{key}") for key, at in folders.items() if at}


def teachers_of(config: Complete, chosen: Distill) -> list[Path]:
    """The checkpoints that a lesson names.

    Raises:
        SlimError: one is not there, or no detector.
    """
    found = []
    for teacher in asked(chosen):
        path = finished(config, "original") if teacher == "original" else Path(teacher)
        if path is None:
            raise SlimError(
                f"the teacher is the original, but {config.folder / 'original'} is not there: run the stages in order, "
                "or leave the teacher out (finetune.distill=null)"
            )
        checkpoint.load(path)  # says what is wrong with it before anything runs
        found.append(path)
    return found


def lesson(chosen: Distill, teachers: list[Path]) -> dict[str, Any]:
    """The settings file of DistillTrainer.

    Raises:
        SlimError: a loss, or an option of one, that there is not.
    """
    kin = kin_of(chosen)
    features = dict(chosen.features)
    if "auto" in features:
        features = {"channels" if all(kin) else "mimic": features.pop("auto"), **features}
    asked = {"features": features, "outputs": dict(chosen.outputs)}
    for kind, known in (("features", FEATURES), ("outputs", OUTPUTS)):
        for name, options in asked[kind].items():
            _check_loss(f"finetune.distill.{kind}", name, options, known)
    layers = chosen.layers
    return {
        "teachers": [str(t) for t in teachers],
        "kin": kin,
        **asked,
        "layers": {name: name for name in layers} if isinstance(layers, list) else layers,
        **{k: getattr(chosen, k) for k in ("ramp_epochs", "stop_before", "teacher_images", "extra_images")},
    }


def _check_loss(where: str, name: str, options: dict[str, Any], known: dict[str, type]) -> None:
    if name not in known:
        raise SlimError(f"{where}: no loss {name}; expected one of {', '.join(known)}")
    _, *takes = inspect.signature(known[name]).parameters
    if unknown := options.keys() - {"weight", *takes}:
        raise SlimError(
            f"{where}.{name}: no option {', '.join(sorted(unknown))}; expected {', '.join(['weight', *takes])}"
        )
    if not is_number(weight := options.get("weight", 1.0)) or weight < 0:
        raise SlimError(f"{where}.{name}.weight: expected a number from 0 on, got {weight!r}")
    rest = {k: v for k, v in options.items() if k != "weight"}
    for option, value in rest.items():
        fits, expected = _kind_of(inspect.signature(known[name]).parameters[option].default)
        if not fits(value):
            raise SlimError(f"{where}.{name}.{option}: expected {expected}, got {value!r}")
    known[name](ANY_PAIR, **rest)  # refuses what only it knows


def is_number(value: Any) -> bool:
    """Whether it is a finite one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _kind_of(default: Any) -> tuple[Callable[[Any], bool], str]:
    """Whether a value may stand for an option with this default, and what may in words."""
    if default is None or isinstance(default, bool):
        return lambda v: isinstance(v, bool) or v is None is default, "true or false"
    if isinstance(default, int):
        return lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0, "a whole number above 0"
    if isinstance(default, tuple):
        return lambda v: isinstance(v, list) and v != [] and all(is_number(x) and x > 0 for x in v), (
            "a list of numbers above 0"
        )
    if isinstance(default, float):
        return is_number, "a number"
    return lambda v: True, "anything"
