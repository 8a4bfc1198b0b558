"""What a detector is worth to those who run it at one confidence: precision, recall, F1, and where it finds nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from yolo_slim.measure.bootstrap import FEWEST, draws
from yolo_slim.measure.matches import Matches

CONFIDENCE = 0.25
"""Ultralytics' own threshold for `predict`: boxes below it are not shown."""
CHOICES = np.round(np.arange(0.01, 1.0, 0.01), 2)
"""Confidences that the best is sought among."""


def scores(found: Matches) -> dict[str, Any]:
    """At confidence 0.25, and at the confidence of the highest F1.

    Counted over all classes together, at IoU 0.5, by the validator's own matches: precision is the share of the boxes
    that are objects (None where there is no box), recall the share of the objects that are found, F1 their harmonic
    mean. An image is blind if it has objects and no box at 0.25, of whatever class; its best score is that of its
    surest box (0 without any).

    `replicates_at_25` holds precision, recall and F1 at 0.25 on the draws of the images that mAP50-95 is known on.

    Args:
        found: with at least one object.
    """
    usual = at(found, CONFIDENCE)
    every = [(float(c), at(found, float(c))) for c in CHOICES]
    # Of several that are as good, the one that differs least from what everybody uses.
    confidence, best = max(every, key=lambda each: (each[1]["f1"], -abs(each[0] - CONFIDENCE)))
    surest = np.zeros(found.images)
    np.maximum.at(surest, found.image, found.conf)
    surest = surest[found.labelled]
    return {
        **{f"{name}_at_25": value for name, value in usual.items()},
        "best_confidence": confidence,
        **{f"{name}_best": value for name, value in best.items()},
        "labelled_images": len(surest),
        "blind_images": int((surest < CONFIDENCE).sum()),
        "median_best_score": round(float(np.median(surest)), 4),
        "replicates_at_25": replicates_at(found, CONFIDENCE),
    }


def at(found: Matches, confidence: float) -> dict[str, float | None]:
    """Precision, recall and F1 of the boxes from this confidence on."""
    shown = found.conf >= confidence
    boxes, objects, right = int(shown.sum()), len(found.target_cls), int(found.tp[shown, 0].sum())
    return {
        "precision": right / boxes if boxes else None,
        "recall": right / objects,
        "f1": 2 * right / (boxes + objects),
    }


def replicates_at(found: Matches, confidence: float) -> dict[str, list[float]]:
    """What `at` gives on each draw of the images that has an object.

    Empty where there are too few images to draw from; precision's alone where a draw has no box.
    """
    if len(found.labelled) < FEWEST:
        return {"precision": [], "recall": [], "f1": []}
    shown = found.conf >= confidence
    of = (found.image[shown], found.target_image, found.image[shown & found.tp[:, 0]])
    boxes, objects, right = (np.bincount(image, minlength=found.images) @ draws(found.images) for image in of)
    boxes, objects, right = (each[objects > 0] for each in (boxes, objects, right))
    worth = {"recall": right / objects, "f1": 2 * right / (boxes + objects)}
    worth["precision"] = right / boxes if boxes.all() else np.empty(0)
    return {name: [round(float(v), 5) for v in worth[name]] for name in ("precision", "recall", "f1")}
