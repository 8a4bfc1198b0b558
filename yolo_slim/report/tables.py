"""report.json as Markdown, and the words that its pages share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from yolo_slim.report.advice import advice
from yolo_slim.report.bench_words import bench_conditions
from yolo_slim.report.compared import Part, by_class, by_object, by_picture
from yolo_slim.report.device_words import device_markdown
from yolo_slim.report.doubt import bounds, change, images
from yolo_slim.report.exports import export_markdown
from yolo_slim.report.made import lineage, settings, trained
from yolo_slim.report.numbers import DASH, code, digits, median, plain, points, ratio, side_of, spread, table, timed_ms
from yolo_slim.report.operating import LEGEND as AT_LEGEND
from yolo_slim.report.operating import compared_at, not_measured, warnings
from yolo_slim.report.speed import by_layer, by_runtime, loud, runtime_of
from yolo_slim.report.verdict import headline, verdict
from yolo_slim.row import Row

GAINS = {"FLOPs": "flops", "parameters": "params", "file": "file_mb"}
LEGEND = "In brackets: the ratio to the first row; for mAP the difference in points (1 point = 0.01)."
SURE = "In square brackets after mAP50-95: where it lies on 95 % of other draws of as many images."

Cell: TypeAlias = tuple[str | None, str | None]
"""A value, and what has changed."""


def markdown(report: dict[str, Any], plots: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        report: the content of report.json.
        plots: file names of the plots that were drawn, relative to the page.
    """
    sections = (
        f"# Slimming report: {plain(report['name'])}",
        plain(verdict(report)),
        _headline(report),
        "\n\n".join(f"**{plain(line)}**" for line in warnings(report)),
        _listed("What to try next", map(_said, advice(report))),
        _results(report),
        _at(report["rows"]),
        device_markdown(report.get("device")),
        "## Rounds\n\n" + rounds(report["iterations"]) if report.get("iterations") else "",
        _pictures(plots),
        _part(by_class(report), "Classes"),
        _speed(report),
        _part(by_object(report.get("pictures")), "Objects found and lost"),
        _part(by_picture(report), "Images that changed most"),
        _sweep(report.get("sweep")),
        _training(report.get("training") or {}),
        _widths(report.get("widths") or []),
        export_markdown(report.get("export")),
        _made(report),
        _listed("How it was measured", [f"{what}: {how}." for what, how in conditions(report).items()]),
    )
    return "\n\n".join(s for s in sections if s) + "\n"


def summary(report: dict[str, Any]) -> str:
    """What was gained from the first row to the last, in a sentence or two: the line that the stage ends with."""
    rows = report["rows"]
    if len(rows) < 2:
        return f"{report['name']}: {verdict(report)}"
    first, last = rows[0], rows[-1]
    pairs = {what: ratio(last.get(key), first.get(key)) for what, key in GAINS.items()}
    gains = [f"{what} {x}" for what, x in pairs.items() if x]
    if quicker := ratio(median(last), median(first)):
        where = runtime_of(report) + (" on a busy machine" if loud(first, last) else "")
        gains.append(f"latency {quicker} ({digits(timed_ms(first))} → {digits(timed_ms(last))} ms, {where})")
    parts = [part for part in (", ".join(gains), _accuracy(first, last, report.get("split"))) if part]
    return f"{report['name']}, {first['stage']} → {last['stage']}: {'; '.join(parts)}."


def _headline(report: dict[str, Any]) -> str:
    cards = headline(report)
    lines = [(card.what, card.much, card.way, card.sure) for card in cards]
    return table(("", "change", "before → after", ""), lines) if lines else ""


def _accuracy(first: Row, last: Row, split: str | None) -> str:
    said = change(last, first)
    if said is None:
        return not_measured(last) if last.get("labels") == 0 else "mAP was not measured on both"
    before, after = first["map50_95"], last["map50_95"]
    return f"mAP50-95 {before:.3f} → {after:.3f} ({said})" + (f" on {split}" if split else "")


def results(report: dict[str, Any]) -> tuple[Sequence[str], list[list[Cell]]]:
    """The table of stages: its head, and cells of a value and what has changed against the first row."""
    rows: list[Row] = report["rows"]
    worth = "mAP50-95 [95 %]" if any(map(bounds, rows)) else "mAP50-95"
    where = f" in {runtime_of(report)}" if report.get("measured_on") else ""
    gflops = f"GFLOPs at {side_of(report['imgsz'])}"
    head = ("stage", "params, M", gflops, "file, MB", "mAP50", worth, f"latency{where}, ms [p10–p90]")
    bare: Row = {}  # the first row has nothing to be compared with
    bases = [bare, *[rows[0]] * (len(rows) - 1)] if rows else []
    return head, list(map(_result, rows, bases))


def _results(report: dict[str, Any]) -> str:
    head, found = results(report)
    lines = [[_cell(*cell) for cell in cells] for cells in found]
    return "## Results\n\n" + table(head, lines) + "\n\n" + legend(report["rows"])


def legend(rows: list[Row]) -> str:
    """What brackets mean in the table of stages."""
    return f"{LEGEND} {SURE}" if any(map(bounds, rows)) else LEGEND


def _at(rows: list[Row]) -> str:
    found = compared_at(rows)
    return f"## At one confidence\n\n{table(*found)}\n\n{AT_LEGEND}" if found else ""


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


def _listed(title: str, lines: Iterable[str]) -> str:
    listed = "\n".join(f"- {line}" for line in lines)
    return f"## {title}\n\n{listed}" if listed else ""


def _said(text: str) -> str:
    """`plain`, but for what stands between backticks."""
    return "`".join(part if i % 2 else plain(f"|{part}|")[1:-1] for i, part in enumerate(text.split("`")))


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
    side = side_of(report["imgsz"])
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


def timing(on: dict[str, Any]) -> str:
    """What latency was measured on, and how."""
    return (
        f"{on['runtime']}, on {on['device']}, {_count(on['threads'], 'thread')}, batch {on['batch']}, "
        f"{on['dtype']}, {side_of(on['imgsz'])}; median and 10th to 90th percentile of {on['runs']} runs"
    )


def _pictures(plots: Sequence[str]) -> str:
    images = [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in plots]
    return "\n\n".join(["## Plots", *images]) if images else ""


def _part(found: Part | None, title: str) -> str:
    """Class by class, image by image: what there is of it."""
    if not found:
        return ""
    words, head, rows = found
    return f"## {title}\n\n{plain(words)}\n\n{table(head, ([plain(c) for c in row] for row in rows))}"


def _speed(report: dict[str, Any]) -> str:
    parts = {"## Latency by runtime": by_runtime(report), "### Layers behind their FLOPs": by_layer(report)}
    shown = {title: found for title, found in parts.items() if found}
    return "\n\n".join(
        f"{title}\n\n{table(head, ([plain(c) for c in row] for row in rows))}\n\n{note}"
        for title, (head, rows, note) in shown.items()
    )


def _made(report: dict[str, Any]) -> str:
    head, rows = lineage(report)
    if not rows:
        return ""
    parts = [f"## How it was made\n\n{table(head, rows)}"]
    parts += ["\n".join(f"- {stage} was trained with {code(words)}" for stage, words in trained(report))]
    parts += [_folded(f"All settings of {stage}", code(words)) for stage, words in settings(report)]
    return "\n\n".join(part for part in parts if part)


def _folded(title: str, content: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{content}\n\n</details>"


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
        parts.append(_folded(f"The {_count(len(cut), 'width')} that changed", changes))
    return "\n\n".join(parts)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
