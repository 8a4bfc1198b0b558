"""A bench as tables and sentences: how fast each runtime is, what share of the FLOPs cut became speed, where none."""

from __future__ import annotations

from typing import Any

from yolo_slim.report.numbers import DASH, busy, digits, ratio, spread, table

BENCH_HEAD = ("runtime", "threads", "batch", "original, ms [p10–p90]", "slim, ms [p10–p90]", "faster", "became speed")
BEHIND_HEAD = ("layer", "runtime", "FLOPs", "before, ms", "promised, ms", "after, ms")
BECAME = "Became speed: the share of the FLOPs cut by which time has fallen as well."
BEHIND = "Promised: what a layer would take if its time had fallen as its FLOPs did. Worst first, in each runtime."
SHOWN = 5
"""Layers named, of each runtime: those that are furthest behind what their FLOPs promise."""


def bench_rows(bench: dict[str, Any]) -> list[list[str]]:
    """A line for each batch, runtime and thread count, the quickest first; what was timed on a busy machine is compared
    with nothing."""
    rows = {(r["runtime"], r["threads"], r["batch"], r["stage"]): r["latency_ms"] for r in bench["rows"]}
    lines = []
    for runtime, threads, batch, stage in sorted(rows, key=lambda key: (key[2], rows[key]["median"])):
        before = rows.get((runtime, threads, batch, "original"))
        if stage == "original":
            continue
        after = rows[runtime, threads, batch, stage]
        if before is None:  # a slim file of no run: nothing is there to compare it with
            lines.append([runtime, str(threads), str(batch), DASH, spread(after), DASH, DASH])
            continue
        faster, share = "busy", DASH
        if not (busy(before) or busy(after)):
            faster = f"{before['median'] / after['median']:.2f}×"
            share = became(before["median"], after["median"], bench["flops"])
        lines.append([runtime, str(threads), str(batch), spread(before), spread(after), faster, share])
    return lines


def became(before: float, after: float, flops: dict[str, float]) -> str:
    """What share of the FLOPs cut became speed: 100 % where time fell as FLOPs did."""
    saved = 1 - flops["slim"] / flops["original"]
    if saved <= 0:
        return DASH
    return f"{(1 - after / before) / saved:.0%}" if after < before else "none"


def busy_in(bench: dict[str, Any]) -> list[str]:
    """The runtimes that were timed while the machine did something else as well."""
    return [*dict.fromkeys(row["runtime"] for row in bench["rows"] if busy(row["latency_ms"]))]


def behind(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers that take longer than their FLOPs promise, the furthest behind first."""
    late = [layer for layer in layers if layer["after_ms"] > promised(layer)]
    return sorted(late, key=lambda layer: promised(layer) - layer["after_ms"])[:SHOWN]


def behind_rows(bench: dict[str, Any]) -> list[list[str]]:
    """A line for each of those, by runtime; none where the machine was busy: milliseconds of a layer are noise then."""
    if busy_in(bench):
        return []
    return [_layer(of, runtime) for runtime, layers in bench["layers"].items() for of in behind(layers)]


def promised(layer: dict[str, Any]) -> float:
    """Milliseconds, if time fell as FLOPs did."""
    return layer["before_ms"] * layer["macs_after"] / layer["macs_before"]


def bench_conditions(bench: dict[str, Any]) -> str:
    """What was timed, and on what: device, threads, runs, versions."""
    devices = dict.fromkeys(row["device"] for row in bench["rows"])
    threads = sorted({row["threads"] for row in bench["rows"]})
    who = "original and slim in turn" if "original" in bench["flops"] else "slim"
    versions = dict.fromkeys(f"{row['runtime']} {row['version']}" for row in bench["rows"])
    return (
        f"on {', '.join(devices)}, {', '.join(map(str, threads))} {'thread' if threads == [1] else 'threads'}, images "
        f"of {bench['imgsz']} px, float32, {who}: {bench['runs']} runs each, "
        f"in {', '.join(versions)}"
    )


def bench_sentences(bench: dict[str, Any]) -> list[str]:
    """Whether the machine was quiet."""
    loud = busy_in(bench)
    if not loud:
        return []
    return [
        f"The machine was busy: in {', '.join(loud)} the slowest tenth of the runs took over twice as long as the "
        "fastest. To time again when nothing else runs: remove the bench folder of the run, then yolo-slim bench."
    ]


def bench_markdown(bench: dict[str, Any]) -> str:
    """bench.md."""
    late, loud = behind_rows(bench), busy_in(bench)
    parts = [
        f"# {bench['name']}: latency",
        "\n".join(bench_sentences(bench)),
        table(BENCH_HEAD, bench_rows(bench)),
        _explained(bench["flops"]),
        f"## Layers behind their FLOPs\n\n{table(BEHIND_HEAD, late)}\n\n{BEHIND}" if late else "",
        *(f"## Layers in {runtime}\n\n{_layers(of)}" for runtime, of in bench["layers"].items() if not loud),
        f"Measured {bench_conditions(bench)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _explained(flops: dict[str, float]) -> str:
    """What the columns say; nothing where one detector alone was timed."""
    if "original" not in flops:
        return ""
    return f"FLOPs {ratio(flops['slim'], flops['original'])}. {BECAME}"


def _layers(layers: list[dict[str, Any]]) -> str:
    """All of them, in the order of execution."""
    cells = (_layer(layer, "") for layer in layers)
    return table((BEHIND_HEAD[0], *BEHIND_HEAD[2:]), ([name, *rest] for name, _, *rest in cells))


def _layer(layer: dict[str, Any], runtime: str) -> list[str]:
    flops = ratio(layer["macs_after"], layer["macs_before"]) or DASH
    times = (digits(ms) for ms in (layer["before_ms"], promised(layer), layer["after_ms"]))
    return [f"`{layer['layer']}`", runtime, flops, *times]
