"""What two detectors find in an image: which of it is an object, which objects are missed, and what has changed.

At a confidence c a box is shown if its score is at least c, and an object is found if the box that has it is shown. The
surest boxes choose first, so that no box takes another's object where c changes: one matching holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SAME_IOU = 0.5
CONFIDENCE = 0.25
"""Where the page begins; boxes are kept from LEAST on."""
LEAST = 0.05
RULE = (
    f"A box is a true positive where it has an object's class and overlaps it by an IoU of {SAME_IOU:g} or more; the "
    "surest choose first, and each object counts once."
)
SIDES = ("original", "slim")


def picture(
    file: str, hw: tuple[int, int], before: Sequence[dict], after: Sequence[dict], objects: Sequence[dict] | None
) -> dict[str, Any]:
    """An image's boxes by both detectors, and its objects.

    Args:
        file: the image.
        hw: its size, which every `xyxy` is of.
        before: boxes of the original, as `measure.detections` gives them.
        after: of the slim detector.
        objects: the labelled ones, with `id`, `name` and `xyxy`; None where the split has no labels.

    Returns:
        `name`, `file`, `hw`; `objects`, each with the score of the box that has it by `original` and by `slim`, 0 where
        none does; and `original` and `slim`: the boxes, each with its `object` (None: a false positive) and `other`,
        the score that the other detector gives to the same object, or to the same wrong box; 0: it has none.
    """
    boxes = dict(zip(SIDES, (before, after), strict=True))
    owners = {side: same(boxes[side], objects or []) for side in SIDES}  # box -> object
    scores = {side: {k: boxes[side][i]["score"] for i, k in owners[side].items()} for side in SIDES}  # object -> score
    wrong = {side: [i for i in range(len(boxes[side])) if i not in owners[side]] for side in SIDES}
    both = same(*([boxes[side][i] for i in wrong[side]] for side in SIDES))
    pairs = [(wrong["original"][i], wrong["slim"][j]) for i, j in both.items()]
    others = {"original": dict(pairs), "slim": {j: i for i, j in pairs}}
    found: dict[str, Any] = {"name": Path(file).name, "file": file, "hw": list(hw), "objects": None}
    if objects is not None:
        found["objects"] = [
            {**of, **{side: scores[side].get(k, 0.0) for side in SIDES}} for k, of in enumerate(objects)
        ]
    for side, opposite in (SIDES, SIDES[::-1]):
        found[side] = []
        for i, box in enumerate(boxes[side]):
            owner, twin = owners[side].get(i), others[side].get(i)
            other = scores[opposite].get(owner, 0.0) if owner is not None else 0.0
            other = boxes[opposite][twin]["score"] if twin is not None else other
            found[side].append({**box, "object": owner, "other": other})
    return found


def same(before: Sequence[dict], after: Sequence[dict]) -> dict[int, int]:
    """Index of a box before -> index of the same box after: of its class, and free; the surest choose first."""
    overlap = iou(*(np.array([box["xyxy"] for box in boxes], float).reshape(-1, 4) for boxes in (before, after)))
    ids = [np.array([box["id"] for box in boxes], int) for boxes in (before, after)]
    overlap[ids[0][:, None] != ids[1][None]] = 0
    partner: dict[int, int] = {}
    for i in sorted(range(len(before)), key=lambda i: -before[i]["score"]):
        best = int(overlap[i].argmax()) if len(after) else 0
        if len(after) and overlap[i, best] >= SAME_IOU:
            partner[i] = best
            overlap[:, best] = 0
    return partner


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of xyxy boxes: (N, 4) and (M, 4) to (N, M); 0 of boxes without area."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clip(0).prod(-1)  # [N, M]
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    union = area[0][:, None] + area[1][None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def changed(picture: dict[str, Any], confidence: float = CONFIDENCE) -> list[float]:
    """The scores of what only one of the detectors shows: objects found by one alone, and boxes that are none."""
    pairs = [tuple(of[side] for side in SIDES) for of in picture["objects"] or []]
    for side in SIDES:  # what both have is told of once
        wrong = [box for box in picture[side] if box["object"] is None and not (side == "slim" and box["other"])]
        pairs += [(box["score"], box["other"]) for box in wrong]
    return [max(pair) for pair in pairs if min(pair) < confidence <= max(pair)]


def most_changed(pictures: Iterable[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The `n` that changed most, in order."""

    def rank(picture: dict[str, Any]) -> tuple[int, float]:
        scores = changed(picture)
        return len(scores), sum(scores)

    return sorted(pictures, key=rank, reverse=True)[:n]


def counted(pictures: Sequence[dict[str, Any]], confidence: float = CONFIDENCE) -> dict[str, int] | None:
    """Of all objects, how many both find, only one does, none does; and false positives of each. None: no labels."""
    if any(picture["objects"] is None for picture in pictures):
        return None
    found = dict.fromkeys(("objects", "both", "lost", "gained", "neither", "false_original", "false_slim"), 0)
    for picture in pictures:
        for of in picture["objects"]:
            found["objects"] += 1
            before, after = (of[side] >= confidence for side in SIDES)
            found[{(1, 1): "both", (1, 0): "lost", (0, 1): "gained", (0, 0): "neither"}[before, after]] += 1
        for side in SIDES:
            found[f"false_{side}"] += sum(box["object"] is None and box["score"] >= confidence for box in picture[side])
    return found


def tally(picture: dict[str, Any], side: str, confidence: float = CONFIDENCE) -> dict[str, int]:
    """Of one detector in one image: true and false positives, missed objects; `boxes` alone where nothing is known."""
    shown = [box for box in picture[side] if box["score"] >= confidence]
    if picture["objects"] is None:
        return {"boxes": len(shown), "alone": sum(box["other"] < confidence for box in shown)}
    right = sum(box["object"] is not None for box in shown)
    return {"right": right, "wrong": len(shown) - right, "missed": len(picture["objects"]) - right}
