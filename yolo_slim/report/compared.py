"""The original beside the slim detector, part by part: by class, by image. Words, a head, and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from yolo_slim.report.changes import CONFIDENCE, LEAST, RULE, SAME_IOU, SIDES, changed, tally
from yolo_slim.report.numbers import DASH, points

Part = tuple[str, Sequence[str], list[list[str]]]

COUNTED = {
    "both": "found by both",
    "lost": "lost: found by the original alone",
    "gained": "gained: found by the slim detector alone",
    "neither": "missed by both",
}


def classes(report: dict[str, Any]) -> list[tuple[str, float, float | None]]:
    """Each class that has labels with its AP50-95 in the first and the last row, what fell most first.

    Classes are told apart by their ids: where names are alike, the id stands behind.
    """
    rows = report["rows"]
    before, after = ({of["id"]: of for of in rows[i].get("per_class") or []} if rows else {} for i in (0, -1))
    alike = Counter(of["name"] for of in before.values())
    both = [
        (
            of["name"] if alike[of["name"]] == 1 else f"{of['name']} ({k})".strip(),
            of["ap50_95"],
            after.get(k, {}).get("ap50_95") if len(rows) > 1 else None,
        )
        for k, of in before.items()
        if of["ap50_95"] is not None
    ]
    return sorted(both, key=lambda each: (each[2] or 0) - each[1])


def by_class(report: dict[str, Any]) -> Part | None:
    """AP50-95 of each class; of one alone it is the mAP, which stands elsewhere."""
    found = classes(report)
    if len(found) < 2:
        return None
    words = f"AP50-95 of each class on {report.get('split')}; what fell most comes first."
    if bare := len(report["rows"][0]["per_class"]) - len(found):
        words += f" {bare} more {'has' if bare == 1 else 'have'} no labels there."
    rows = [
        [name, f"{before:.3f}", DASH if after is None else f"{after:.3f}", points(after, before) or DASH]
        for name, before, after in found
    ]
    return words, ("class", "before", "after", "points"), rows


def by_picture(report: dict[str, Any]) -> Part | None:
    """What each detector finds in each of the shown images."""
    found = report.get("pictures")
    if not found or not found["shown"]:
        return None
    known = found["counted"] is not None
    names = ("TP", "FP", "missed") if known else ("boxes", "in this alone")
    rows = [
        [picture["name"], *(str(n) for side in SIDES for n in tally(picture, side).values())]
        for picture in found["shown"]
    ]
    return changes_said(found), ("image", *(f"{name}, {side}" for side in SIDES for name in names)), rows


def by_object(found: dict[str, Any] | None) -> Part | None:
    """Of all objects in the images looked at, how many are lost and gained; None without labels."""
    counts = (found or {}).get("counted")
    if not found or not counts:
        return None
    of = f"all {found['of']} images" if found["looked_at"] == found["of"] else f"{found['looked_at']} images"
    rows = [[name, str(counts[key])] for key, name in COUNTED.items()]
    rows += [["false positives", f"{counts['false_original']} → {counts['false_slim']}"]]
    return (
        f"The {counts['objects']} objects of {of}, as Ultralytics' predict shows them at confidence {CONFIDENCE:g}.",
        ("objects", "number"),
        rows,
    )


def changes_said(found: dict[str, Any]) -> str:
    """What the shown images are, and what makes a box a right one."""
    every = found["looked_at"] == found["of"]
    of = f"all {found['of']}" if every else f"{found['looked_at']} of {found['of']}, evenly spread"
    same = sum(not changed(picture) for picture in found["shown"])
    none = f" In {same} of those shown nothing has changed." if same else ""
    rule = (
        RULE
        if found["counted"] is not None
        else (
            "Without labels nobody knows which is right: two boxes are the same where they have one class and overlap "
            f"by an IoU of {SAME_IOU:g} or more."
        )
    )
    return (
        f"The {len(found['shown'])} that changed most at confidence {CONFIDENCE:g}, among {of}; boxes are kept from "
        f"{LEAST:g} on.{none} {rule}"
    )
