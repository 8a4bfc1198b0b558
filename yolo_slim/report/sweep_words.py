"""What a sweep says: which target to ask for, where accuracy falls off, what chance reaches; and its table.

A content is what sweep.json holds: `original` (a row), `rows` (one a point, in the order of the curves), `drop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from yolo_slim.report.doubt import change, difference, images, sure, undecided
from yolo_slim.report.numbers import DASH, code, digits, median, plain, points, ratio, side_of, table, timed_ms
from yolo_slim.report.operating import HEAD, LEGEND, moved, table_at
from yolo_slim.report.tables import timing
from yolo_slim.row import Row, SweepRow

CONTROL = "random"
"""The criterion that the others must beat; recommended only where it is alone."""
CLOSE = 0.01
"""mAP50-95 by which two points differ without meaning."""
SURE = "After ±: half of what holds 95 % of other draws of as many images, of mAP50-95 or of the difference."
SWEEP_HEAD = ("criterion", "recovery", "FLOPs asked", "achieved", "params, M", "mAP50", "mAP50-95", "latency, ms")


def curves(content: dict[str, Any]) -> dict[tuple[str, str], list[SweepRow]]:
    """(criterion, recovery) -> its measured points, the largest target first."""
    found: dict[tuple[str, str], list[SweepRow]] = {}
    for row in sorted(measured(content), key=lambda row: -row["flops_asked"]):
        found.setdefault((row["criterion"], row["recovery"]), []).append(row)
    return found


def measured(content: dict[str, Any]) -> list[SweepRow]:
    """The points that could be made."""
    return [row for row in content["rows"] if row["error"] is None]


def candidates(content: dict[str, Any]) -> list[SweepRow]:
    """The measured points of all criteria but chance."""
    rows = measured(content)
    return [row for row in rows if row["criterion"] != CONTROL] or rows


def stays_within(content: dict[str, Any], row: SweepRow) -> bool:
    """Whether a point loses no more than `drop`."""
    return row["map50_95"] >= content["original"]["map50_95"] - content["drop"] - 1e-9


def tells(content: dict[str, Any]) -> bool:
    """Whether there is more to lose than may be lost: else every target is as good as any."""
    return content["original"]["map50_95"] > content["drop"]


def recommended(content: dict[str, Any]) -> SweepRow:
    """The best point of the smallest target that stays within `drop`; where none does, the least bad point."""
    rows = candidates(content)
    within = [row for row in rows if stays_within(content, row)]
    return min(within or rows, key=lambda row: (row["flops_asked"] if within else 0, -row["map50_95"]))


def cliff(content: dict[str, Any]) -> tuple[SweepRow, SweepRow]:
    """The neighbouring targets of the best curve between which most of the original's mAP50-95 is lost.

    The first may be the original. What a target has above the original is not lost with the next one.
    """
    allowed = {(row["criterion"], row["recovery"]) for row in candidates(content)}
    # A target that could not be met counts as nothing reached.
    best = max((rows for key, rows in curves(content).items() if key in allowed), key=_sum)
    return max(pairwise([content["original"], *best]), key=lambda pair: _lost(content, *pair))


def _lost(content: dict[str, Any], before: SweepRow, after: SweepRow) -> float:
    return _edge(content, before)["map50_95"] - after["map50_95"]


def _edge(content: dict[str, Any], before: SweepRow) -> SweepRow:
    """Where a fall is counted from: nothing above the original."""
    return min(before, content["original"], key=lambda row: row["map50_95"])


def falls_off(content: dict[str, Any]) -> bool:
    """Whether the cliff is worth the name: more than `drop` is lost there, and not by the choice of the images."""
    before, after = cliff(content)
    return _lost(content, before, after) > content["drop"] and not in_noise(content)


def in_noise(content: dict[str, Any]) -> bool:
    """Whether what looks like the cliff may be nothing, as far as these images tell."""
    before, after = cliff(content)
    found = difference(after, _edge(content, before))
    return _lost(content, before, after) > content["drop"] and found is not None and found[1] >= 0


def _sum(rows: list[SweepRow]) -> float:
    return sum(row["map50_95"] for row in rows)


def sentences(content: dict[str, Any]) -> list[str]:
    """The findings, one a sentence or two."""
    if not tells(content):
        return [
            f"No target can be recommended: the original's mAP50-95 {content['original']['map50_95']:.3f} is no more "
            f"than the {100 * content['drop']:g} points that may be lost (sweep.drop). Train it first, or validate on "
            "images that it was trained for."
        ]
    said = [_recommendation(content), _scores(content), _cliff(content), _chance(content)]
    return [sentence for sentence in said if sentence]


def _recommendation(content: dict[str, Any]) -> str:
    best, original = recommended(content), content["original"]
    gains = [f"parameters {ratio(best['params'], original['params'])}"]
    if quicker := ratio(median(best), median(original)):
        gains.append(f"latency {quicker} ({digits(timed_ms(original))} → {digits(timed_ms(best))} ms)")
    what = (
        f"{_at(best)} by {_name(best)}: mAP50-95 {best['map50_95']:.3f} ({change(best, original)}), {', '.join(gains)}"
    )
    allowed = f"{100 * content['drop']:g} points of the original's mAP50-95 {original['map50_95']:.3f}"
    if stays_within(content, best):
        said = f"Recommended: {what}. It is the smallest target within {allowed}, and nothing is trained yet."
        return said + _unsure(content, best)
    return (
        f"No criterion stays within {allowed}. The least bad: {what}. "
        "Fine-tuning brings back most of what a cut loses: cut there, or further, fine-tune, and judge then."
    ) + _unsure(content, best)


def _unsure(content: dict[str, Any], best: SweepRow) -> str:
    """Where these images are too few for the verdict."""
    if not undecided(best, content["original"], -content["drop"]):
        return ""
    return (
        f" On {images(best)} it cannot be told whether that stays within {100 * content['drop']:g} points: validate on "
        "more, or take it as a hint."
    )


def _scores(content: dict[str, Any]) -> str:
    before: Row = {**content["original"], "stage": "the original"}
    after: SweepRow = {**recommended(content), "stage": "this cut"}
    return moved(before, after, "fine-tune first") or ""


def _cliff(content: dict[str, Any]) -> str:
    before, after = cliff(content)
    if in_noise(content):
        edge = _edge(content, before)
        start = "the original" if edge is content["original"] else _at(edge)
        return (
            f"No cliff can be told: the largest fall, by {_name(after)} from {start} to {_at(after)}, is within the "
            f"noise ({change(after, edge)})."
        )
    if not falls_off(content):
        step = f"{100 * content['drop']:g} points more than the one before"
        return f"There is no cliff: by {_name(after)}, no target costs over {step}."
    start = "the original" if before is content["original"] else _at(before)
    return (
        f"The cliff: by {_name(after)}, accuracy falls off between {start} (mAP50-95 {before['map50_95']:.3f}) and "
        f"{_at(after)} ({after['map50_95']:.3f}{sure(after, _edge(content, before))})."
    )


def _chance(content: dict[str, Any]) -> str:
    best = recommended(content)
    where = {key: best[key] for key in ("recovery", "flops_asked")} | {"criterion": CONTROL}
    row = next((row for row in measured(content) if where.items() <= row.items()), best)
    if row is best:
        return ""
    ahead = best["map50_95"] - row["map50_95"]
    verdict = ""
    if undecided(best, row, 0) and difference(best, row):
        verdict = f", which is within the noise of {images(best)}"
    elif abs(ahead) <= CLOSE:
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


def sweep_rows(content: dict[str, Any]) -> list[tuple[SweepRow, list[str]]]:
    """Every row, the original first, with its cells under SWEEP_HEAD."""
    original = content["original"]
    return [(row, _cells(row, original)) for row in (original, *content["rows"])]


def _cells(row: SweepRow, original: SweepRow) -> list[str]:
    first = ["original", DASH, DASH, DASH]
    if row is not original:
        achieved = DASH if row["error"] else f"×{row['flops_achieved']:.3f}"
        first = [row["criterion"], row["recovery"], f"×{row['flops_asked']:.2f}", achieved]
        if row["error"]:
            return [*first, *[DASH] * (len(SWEEP_HEAD) - len(first))]
    cells = [digits(row["params"] / 1e6), f"{row['map50']:.3f}", f"{row['map50_95']:.3f}", digits(timed_ms(row))]
    if row is original:
        cells[2] += f" ±{spread / 2:.3f}" if (spread := _width(row)) is not None else ""
    else:
        found = difference(row, original)
        around = f" ±{50 * (found[1] - found[0]):.1f}" if found else ""
        cells[2] += f" ({points(row['map50_95'], original['map50_95'])}{around})"
        cells[3] += f" ({ratio(median(row), median(original))})"
    return [*first, *cells]


def _width(row: SweepRow) -> float | None:
    """Of the interval of its mAP50-95."""
    low, high = row.get("map50_95_low"), row.get("map50_95_high")
    return None if low is None or high is None else high - low


def sweep_markdown(content: dict[str, Any], plots: Sequence[str] = ()) -> str:
    """The whole page; `plots` are file names relative to it."""
    best = recommended(content) if tells(content) else None
    texts = ((row, [plain(c) for c in cells]) for row, cells in sweep_rows(content))
    lines = [[f"**{c}**" for c in cells] if row is best else cells for row, cells in texts]
    named: list[SweepRow] = [{**row, "stage": _point(row)} for row in measured(content)]
    at = table_at([{**content["original"], "stage": "original"}, *named])
    size = side_of(content["imgsz"])
    sections = [
        f"# Sweep: {plain(content['name'])}",
        "\n\n".join(map(plain, sentences(content))),
        *([f"```bash\n{content['command']}\n```"] if tells(content) else []),
        *(f"![{Path(name).stem}]({name})" for name in plots),
        "## Points\n\n" + table(SWEEP_HEAD, lines),
        "In brackets: the difference to the original in points (1 point = 0.01), and the ratio to it."
        + (f" {SURE}" if _width(content["original"]) is not None else ""),
        f"## At one confidence\n\n{table(('cut', *HEAD[1:]), at)}\n\n{LEGEND}" if at else "",
        "\n".join(f"- {plain(line)}" for line in failures(content)),
        "## How it was measured",
        f"- mAP: Ultralytics' validator on the {content['split']} split of {code(content['data'])}, "
        f"{size}{_on(content['original'])}. Nothing was trained, and the test split was not looked at.\n"
        f"- Latency: {timing(content['measured_on'])}, all detectors in turn, alone on the machine.",
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def _on(row: SweepRow) -> str:
    return f", {images(row)}, {row['labelled_images']} of them with objects" if row.get("images") else ""


def _point(row: SweepRow) -> str:
    return plain(f"{_name(row)} {_at(row)}")


def _name(row: SweepRow) -> str:
    return f"{row['criterion']} ({row['recovery']})"


def _at(row: SweepRow) -> str:
    return f"FLOPs ×{row['flops_asked']:.2f}"
