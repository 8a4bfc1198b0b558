"""What a student and a teacher have in common: the images they can look at, and the channels that are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Plan, image_channels, replay, survivors, trace
from yolo_slim.compress.replicate import sources, times_of, widen
from yolo_slim.distill import Pair
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.door import cuts_of, grown_of
from yolo_slim.heads import bins_of, classes_of, entering
from yolo_slim.training.teacher import Taps, Teacher, names_of


def check_sees_the_same(student: Detector, teacher: Detector, name: str, imgsz: int, *, square: bool) -> None:
    """Nothing, where a teacher can look at the student's images; see `enrol`.

    Raises:
        SlimError: it expects other channels of colour, or sides that are multiples of a larger stride.
    """
    ours, theirs = (image_channels(d) for d in (student, teacher))
    if ours != theirs:
        raise SlimError(
            f"the teacher {name} looks at images of {theirs} channels, the student at {ours}; take a teacher that was "
            "trained on such images as the student"
        )
    ours, theirs = (int(d.stride.max()) for d in (student, teacher))
    side = math.ceil(imgsz / ours) * ours  # as Ultralytics rounds it
    if side % theirs:
        raise SlimError(
            f"the teacher {name} has a stride of {theirs} pixels: it needs an imgsz that is a multiple of it, not "
            f"{side}; the next is {math.ceil(side / theirs) * theirs}"
        )
    if theirs > ours and not square:
        raise SlimError(
            f"the teacher {name} has a stride of {theirs} pixels, the student of {ours}: with train.multi_scale or "
            "train.rect, images come in sizes that it cannot look at; leave them out, or take another teacher"
        )


def same_channels(student: Detector, teacher: Detector, imgsz: int) -> dict[str, np.ndarray]:
    """Which channel of the teacher's map each channel of the student's is: module -> (Cs,), as far as it is known.

    Args:
        student: cut from `teacher`, or from what was; it may have grown on the way.
        teacher: it may be slim itself.
        imgsz: image side in pixels.

    Raises:
        SlimError: the student does not say that it was cut from such a detector.
    """
    (grown, cuts), (grown_before, before) = ((grown_of(d), cuts_of(d)) for d in (student, teacher))
    since = grown[len(grown_before) :]
    first = since[0]["cuts"] if since else cuts
    if grown[: len(grown_before)] != grown_before or first[: len(before)] != before:
        raise SlimError("the student was not cut from this teacher: their first cuts differ")
    found: dict[str, np.ndarray] = {}
    at: nn.Module = teacher
    for i, step in enumerate(since):
        plan = Plan.composed(step["cuts"][len(before) if i == 0 else 0 :])
        at, found = replay(at, imgsz, plan), _within(found, survivors(at, imgsz, plan))
        wiring = trace(at, imgsz)
        times = times_of(wiring, step["outputs"])
        at = widen(at, wiring, times, 0.0)
        found = _within(found, {name: sources(slots, times) for name, slots in wiring.maps.items()})
    return _within(found, survivors(at, imgsz, Plan.composed(cuts if since else cuts[len(before) :])))


def _within(found: Mapping[str, np.ndarray], then: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Who is who after a further step, in which each channel is one of those of the step before."""
    return {name: found[name][who] for name, who in then.items() if name in found} if found else dict(then)


def channels_at(names: Sequence[str], who: Mapping[str, np.ndarray]) -> list[Tensor]:
    """Of some of the teacher's modules, per module (Cs,).

    Raises:
        SlimError: it is not known which channels leave one of them.
    """
    if unknown := [name for name in names if name not in who]:
        raise SlimError(
            f"it is not known which channels leave {', '.join(unknown)}: name other layers (finetune.distill.layers), "
            "or leave the teacher out (finetune.distill=null)"
        )
    return [torch.as_tensor(who[name]) for name in names]


def blocks_of(student: Detector, found: Sequence[Mapping[str, np.ndarray] | None]) -> dict[str, str]:
    """What is compared where channels are compared with themselves: every block, and what enters Detect.

    Nothing has to be learned on the way there, so that a map deep inside teaches as directly as one in front of Detect.

    Args:
        found: of each teacher, as `same_channels` tells it.
    """
    *layers, _ = student.model
    blocks = [f"model.{i}" for i, m in enumerate(layers) if sum(isinstance(c, nn.Conv2d) for c in m.modules()) > 1]
    known = [n for n in blocks if all(who is not None and len(who.get(n, ())) for who in found)]
    return {name: name for name in dict.fromkeys([*known, *entering(student)])}


def pair(student: Detector, taps: Taps, teacher: Teacher, same: list[Tensor] | None) -> Pair:
    """What losses must know of the two: found by running both on a blank image; `taps`: of the student."""
    device = next(student.parameters()).device
    side = max(64, int(student.stride.max()), int(teacher.detector.stride.max()))
    blank = torch.zeros(1, image_channels(student), side, side, device=device)
    training = student.training
    taps.open()
    with torch.no_grad():
        student.eval()(blank)
        maps = taps.caught()
    taps.close()
    student.train(training)
    there = teacher.to(device)(blank).maps
    ours, theirs = ([m.shape[1] for m in each] for each in (maps, there))
    # A student that was cut from its teacher has its classes, by whatever names.
    names = names_of(student) if same is None else ()
    classes, bins = classes_of(student), bins_of(student) or 0
    return Pair(ours, theirs, same, classes, bins, teacher.classes, teacher.bins, names, teacher.class_names)
