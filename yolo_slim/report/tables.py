"""report.json as Markdown, and the words that its pages share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from yolo_slim.report.bench_words import bench_conditions
from yolo_slim.report.compared import by_class, by_picture, by_runtime, quickest
from yolo_slim.report.device_words import device_markdown
from yolo_slim.report.doubt import bounds, change, images, sure_of
from yolo_slim.report.numbers import DASH, code, digits, median, plain, points, ratio, spread, table
from yolo_slim.report.operating import HEAD, not_measured, table_at, warnings
from yolo_slim.report.operating import LEGEND as AT_LEGEND
from yolo_slim.row import Row

GAINS = {"FLOPs": "flops", "parameters": "params", "file": "file_mb"}
LEGEND = "In brackets: the ratio to the first row; for mAP the difference in points (1 point = 0.01)."
SURE = "In square brackets after mAP50-95: where it lies on 95 % of other draws of as many images."

Cell: TypeAlias = tuple[str | None, str | None]
"""A value, and what has changed."""
EXPORT_HEAD = ("file", "precision", "MB", "runtime", "difference", "mAP50-95")


def markdown(report: dict[str, Any], plots: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        report: the content of report.json.
        plots: file names of the plots that were drawn, relative to the page.
    """
    sections = (
        f"# Slimming report: {plain(report['name'])}",
        plain(summary(report)),
        "\n\n".join(f"**{plain(line)}**" for line in warnings(report)),
        _results(report["rows"]),
        _at(report["rows"]),
        "\n".join(f"- {line}" for line in notes(report["rows"])),
        device_markdown(report.get("device")),
        "## Rounds\n\n" + rounds(report["iterations"]) if report.get("iterations") else "",
        _pictures(plots),
        _compared(report),
        _sweep(report.get("sweep")),
        _training(report.get("training") or {}),
        _conditions(report),
        _widths(report.get("widths") or []),
        _export(report.get("export")),
    )
    return "\n\n".join(s for s in sections if s) + "\n"


def summary(report: dict[str, Any]) -> str:
    """What was gained from the first row to the last, in a sentence or two."""
    rows = report["rows"]
    if len(rows) < 2:
        measured = rows[0]["stage"] if rows else "nothing"
        return f"{report['name']}: nothing to compare yet; measured so far: {measured}."
    first, last = rows[0], rows[-1]
    pairs = {what: ratio(last.get(key), first.get(key)) for what, key in GAINS.items()}
    gains = [f"{what} {x}" for what, x in pairs.items() if x]
    if found := quickest(report):
        runtime, before, after = found
        gains.append(f"latency {ratio(after, before)} ({digits(before)} → {digits(after)} ms, {runtime})")
    parts = [part for part in (", ".join(gains), _accuracy(first, last, report.get("split"))) if part]
    return f"{report['name']}, {first['stage']} → {last['stage']}: {'; '.join(parts)}."


def _accuracy(first: Row, last: Row, split: str | None) -> str:
    said = change(last, first)
    if said is None:
        return not_measured(last) if last.get("labels") == 0 else "mAP was not measured on both"
    before, after = first["map50_95"], last["map50_95"]
    return f"mAP50-95 {before:.3f} → {after:.3f} ({said})" + (f" on {split}" if split else "")


def results(rows: list[Row]) -> tuple[Sequence[str], list[list[Cell]]]:
    """The table of stages: its head, and cells of a value and what has changed against the first row."""
    worth = "mAP50-95 [95 %]" if any(map(bounds, rows)) else "mAP50-95"
    head = ("stage", "params, M", "GFLOPs", "file, MB", "mAP50", worth, "latency, ms [p10–p90]")
    bare: Row = {}  # the first row has nothing to be compared with
    bases = [bare, *[rows[0]] * (len(rows) - 1)] if rows else []
    return head, list(map(_result, rows, bases))


def _results(rows: list[Row]) -> str:
    head, found = results(rows)
    return "## Results\n\n" + table(head, [[_cell(*cell) for cell in cells] for cells in found]) + "\n\n" + legend(rows)


def legend(rows: list[Row]) -> str:
    """What brackets mean in the table of stages."""
    return f"{LEGEND} {SURE}" if any(map(bounds, rows)) else LEGEND


def _at(rows: list[Row]) -> str:
    found = table_at(rows)
    return f"## At one confidence\n\n{table(HEAD, found)}\n\n{AT_LEGEND}" if found else ""


def _result(row: Row, base: Row) -> list[Cell]:
    cells: list[Cell] = [(row["stage"], None)]
    costs = ((row.get("params"), base.get("params"), 1e6), (row.get("flops"), base.get("flops"), 1e9))
    for value, before, unit in (*costs, (row.get("file_mb"), base.get("file_mb"), 1)):
        cells.append((None if value is None else digits(value / unit), ratio(value, before)))
    sure = f" [{bounds(row)}]" if bounds(row) else ""
    worths = ((row.get("map50"), base.get("map50"), ""), (row.get("map50_95"), base.get("map50_95"), sure))
    for value, before, around in worths:
        cells.append((None if value is None else f"{value:.3f}{around}", points(value, before)))
    ms = row.get("latency_ms")
    return [*cells, (spread(ms) if ms else None, ratio(median(row), median(base)))]


def _cell(value: str | None, change: str | None) -> str:
    return " ".join((value or DASH, *([f"({change})"] if change else [])))


def notes(rows: list[Row]) -> list[str]:
    """Where each stage's weights lie, and how long they were trained."""
    lines = []
    for row in rows:
        facts = [code(row["weights"])] if row.get("weights") else []
        facts += [f"{row['train_epochs']} epochs of training"] if row.get("train_epochs") else []
        facts += [row["note"]] if row.get("note") else []
        lines += [f"{row['stage']}: {', '.join(facts)}"] if facts else []
    return lines


def rounds(iterations: dict[str, Any]) -> str:
    """What pruning in rounds came to: a row a round, and why it stopped early if it did.

    Args:
        iterations: the entry of that name in report.json.
    """
    base, split = iterations["map50_95_original"], iterations["split"]
    head = ("round", "asked", "achieved", f"mAP50-95 ({split}) after the cut", "fine-tuned")
    lines = [("original", DASH, DASH, _cell(None if base is None else f"{base:.3f}", None), DASH)]
    for r in iterations["rounds"]:
        keys = list(r["asked"]) or ["flops"]  # shares by layer are no budget: what they cost is shown
        shares = (", ".join(_amount(key, of[key]) for key in keys if key in of) for of in (r["asked"], r["achieved"]))
        maps = (r["map50_95_cut"], r["map50_95_finetuned"])
        cells = (_cell(None if m is None else f"{m:.3f}", points(m, base)) for m in maps)
        lines.append((r["round"], *(share or DASH for share in shares), *cells))
    legend = "Shares of the detector before the first round. In brackets: points of mAP against the original."
    stopped = iterations["stopped"]
    return "\n\n".join([table(head, lines), legend, *([f"{stopped[0].upper()}{stopped[1:]}."] if stopped else [])])


def _amount(key: str, value: float) -> str:
    """What a target comes to: most are shares, some have a unit."""
    units = {"size_mb": "MB", "latency_ms": "ms"}
    return f"{digits(value)} {units[key]}" if key in units else f"{key} ×{value:.3f}"


def conditions(report: dict[str, Any]) -> dict[str, str]:
    """How the numbers came about, so that another can get them again."""
    side = _size(report["imgsz"])
    validator = (
        f"Ultralytics' validator on the {report.get('split')} split of {code(report.get('data'))}, images of {side}"
    )
    return {
        "Parameters and FLOPs (2 × MACs)": f"as thop counts them, one image of {side}",
        "mAP": _validated(report["rows"], validator),
        "Latency": timing(report["measured_on"]) if report.get("measured_on") else "not measured",
        **({"Latency by runtime": bench_conditions(report["bench"])} if report.get("bench") else {}),
        **{f"Left out, {stage}": why for stage, why in (report.get("left_out") or {}).items()},
    }


def _validated(rows: list[Row], validator: str) -> str:
    """How mAP was measured, on how many images, and where its intervals come from."""
    if all(row.get("map50_95") is None for row in rows):
        bare = any(row.get("labels") == 0 for row in rows)
        return "not measured" + (": no image of the split has a label" if bare else "")
    said, last = f"{validator}, one setting for all rows", rows[-1]
    if last.get("images"):
        said += f", {images(last)}, {last['labelled_images']} of them with objects"
    if drawn := last.get("replicates"):
        said += f". Intervals: {len(drawn)} draws of as many images, with replacement, the same for every detector"
    return said


def _conditions(report: dict[str, Any]) -> str:
    lines = (f"- {what}: {how}." for what, how in conditions(report).items())
    return "## How it was measured\n\n" + "\n".join(lines)


def timing(on: dict[str, Any]) -> str:
    """What latency was measured on, and how."""
    return (
        f"{on['runtime']}, on {on['device']}, {_count(on['threads'], 'thread')}, batch {on['batch']}, "
        f"{on['dtype']}, {_size(on['imgsz'])}; median and 10th to 90th percentile of {on['runs']} runs"
    )


def _pictures(plots: Sequence[str]) -> str:
    images = [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in plots]
    return "\n\n".join(["## Plots", *images]) if images else ""


def _compared(report: dict[str, Any]) -> str:
    """Class by class, runtime by runtime, image by image: what there is of it."""
    titles = {by_class: "Classes", by_runtime: "Latency by runtime", by_picture: "Images that changed most"}
    parts = []
    for of, title in titles.items():
        if found := of(report):
            words, head, rows = found
            parts.append(f"## {title}\n\n{plain(words)}\n\n{table(head, ([plain(c) for c in row] for row in rows))}")
    return "\n\n".join(parts)


def _sweep(sweep: dict[str, Any] | None) -> str:
    """The points of a sweep, as few columns as the page draws."""
    if not sweep:
        return ""
    rows = [("original", DASH, sweep["original"]["flops"], sweep["original"]["map50_95"])]
    rows += [
        (r["criterion"], r["recovery"], r["flops"], r["map50_95"]) for r in sweep["rows"] if r.get("error") is None
    ]
    head = ("criterion", "recovery", "GFLOPs", f"mAP50-95 ({sweep['split']})")
    lines = ([plain(name), recovery, f"{flops / 1e9:.3f}", f"{worth:.3f}"] for name, recovery, flops, worth in rows)
    return f"## Sweep\n\nCuts of the original, nothing trained.\n\n{table(head, lines)}"


def _training(training: dict[str, list[dict[str, float]]]) -> str:
    """Where each training began, was best and ended, on val."""
    lines = []
    for stage, log in training.items():
        key = next((name for name in log[0] if name.startswith("metrics/mAP50-95")), None)
        if key:
            best = max(log, key=lambda e: e[key])
            worth = [f"{e[key]:.3f}" for e in (log[0], best, log[-1])]
            lines.append([stage, len(log), worth[0], f"{worth[1]} (epoch {best['epoch']:g})", worth[2]])
    head = ("stage", "epochs", "mAP50-95 (val) after the first", "best", "after the last")
    return f"## Training\n\n{table(head, lines)}" if lines else ""


def _widths(widths: list[dict[str, Any]]) -> str:
    if not widths:
        return ""
    cut = [w for w in widths if w["after"] != w["before"]]
    whole = [w for w in widths if w["after"] == w["before"]]
    parts = [f"## Widths\n\n{len(cut)} of {_count(len(widths), 'width')} changed, {len(whole)} kept whole."]
    if whole:
        reasons = Counter(w["reason"] or "free to go, none was removed" for w in whole).most_common()
        parts.append("Kept whole, and why:\n\n" + "\n".join(f"- {n} × {plain(reason)}" for reason, n in reasons))
    if cut:
        lines = ([code(w["layer"]), w["before"], w["after"], f"{w['after'] / w['before']:.0%}"] for w in cut)
        changes = table(("layer", "before", "after", "stays"), lines)
        opening = f"<details>\n<summary>The {_count(len(cut), 'width')} that changed</summary>"
        parts.append(f"{opening}\n\n{changes}\n\n</details>")
    return "\n\n".join(parts)


def _export(export: dict[str, Any] | None) -> str:
    if not export:
        return ""
    legend = (
        "Difference: the largest, of raw outputs to PyTorch's on real images. In brackets: points of mAP to PyTorch's."
    )
    amiss = "\n".join(f"- {plain(line)}" for line in export_amiss(export))
    parts = ("## Export", table(EXPORT_HEAD, map(exported, export["files"])), legend, amiss)
    return "\n\n".join(part for part in parts if part)


def export_amiss(export: dict[str, Any]) -> list[str]:
    """What was beyond its bound, and which runtimes could not run which file."""
    failed = [
        f"{file['file']} does not run in {runtime}: {why}"
        for file in export["files"]
        for runtime, why in file.get("not_in", {}).items()
    ]
    failed += [
        f"{file['file']}: made, not proven: {file['not_run']}" for file in export["files"] if file.get("not_run")
    ]
    scores = [file["moved"] for file in export["files"] if file.get("moved")]
    return [*(f"Failed: {line}" for line in export.get("wrong", [])), *failed, *scores]


def exported(file: dict[str, Any]) -> list[str]:
    """The line of an exported file, from its entry in the record."""
    raw = {file["runtime"]: file["difference"], **file["also"]}
    shown = [f"{d:.1e}" + ("" if name == file["runtime"] else f" ({name})") for name, d in raw.items() if d is not None]
    worth = DASH
    if file["map50_95_difference"] is not None:
        change = round(100 * file["map50_95_difference"], 2) + 0.0  # + 0.0: no "−0.00"
        sure = sure_of(file) if file["precision"] == "int8" else ""
        worth = _cell(f"{file['map50_95']:.3f}", f"{change:+.2f}{sure}".replace("-", "−"))
    cells = [code(file["file"]), file["precision"], digits(file["file_mb"]), file["runtime"]]
    return [*cells, ", ".join(shown) or DASH, worth]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _size(imgsz: int | Sequence[int]) -> str:
    return f"{imgsz} px" if isinstance(imgsz, int) else " × ".join(map(str, imgsz)) + " px"
