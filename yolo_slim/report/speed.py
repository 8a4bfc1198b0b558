"""One story of latency: of all runtimes that were timed, the one that the page goes by, and how the others compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yolo_slim.report.bench_words import (
    BECAME,
    BEHIND,
    BEHIND_HEAD,
    BENCH_HEAD,
    behind_rows,
    bench_rows,
    bench_sentences,
)
from yolo_slim.report.numbers import busy, timed_ms
from yolo_slim.row import BenchRow, Row, Timing


def timed(report: dict[str, Any]) -> dict[tuple[str, int, int], list[BenchRow]]:
    """(runtime, threads, batch) -> rows with `stage` and `latency_ms`, from the benchmark; else from the stages."""
    rows: list[BenchRow] = report["bench"]["rows"] if report.get("bench") else []
    if not rows and (on := report.get("measured_on")):
        what: BenchRow = {"runtime": on["runtime"], "threads": on["threads"], "batch": on["batch"]}
        rows = [{**what, "stage": r["stage"], "latency_ms": r.get("latency_ms")} for r in report["rows"]]
    found: dict[tuple[str, int, int], list[BenchRow]] = {}
    for row in rows:
        if row.get("latency_ms"):
            found.setdefault((row["runtime"], row["threads"], row["batch"]), []).append(row)
    return found


def chosen(bench: dict[str, Any]) -> tuple[tuple[Timing, Timing], dict[str, Any]] | None:
    """What a report tells of a benchmark: the runtime that the slim detector is quickest in.

    One image at a time where that was timed, and of the runtimes that were timed on a quiet machine, if there are such.

    Returns:
        milliseconds of the original and of the slim detector, and what they were measured on; None: nothing was.
    """
    pairs = [rows for rows in timed({"bench": bench}).values() if len(rows) > 1]
    if not pairs:
        return None
    best = min(pairs, key=lambda rows: (rows[0]["batch"], loud(*rows), timed_ms(rows[-1])))
    first, last = best[0], best[-1]
    on = {"runtime": f"{last['runtime']} {last['version']}", "device": last["device"], "threads": last["threads"]}
    on |= {"batch": last["batch"], "dtype": "float32", "imgsz": bench["imgsz"], "runs": bench["runs"]}
    before, after = first["latency_ms"], last["latency_ms"]
    assert before and after, "`timed` has none without"
    return (before, after), on


def loud(*rows: Row) -> bool:
    """Whether one of these was timed on a busy machine."""
    return any(busy(ms) for row in rows if (ms := row.get("latency_ms")))


def runtime_of(report: dict[str, Any]) -> str:
    """What latency was measured in: without a version, and with how many images at a time if not one."""
    on = report["measured_on"]
    return on["runtime"].split()[0] + (f", batch {on['batch']}" if on["batch"] > 1 else "")


def by_runtime(report: dict[str, Any]) -> tuple[Sequence[str], list[list[str]], str] | None:
    """A head, a row a runtime, and what is to be known of it; only where there was a benchmark."""
    bench = report.get("bench")
    return (BENCH_HEAD, bench_rows(bench), " ".join([BECAME, *bench_sentences(bench)])) if bench else None


def by_layer(report: dict[str, Any]) -> tuple[Sequence[str], list[list[str]], str] | None:
    """The layers that are furthest behind what their FLOPs promise, in each runtime that tells."""
    rows = behind_rows(report["bench"]) if report.get("bench") else []
    return (BEHIND_HEAD, rows, BEHIND) if rows else None
