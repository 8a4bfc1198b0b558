"""A bench as tables and sentences: how fast each runtime is, what share of the FLOPs cut became speed, where none."""

from __future__ import annotations

from typing import Any

from yolo_slim.report.numbers import DASH, busy, digits, ratio, spread, table

BENCH_HEAD = ("runtime", "threads", "batch", "original, ms [p10–p90]", "slim, ms [p10–p90]", "faster", "became speed")
SHOWN = 5
"""Layers named, of each runtime: those that are furthest behind what their FLOPs promise."""


def bench_rows(bench: dict[str, Any]) -> list[list[str]]:
    """A line for each runtime, thread count and batch."""
    rows = {(r["runtime"], r["threads"], r["batch"], r["stage"]): r["latency_ms"] for r in bench["rows"]}
    lines = []
    for runtime, threads, batch, stage in rows:
        before = rows.get((runtime, threads, batch, "original"))
        if stage == "original":
            continue
        after = rows[runtime, threads, batch, stage]
        if before is None:  # a slim file of no run: nothing is there to compare it with
            lines.append([runtime, str(threads), str(batch), DASH, spread(after), DASH, DASH])
            continue
        faster = f"{before['median'] / after['median']:.2f}×"
        share = became(before["median"], after["median"], bench["flops"])
        lines.append([runtime, str(threads), str(batch), spread(before), spread(after), faster, share])
    return lines


def became(before: float, after: float, flops: dict[str, float]) -> str:
    """What share of the FLOPs cut became speed: 100 % where time fell as FLOPs did."""
    saved = 1 - flops["slim"] / flops["original"]
    return f"{(1 - after / before) / saved:.0%}" if saved > 0 else DASH


def behind(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers that take longer than their FLOPs promise, the furthest behind first."""
    late = [layer for layer in layers if layer["after_ms"] > promised(layer)]
    return sorted(late, key=lambda layer: promised(layer) - layer["after_ms"])[:SHOWN]


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


def bench_said(bench: dict[str, Any]) -> list[str]:
    """What a bench has found, for a page that shows its numbers elsewhere."""
    if "original" not in bench["flops"]:
        return bench_sentences(bench)
    rows = [dict(zip(BENCH_HEAD, row, strict=True)) for row in bench_rows(bench)]
    speed = ", ".join(f"{r['became speed']} in {r['runtime']} (batch {r['batch']}, {r['faster']})" for r in rows)
    flops = ratio(bench["flops"]["slim"], bench["flops"]["original"])
    return [f"Of the FLOPs cut ({flops}) became speed: {speed}.", *bench_sentences(bench)]


def bench_sentences(bench: dict[str, Any]) -> list[str]:
    """Whether the machine was quiet; per runtime, which layers did not become as fast as their FLOPs promise."""
    lines = []
    if loud := dict.fromkeys(row["runtime"] for row in bench["rows"] if busy(row["latency_ms"])):
        lines.append(
            f"The machine was busy: in {', '.join(loud)} the slowest tenth of the runs took over twice as long as the "
            "fastest. To time again when nothing else runs: remove the bench folder of the run, then yolo-slim bench."
        )
    for runtime, layers in bench["layers"].items():
        if late := behind(layers):
            named = ", ".join(
                f"{layer['layer'].removesuffix('.conv')} ({digits(layer['before_ms'])} → {digits(layer['after_ms'])} "
                f"ms, FLOPs {ratio(layer['macs_after'], layer['macs_before'])})"
                for layer in late
            )
            lines.append(f"In {runtime}, furthest behind their FLOPs: {named}.")
    return lines


def bench_markdown(bench: dict[str, Any]) -> str:
    """bench.md."""
    parts = [
        f"# {bench['name']}: latency",
        table(BENCH_HEAD, bench_rows(bench)),
        _explained(bench["flops"]),
        "\n".join(f"- {line}" for line in bench_sentences(bench)),
        *(f"## Layers in {runtime}\n\n{_layers(layers)}" for runtime, layers in bench["layers"].items()),
        f"Measured {bench_conditions(bench)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _explained(flops: dict[str, float]) -> str:
    """What the columns say; nothing where one detector alone was timed."""
    if "original" not in flops:
        return ""
    saved = ratio(flops["slim"], flops["original"])
    return f"FLOPs {saved}. 'Became speed': the share of the FLOPs cut by which time has fallen as well."


def _layers(layers: list[dict[str, Any]]) -> str:
    head = ("layer", "FLOPs", "before, ms", "promised by its FLOPs, ms", "after, ms")
    rows = [
        [
            f"`{layer['layer']}`",
            ratio(layer["macs_after"], layer["macs_before"]) or DASH,
            digits(layer["before_ms"]),
            digits(promised(layer)),
            digits(layer["after_ms"]),
        ]
        for layer in layers
    ]
    return table(head, rows)
