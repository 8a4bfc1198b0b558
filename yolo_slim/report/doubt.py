"""How sure a difference is, in words: both are known on the same draws of the images, so each draw has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from yolo_slim.report.numbers import points
from yolo_slim.row import Row


def difference(row: Row, base: Row) -> tuple[float, float] | None:
    """`between`, of mAP50-95."""
    return between(row, base, "map50_95")


def between(row: Row, base: Row, key: str) -> tuple[float, float] | None:
    """Between which values row's − base's lies on 95 % of the draws; None where there are no common draws.

    Args:
        row: what became of it.
        base: what is compared with.
        key: map50_95, precision_at_25, recall_at_25 or f1_at_25.
    """
    drawn, other = (draws(of, key) for of in (row, base))
    same = all(row.get(k) == base.get(k) for k in ("images", "labels"))
    if not drawn or not same or len(drawn) != len(other):
        return None
    value = _value(row, key) - _value(base, key)
    low, high = map(float, np.percentile(np.subtract(drawn, other), (2.5, 97.5)))
    return min(low, value), max(high, value)


def draws(row: Row, key: str) -> list[float]:
    """What it is on each draw of the images; none where that is not known."""
    if key == "map50_95":
        return row.get("replicates") or []
    return (row.get("replicates_at_25") or {}).get(key.removesuffix("_at_25"), [])


def _value(row: Mapping[str, Any], key: str) -> float:
    return float(row[key])


def change(row: Row, base: Row) -> str | None:
    """−2.4 points; 95 %: −3.3 to −1.5, 72 images. None where one of them was not measured."""
    value = points(row.get("map50_95"), base.get("map50_95"))
    return None if value is None else f"{value} points{sure(row, base)}"


def sure(row: Row, base: Row, key: str = "map50_95") -> str:
    """What follows a difference; nothing where it is not known on how many images it was measured."""
    found = between(row, base, key)
    if found is None:
        return f"; {images(row)}: too few to say how sure" if too_few(row) else ""
    return f"; 95 %: {span(*found)}, {images(row)}"


def sure_of(file: Mapping[str, Any]) -> str:
    """The same of an exported file, whose row holds the difference itself, and a bound."""
    if file.get("map50_95_difference") is None or not file.get("map50_95_images"):
        return ""
    low, high = file["map50_95_difference_low"], file["map50_95_difference_high"]
    seen = images({"images": file["map50_95_images"]})
    if low is None or high is None:
        return f"; {seen}: too few to say how sure"
    unsure = ": too few to tell on which side of the bound it is" if file["map50_95_undecided"] else ""
    return f"; 95 %: {span(low, high)}, {seen}{unsure}"


def in_brackets(doubt: str) -> str:
    """What `sure` or `sure_of` say, where the difference stands alone."""
    return f" ({doubt.removeprefix('; ')})" if doubt else ""


def too_few(row: Row) -> bool:
    """Whether there are not enough images to draw from."""
    return bool(row.get("map50_95") is not None and row.get("images") and not row.get("replicates"))


def undecided(row: Row, base: Row, bound: float) -> bool:
    """Whether, as far as these images tell, the difference may as well lie on the other side of a bound."""
    found = difference(row, base)
    return too_few(row) if found is None else found[0] < bound - 1e-9 and found[1] > bound + 1e-9


def span(low: float, high: float) -> str:
    """In points."""
    return f"{points(low, 0)} to {points(high, 0)}"


def bounds(row: Row) -> str | None:
    """A row's own mAP50-95 on 95 % of the draws."""
    low, high = row.get("map50_95_low"), row.get("map50_95_high")
    return None if low is None or high is None else f"{low:.3f}–{high:.3f}"


def images(row: Row) -> str:
    """How many there are in the split."""
    return f"{row['images']} image{'' if row['images'] == 1 else 's'}"
