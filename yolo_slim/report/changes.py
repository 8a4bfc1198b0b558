"""Which boxes of two detectors are the same box, and which images changed most by that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SAME_IOU = 0.5
RULE = (
    f"Two boxes are the same where they have one class and overlap by an IoU of {SAME_IOU:g} or more; the surest "
    "choose first. Every other box has changed: lost, if only the original has it, or new. "
    "Ties are decided by the sum of their scores."
)


def picture(file: str, hw: tuple[int, int], before: Sequence[dict], after: Sequence[dict]) -> dict[str, Any]:
    """An image's boxes by both detectors, each saying whether the other has it too.

    Args:
        file: the image.
        hw: its size, which the boxes' `xyxy` are of.
        before: boxes of the original, as `measure.detections` gives them.
        after: of the slim detector.
    """
    partner = same(before, after)
    found = set(partner.values())
    return {
        "name": Path(file).name,
        "file": file,
        "hw": list(hw),
        "original": [{**box, "same": i in partner} for i, box in enumerate(before)],
        "slim": [{**box, "same": i in found} for i, box in enumerate(after)],
    }


def same(before: Sequence[dict], after: Sequence[dict]) -> dict[int, int]:
    """Index of a box before -> index of the same box after."""
    partner: dict[int, int] = {}
    for i in sorted(range(len(before)), key=lambda i: -before[i]["score"]):
        free = [j for j in range(len(after)) if j not in partner.values() and after[j]["id"] == before[i]["id"]]
        best = max(free, key=lambda j: iou(before[i]["xyxy"], after[j]["xyxy"]), default=None)
        if best is not None and iou(before[i]["xyxy"], after[best]["xyxy"]) >= SAME_IOU:
            partner[i] = best
    return partner


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two xyxy boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (area - both) if both else 0.0


def changed(picture: dict[str, Any]) -> list[dict]:
    """The boxes of a picture that only one detector has."""
    return [box for side in ("original", "slim") for box in picture[side] if not box["same"]]


def most_changed(pictures: Iterable[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The `n` that changed most, in order."""

    def rank(picture: dict[str, Any]) -> tuple[int, float]:
        boxes = changed(picture)
        return len(boxes), sum(box["score"] for box in boxes)

    return sorted(pictures, key=rank, reverse=True)[:n]
