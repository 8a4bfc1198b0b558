"""What a detector's head says of itself, whatever kind it is: nobody else asks its last layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_slim.formats.detector import Detector, Head


def head_of(detector: Detector) -> Head:
    """The last layer."""
    return detector.model[-1]


def classes_of(detector: Detector) -> int:
    """How many it tells apart."""
    return head_of(detector).nc


def bins_of(detector: Detector) -> int | None:
    """Of each distance from a point to a side of its box, how many logits it says; None: it says boxes otherwise."""
    head = head_of(detector)
    return getattr(head, "reg_max", None) if getattr(head, "cv2", None) is not None else None


def entering(detector: Detector) -> list[str]:
    """The modules whose outputs enter it."""
    return [f"model.{i}" for i in head_of(detector).f]


def is_of_head(detector: Detector, name: str) -> bool:
    """Whether a module, by its dotted name, is the head or a part of it."""
    return f"{name}.".startswith(f"model.{len(detector.model) - 1}.")


def raw(output: Any) -> Mapping[str, Any]:
    """What a head says before it is decoded, from what a detector returns in either mode.

    `feats` are the maps (B, C, H, W) that entered it; `boxes` (B, 4 * bins, A) and `scores` (B, K, A), the logits of
    the one-to-many head, are there where the head has bins.
    """
    found = output[1] if isinstance(output, tuple) else output
    return {"feats": found} if isinstance(found, list) else found.get("one2many", found)
