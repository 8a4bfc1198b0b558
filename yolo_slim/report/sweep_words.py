"""What a sweep says: which target to ask for, where accuracy falls off, what chance reaches; and its table.

A content is what sweep.json holds: `original` (a row), `rows` (one a point, in the order of the curves), `drop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from yolo_slim.report.numbers import DASH, digits, median, points, ratio, table
from yolo_slim.report.tables import timing

Row: TypeAlias = dict[str, Any]

CONTROL = "random"
"""The criterion that the others must beat; recommended only where it is alone."""
CLOSE = 0.01
"""mAP50-95 by which two points differ without meaning."""
SWEEP_HEAD = ("criterion", "recovery", "FLOPs asked", "achieved", "params, M", "mAP50", "mAP50-95", "latency, ms")


def curves(content: dict[str, Any]) -> dict[tuple[str, str], list[Row]]:
    """(criterion, recovery) -> its measured points, the largest target first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(measured(content), key=lambda row: -row["flops_asked"]):
        found.setdefault((row["criterion"], row["recovery"]), []).append(row)
    return found


def measured(content: dict[str, Any]) -> list[Row]:
    """The points that could be made."""
    return [row for row in content["rows"] if row["error"] is None]


def candidates(content: dict[str, Any]) -> list[Row]:
    """The measured points of all criteria but chance."""
    rows = measured(content)
    return [row for row in rows if row["criterion"] != CONTROL] or rows


def stays_within(content: dict[str, Any], row: Row) -> bool:
    """Whether a point loses no more than `drop`."""
    return row["map50_95"] >= content["original"]["map50_95"] - content["drop"] - 1e-9


def recommended(content: dict[str, Any]) -> Row:
    """The best point of the smallest target that stays within `drop`; where none does, the least bad point."""
    rows = candidates(content)
    within = [row for row in rows if stays_within(content, row)]
    return min(within or rows, key=lambda row: (row["flops_asked"] if within else 0, -row["map50_95"]))


def cliff(content: dict[str, Any]) -> tuple[Row, Row]:
    """The neighbouring targets of the best curve between which most mAP50-95 is lost; the first may be the original."""
    allowed = {(row["criterion"], row["recovery"]) for row in candidates(content)}
    # A target that could not be met counts as nothing reached.
    best = max((rows for key, rows in curves(content).items() if key in allowed), key=_sum)
    return max(pairwise([content["original"], *best]), key=lambda pair: pair[0]["map50_95"] - pair[1]["map50_95"])


def falls_off(content: dict[str, Any]) -> bool:
    """Whether the cliff is worth the name: more than `drop` is lost there."""
    before, after = cliff(content)
    return before["map50_95"] - after["map50_95"] > content["drop"]


def _sum(rows: list[Row]) -> float:
    return sum(row["map50_95"] for row in rows)


def sentences(content: dict[str, Any]) -> list[str]:
    """The findings, one a sentence or two."""
    said = [_recommendation(content), _cliff(content), _chance(content)]
    return [sentence for sentence in said if sentence]


def _recommendation(content: dict[str, Any]) -> str:
    best, original = recommended(content), content["original"]
    change = points(best["map50_95"], original["map50_95"])
    gains = [f"parameters {ratio(best['params'], original['params'])}"]
    if quicker := ratio(median(best), median(original)):
        gains.append(f"latency {quicker} ({digits(median(original))} → {digits(median(best))} ms)")
    what = f"{_at(best)} by {_name(best)}: mAP50-95 {best['map50_95']:.3f} ({change} points), {', '.join(gains)}"
    allowed = f"{100 * content['drop']:g} points of the original's mAP50-95 {original['map50_95']:.3f}"
    if stays_within(content, best):
        return f"Recommended: {what}. It is the smallest target within {allowed}, and nothing is trained yet."
    return (
        f"No criterion stays within {allowed}. The least bad: {what}. "
        "Fine-tuning brings back most of what a cut loses: cut there, or further, fine-tune, and judge then."
    )


def _cliff(content: dict[str, Any]) -> str:
    before, after = cliff(content)
    if not falls_off(content):
        step = f"{100 * content['drop']:g} points more than the one before"
        return f"There is no cliff: by {_name(after)}, no target costs over {step}."
    start = "the original" if before is content["original"] else _at(before)
    return (
        f"The cliff: by {_name(after)}, accuracy falls off between {start} (mAP50-95 {before['map50_95']:.3f}) and "
        f"{_at(after)} ({after['map50_95']:.3f})."
    )


def _chance(content: dict[str, Any]) -> str:
    best = recommended(content)
    where = {key: best[key] for key in ("recovery", "flops_asked")} | {"criterion": CONTROL}
    row = next((row for row in measured(content) if where.items() <= row.items()), best)
    if row is best:
        return ""
    ahead = best["map50_95"] - row["map50_95"]
    verdict = ""
    if abs(ahead) <= CLOSE:
        verdict = ": here the criterion decides next to nothing"
    elif ahead < 0:
        verdict = (
            ", so no criterion is worth its name here: try others, or prune.scope=layer (chance cuts all layers alike)"
        )
    return (
        f"Random selection reaches {row['map50_95']:.3f} at {_at(row)} with the same recovery, "
        f"{best['criterion']} {best['map50_95']:.3f}{verdict}."
    )


def failures(content: dict[str, Any]) -> list[str]:
    """Why points could not be made, one a line."""
    return [f"{_name(row)} at {_at(row)}: {row['error']}" for row in content["rows"] if row["error"]]


def sweep_rows(content: dict[str, Any]) -> list[tuple[Row, list[str]]]:
    """Every row, the original first, with its cells under SWEEP_HEAD."""
    original = content["original"]
    return [(row, _cells(row, original)) for row in (original, *content["rows"])]


def _cells(row: Row, original: Row) -> list[str]:
    first = ["original", DASH, DASH, DASH]
    if row is not original:
        achieved = DASH if row["error"] else f"×{row['flops_achieved']:.3f}"
        first = [row["criterion"], row["recovery"], f"×{row['flops_asked']:.2f}", achieved]
        if row["error"]:
            return [*first, *[DASH] * (len(SWEEP_HEAD) - len(first))]
    cells = [digits(row["params"] / 1e6), f"{row['map50']:.3f}", f"{row['map50_95']:.3f}", digits(median(row))]
    if row is not original:
        cells[2] += f" ({points(row['map50_95'], original['map50_95'])})"
        cells[3] += f" ({ratio(median(row), median(original))})"
    return [*first, *cells]


def sweep_markdown(content: dict[str, Any], plots: Sequence[str] = ()) -> str:
    """The whole page; `plots` are file names relative to it."""
    best = recommended(content)
    lines = [[f"**{c}**" for c in cells] if row is best else cells for row, cells in sweep_rows(content)]
    sections = [
        f"# Sweep: {content['name']}",
        "\n\n".join(sentences(content)),
        f"```bash\n{content['command']}\n```",
        *(f"![{Path(name).stem}]({name})" for name in plots),
        "## Points\n\n" + table(SWEEP_HEAD, lines),
        "In brackets: the difference to the original in points (1 point = 0.01), and the ratio to it.",
        "\n".join(f"- {line}" for line in failures(content)),
        "## How it was measured",
        f"- mAP: Ultralytics' validator on the {content['split']} split of `{content['data']}`, {content['imgsz']} px. "
        "Nothing was trained, and the test split was not looked at.\n"
        f"- Latency: {timing(content['measured_on'])}, all detectors in turn, alone on the machine.",
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def _name(row: Row) -> str:
    return f"{row['criterion']} ({row['recovery']})"


def _at(row: Row) -> str:
    return f"FLOPs ×{row['flops_asked']:.2f}"
