"""What one came for: how much smaller and faster, how much less accurate, and which of it is sure."""

from __future__ import annotations

from typing import Any, NamedTuple

from yolo_slim.report.doubt import between, difference, images, sure, too_few
from yolo_slim.report.numbers import digits, points, ratio, side_of, timed_ms
from yolo_slim.report.operating import not_measured
from yolo_slim.report.speed import loud, runtime_of
from yolo_slim.row import Row


class Card(NamedTuple):
    """A number of the headline: how much, of what, from where to where."""

    much: str
    what: str
    way: str
    sure: str = ""


def headline(report: dict[str, Any]) -> list[Card]:
    """From the first row to the last."""
    rows = report["rows"]
    if len(rows) < 2:
        return []
    first, last = rows[0], rows[-1]
    size = side_of(report["imgsz"])
    costs = (
        ("params", "parameters", 1e6, "M"),
        ("flops", "FLOPs", 1e9, f"GFLOPs at {size}"),
        ("file_mb", "file size", 1, "MB"),
    )
    found = [
        Card(much, word, _way(first[key], last[key], unit, name))
        for key, word, unit, name in costs
        if (much := ratio(last.get(key), first.get(key)))
    ]
    return [*found, *_speed(report, first, last), *_worths(report, first, last)]


def _speed(report: dict[str, Any], first: Row, last: Row) -> list[Card]:
    if not (first.get("latency_ms") and last.get("latency_ms")):
        return []
    before, after, where = timed_ms(first), timed_ms(last), runtime_of(report)
    way = f"{_way(before, after, 1, 'ms')} in {where}"
    if loud(first, last):
        return [Card("?", "speed", way, "the machine was busy: not to be relied on")]
    word = "faster" if before >= after else "the speed: slower"
    return [Card(much, word, way)] if (much := ratio(before, after)) else []


def _worths(report: dict[str, Any], first: Row, last: Row) -> list[Card]:
    found = []
    if change := points(last.get("map50_95"), first.get("map50_95")):
        way = f"{first['map50_95']:.3f} → {last['map50_95']:.3f} on {report['split']}"
        found.append(Card(change, "points of mAP50-95", way, sure(last, first).removeprefix("; ")))
    if change := points(last.get("f1_at_25"), first.get("f1_at_25")):
        way = f"{first['f1_at_25']:.3f} → {last['f1_at_25']:.3f} at confidence 0.25"
        found.append(Card(change, "points of F1", way, sure(last, first, "f1_at_25").removeprefix("; ")))
    return found


def _way(before: float, after: float, unit: float, name: str) -> str:
    return f"{digits(before / unit)} → {digits(after / unit)} {name}"


def verdict(report: dict[str, Any]) -> str:
    """What is known, given how many images there are and how far the times of the runs spread."""
    rows = report["rows"]
    if len(rows) < 2:
        measured = rows[0]["stage"] if rows else "nothing"
        return f"Nothing to compare yet; measured so far: {measured}."
    first, last = rows[0], rows[-1]
    said = [part for part in (faster(report, first, last), accurate(first, last)) if part]
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def faster(report: dict[str, Any], first: Row, last: Row) -> str:
    """Whether it is, beyond the spread of the runs; "" if it was not timed."""
    before, after = first.get("latency_ms"), last.get("latency_ms")
    if not before or not after:
        return ""
    where = f"in {runtime_of(report)}"
    if loud(first, last):
        return f"whether it is faster {where} is not known: the machine was busy"
    if after["p90"] < before["p10"]:
        return f"faster {where}"
    if after["p10"] > before["p90"]:
        return f"slower {where}"
    return f"no difference in speed {where} that stands out from the spread of the runs"


def accurate(first: Row, last: Row) -> str:
    """Whether it still is, beyond what the choice of the images explains."""
    change = points(last.get("map50_95"), first.get("map50_95"))
    if change is None:
        return not_measured(last) if last.get("labels") == 0 else "mAP was not measured on both"
    if too_few(last):
        return f"{images(last)} of {last['split']} are too few to say whether it is as accurate"
    found = difference(last, first)
    if found is None:
        return f"{change} points of mAP50-95, of unknown certainty"
    low, high = found
    on = f"{images(last)} of {last['split']}"
    if low > 0:
        return f"more accurate, as far as {on} can tell"
    if high < 0:
        return f"less accurate, by more than the choice of {on} explains"
    return f"no difference in accuracy that {on} could tell"


def changes(report: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """From the first row to the last, in numbers: each `difference`, and between which it lies on 95 % of the draws."""
    rows = report["rows"]
    if len(rows) < 2:
        return {}
    first, last = rows[0], rows[-1]
    found = {}
    for key in ("map50_95", "precision_at_25", "recall_at_25", "f1_at_25"):
        if first.get(key) is not None and last.get(key) is not None:
            low, high = between(last, first, key) or (None, None)
            found[key] = {"difference": last[key] - first[key], "low": low, "high": high}
    return found
