"""The original beside the slim detector, part by part: by class, by runtime, by image. Words, a head, and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from yolo_slim.report.bench_words import bench_said
from yolo_slim.report.changes import RULE, changed
from yolo_slim.report.numbers import DASH, busy, digits, median, points, ratio, timed_ms
from yolo_slim.row import BenchRow

Part = tuple[str, Sequence[str], list[list[str]]]


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
    """AP50-95 of each class."""
    found = classes(report)
    if not found:
        return None
    words = f"AP50-95 of each class on {report.get('split')}; what fell most comes first."
    if bare := len(report["rows"][0]["per_class"]) - len(found):
        words += f" {bare} more {'has' if bare == 1 else 'have'} no labels there."
    rows = [
        [name, f"{before:.3f}", DASH if after is None else f"{after:.3f}", points(after, before) or DASH]
        for name, before, after in found
    ]
    return words, ("class", "before", "after", "points"), rows


def timed(report: dict[str, Any]) -> dict[tuple[str, int, int], list[BenchRow]]:
    """(runtime, threads, batch) -> rows with `stage` and `latency_ms`, from the benchmark; else from the stages."""
    found: dict[tuple[str, int, int], list[BenchRow]] = {}
    rows: list[BenchRow] = report["bench"]["rows"] if report.get("bench") else []
    if not rows and (on := report.get("measured_on")):
        what: BenchRow = {"runtime": on["runtime"], "threads": on["threads"], "batch": on["batch"]}
        rows = [{**what, "stage": r["stage"], "latency_ms": r["latency_ms"]} for r in report["rows"]]
    for row in rows:
        if row.get("latency_ms"):
            found.setdefault((row["runtime"], row["threads"], row["batch"]), []).append(row)
    return found


def quickest(report: dict[str, Any]) -> tuple[str, float, float] | None:
    """The runtime that the last detector is quickest in, one image at a time where that was measured: (its name,
    milliseconds of the first detector, of the last), and of those that were timed on a quiet machine, if there are
    such. None: fewer than two were timed."""
    found = []
    for (runtime, _, batch), timings in timed(report).items():
        if len(timings) > 1:
            loud = any(busy(timings[i]["latency_ms"]) for i in (0, -1))
            found.append((batch, loud, timed_ms(timings[-1]), _where(runtime, batch), timed_ms(timings[0])))
    if not found:
        return None
    _, loud, after, runtime, before = min(found)
    return runtime + (" on a busy machine" if loud else ""), before, after


def _where(runtime: str, batch: int) -> str:
    """A runtime without its version, and how many images at a time if not one."""
    return runtime.split()[0] + (f", batch {batch}" if batch > 1 else "")


def by_runtime(report: dict[str, Any]) -> Part | None:
    """Latency of each runtime; only where there was a benchmark, for the table of stages has the rest."""
    if not report.get("bench"):
        return None
    head = ("runtime", "threads", "batch", "detector", "latency, ms", "p10–p90", "ratio")
    rows = []
    for (runtime, threads, batch), timings in timed(report).items():
        for row in timings:
            ms = row["latency_ms"]
            change = ratio(ms["median"], median(timings[0])) if row is not timings[0] else None
            spread = f"{digits(ms['p10'])}–{digits(ms['p90'])}"
            which = [runtime, str(threads), str(batch), row["stage"]]
            rows.append([*which, digits(ms["median"]), spread, change or DASH])
    return " ".join(bench_said(report["bench"])), head, rows


def by_picture(report: dict[str, Any]) -> Part | None:
    """How much each of the shown images has changed."""
    found = report.get("pictures")
    if not found:
        return None
    rows = []
    for picture in found["shown"]:
        lost, new = (sum(not box["same"] for box in picture[side]) for side in ("original", "slim"))
        boxes = [str(len(picture[side])) for side in ("original", "slim")]
        rows.append([picture["name"], *boxes, str(lost), str(new)])
    return changes_said(found), ("image", "boxes before", "after", "lost", "new"), rows


def changes_said(found: dict[str, Any]) -> str:
    """What the shown images are, and what makes a box another one."""
    every = found["looked_at"] == found["of"]
    of = f"all {found['of']}" if every else f"{found['looked_at']} of {found['of']}, evenly spread"
    same = sum(not changed(picture) for picture in found["shown"])
    none = f" In {same} of those shown nothing has changed." if same else ""
    return f"The {len(found['shown'])} that changed most among {of}.{none} {RULE}"
