"""A detector as it is run, at one confidence: its numbers there, and a warning where mAP hides that scores moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from yolo_slim.report.device_words import device_warnings
from yolo_slim.report.doubt import between, bounds, images, span
from yolo_slim.report.numbers import DASH, points
from yolo_slim.row import Row

MOVED = 0.05
"""Recall, F1 or share of images at confidence 0.25: what is lost beyond this, and beyond mAP, is told at the top."""
LONGER = "train longer (finetune.epochs), or leave sparse training out (sparse_train.epochs=0)"
HEAD = (
    *("stage", "precision at 0.25", "recall at 0.25", "F1 at 0.25"),
    *("best confidence", "precision there", "recall there", "F1 there"),
    *("images with nothing at 0.25", "median best score"),
)
KEYS = (
    *("precision_at_25", "recall_at_25", "f1_at_25", "best_confidence", "precision_best", "recall_best", "f1_best"),
    *("blind_images", "median_best_score"),
)
LEGEND = (
    "At confidence 0.25, Ultralytics' own for `predict`, and at the confidence of each detector's highest F1: all "
    "classes together, IoU 0.5. Of the images that have objects: in how many nothing is found, and the median of their "
    "surest boxes' scores. Changes of precision, recall and F1 are in points."
)


def table_at(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each row that was measured."""
    return [_line(row) for row in rows if row.get("f1_at_25") is not None]


def _line(row: Row) -> list[str]:
    usual = map(_three, (row["precision_at_25"], row["recall_at_25"], row["f1_at_25"]))
    best = map(_three, (row["precision_best"], row["recall_best"], row["f1_best"]))
    blind = f"{row['blind_images']} of {row['labelled_images']}"
    return [row["stage"], *usual, f"{row['best_confidence']:.2f}", *best, blind, f"{row['median_best_score']:.2f}"]


def _three(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def compared_at(rows: Sequence[Row]) -> tuple[Sequence[str], list[list[str]]] | None:
    """The same, a line for each number and a column for each row; and what has changed from the first to the last."""
    known = [row for row in rows if row.get("f1_at_25") is not None]
    if not known:
        return None
    lines = table_at(known)
    names = list(HEAD[1:])
    names[7] = f"images with nothing at 0.25, of {known[0]['labelled_images']}"
    cells = [list(column) for column in zip(*(line[1:] for line in lines), strict=True)]
    cells[7] = [str(row["blind_images"]) for row in known]
    head = ["", *(row["stage"] for row in known)]
    if len(known) == 1:
        return head, [[name, *each] for name, each in zip(names, cells, strict=True)]
    head.append("change [95 %]" if between(known[-1], known[0], "f1_at_25") else "change")
    changes = [_changed(known[-1], known[0], key) for key in KEYS]
    return head, [[name, *each, change] for name, each, change in zip(names, cells, changes, strict=True)]


def _changed(row: Row, base: Row, key: str) -> str:
    """Shares in points, and where these lie on 95 % of the draws; a confidence, a score or a number as it is."""
    now, then = (cast(Mapping[str, Any], of).get(key) for of in (row, base))
    if now is None or then is None:
        return DASH
    if key == "blind_images":
        return f"{now - then:+d}".replace("-", "−")
    if key in ("best_confidence", "median_best_score"):
        return f"{round(now - then, 2) + 0.0:+.2f}".replace("-", "−")  # + 0.0: no "−0.00"
    sure = between(row, base, key)
    return f"{points(now, then)}" + (f" [{span(*sure)}]" if sure else "")


def moved(first: Row, last: Row, otherwise: str = LONGER) -> str | None:
    """A warning, where at confidence 0.25 more is lost than mAP says; None where not, or where that is not known.

    Args:
        first: with its `stage`, as it is called here.
        last: what became of it.
        otherwise: what else could be done about it.
    """
    if any(row.get("f1_at_25") is None for row in (first, last)):
        return None
    fallen = max(0.0, first["map50_95"] - last["map50_95"])
    lost = max(first[key] - last[key] for key in ("recall_at_25", "f1_at_25"))
    blinder = last["blind_images"] / last["labelled_images"] - first["blind_images"] / first["labelled_images"]
    if lost - fallen <= MOVED and blinder <= MOVED:
        return None
    way_out = _way_out(first, last, otherwise, blinder > MOVED)
    before, after = (f"{row['recall_at_25']:.2f} and F1 {row['f1_at_25']:.2f}" for row in (first, last))
    return (
        f"Scores have moved: at confidence 0.25, which Ultralytics uses unless told otherwise, {last['stage']} finds "
        f"nothing in {last['blind_images']} of {last['labelled_images']} images with objects ({first['stage']}: "
        f"{first['blind_images']}), with recall {after} ({before}); the median best score went from "
        f"{first['median_best_score']:.2f} to {last['median_best_score']:.2f}. {way_out}"
    )


def _way_out(first: Row, last: Row, otherwise: str, blinder: bool) -> str:
    where = f"conf={last['best_confidence']:g}"
    gain, lost = last["f1_best"] - last["f1_at_25"], first["f1_at_25"] - last["f1_at_25"]
    # Another confidence is a way out where it brings back half of what was lost, and boxes where boxes are missing.
    if gain < max(0.01, lost / 2) or (blinder and last["best_confidence"] >= 0.25):
        return f"No other confidence helps (its best, {where}, has F1 {last['f1_best']:.2f}): {otherwise}."
    return f"Run it with {where}, its best (F1 {last['f1_best']:.2f}; {first['f1_best']:.2f} before), or {otherwise}."


def warnings(report: dict[str, Any]) -> list[str]:
    """What the numbers at the top do not say, and ought to: from the first row to the last."""
    rows = report["rows"]
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    said = [not_measured(last)] if last.get("labels") == 0 else []
    if first is not last and (warning := moved(first, last)):
        said.append(warning)
    return said + device_warnings(report.get("device"))


def worth(row: Row) -> str:
    """What a detector is worth, for the line that a stage ends with; "" without data."""
    if not row.get("split"):
        return ""
    if row.get("map50_95") is None:
        return f"  {not_measured(row)}"
    sure = f" [{bounds(row)}]" if bounds(row) else ""
    said = f"  mAP50-95 {row['map50_95']:.3f}{sure} ({row['split']}, {images(row)})  F1 at 0.25 {row['f1_at_25']:.3f}"
    if row["blind_images"]:
        said += f", nothing found in {row['blind_images']} of {row['labelled_images']} images"
    return said


def not_measured(row: Row) -> str:
    """Why a row has no mAP, though there is a data set."""
    other = "; report.split=val would measure on val" if row["split"] == "test" else ""
    return f"mAP not measured: no image of {row['split']} has a label{other}"
