"""What to try next, from what was measured: each line names the fact, and the setting that could change it."""

from __future__ import annotations

from typing import Any

from yolo_slim.report.compared import classes
from yolo_slim.report.doubt import difference, images, too_few
from yolo_slim.report.numbers import points, ratio, timed_ms
from yolo_slim.report.speed import loud, runtime_of
from yolo_slim.row import Row

MOST = 5
"""Lines that are shown; the first matter most."""
LITTLE = 0.01
"""mAP50-95, a point: less is hardly felt, more is worth doing something about."""
RISING = 0.005
"""mAP50-95 that the last quarter of a training still brought."""
FEW = 10  # labels of a class, below which its AP says little


def advice(report: dict[str, Any]) -> list[str]:
    """Up to MOST lines."""
    rows = report["rows"]
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    if first is last:
        return ["Cut it: `yolo-slim run`, or `yolo-slim sweep` first, which shows what each target costs."]
    found = (
        _time_again(report, first, last),
        _original(first),
        _finetune(report, last),
        _rising(report),
        _worse(first, last),
        _class(report, first, last),
        _int8(report),
        _slow(report, first, last),
        _more_images(first, last),
        _further(first, last),
        _unseen(report, last),
    )
    return [line for line in found if line][:MOST]


def _time_again(report: dict[str, Any], first: Row, last: Row) -> str | None:
    if not loud(first, last):
        return None
    stage = "bench" if report.get("bench") else "report"
    return (
        f"Time it again when nothing else runs: remove the {stage} folder of the run, then `yolo-slim {stage}`. The "
        "slowest tenth of the runs took over twice as long as the quickest, which says more of the machine than of the "
        "detector."
    )


def _original(first: Row) -> str | None:
    worth = first.get("map50_95")
    if worth is None or worth >= 0.05:
        return None
    return (
        f"Train the original first: its mAP50-95 is {worth:.3f}, so there is next to nothing that a cut could lose. Or "
        "measure on images that it was trained for."
    )


def _finetune(report: dict[str, Any], last: Row) -> str | None:
    if last["stage"] != "pruned" or last.get("train_epochs") or not report.get("data"):
        return None
    return "Fine-tune it (`yolo-slim finetune`): most of what a cut loses comes back with training."


def _rising(report: dict[str, Any]) -> str | None:
    """Whether the last training ended too early, by its own curve."""
    trained = [(stage, log) for stage, log in (report.get("training") or {}).items() if len(log) >= 4]
    if not trained or trained[-1][0] != report["rows"][-1]["stage"]:
        return None
    stage, log = trained[-1]
    key = next((name for name in log[0] if name.startswith("metrics/mAP50-95")), None)
    if key is None:
        return None
    quarter = len(log) - len(log) // 4
    gain = max(e[key] for e in log[quarter:]) - max(e[key] for e in log[:quarter])
    if gain <= RISING:
        return None
    return (
        f"Train longer: the last quarter of {stage}'s {len(log)} epochs still brought {points(gain, 0)} points of "
        f"mAP50-95 on val (`finetune.epochs={2 * len(log)}`)."
    )


def _worse(first: Row, last: Row) -> str | None:
    found = difference(last, first)
    if found is None or found[1] >= -LITTLE:
        return None
    share = min(0.95, last["flops"] / first["flops"] + 0.15)
    return (
        f"A point of mAP50-95 or more is lost for sure: cut less (`prune.target={{flops: {share:.2f}}}`; "
        "`yolo-slim sweep` shows where the cliff lies), or let a larger detector teach "
        "(`finetune.distill.teacher=large.pt`)."
    )


def _class(report: dict[str, Any], first: Row, last: Row) -> str | None:
    """Whether one class pays for all."""
    labels = {of["name"]: of["labels"] for of in first.get("per_class") or []}
    found = [(name, before, after) for name, before, after in classes(report) if after is not None]
    if len(found) < 2 or first.get("map50_95") is None or last.get("map50_95") is None:
        return None
    name, before, after = found[0]
    mean = last["map50_95"] - first["map50_95"]
    if after - before > mean - 2 * LITTLE or after - before > -2 * LITTLE:
        return None
    count = labels.get(name, FEW)
    name = name.replace("`", "'")  # what is between two of them is a setting
    unsure = f", though {count} labels say little" if count < FEW else ""
    return (
        f"{name} fell most: AP50-95 {before:.3f} → {after:.3f}, all classes together {points(mean, 0)} points{unsure}. "
        "`yolo-slim sensitivity` names the layers that cannot spare channels; `prune.exclude` keeps them."
    )


def _int8(report: dict[str, Any]) -> str | None:
    files = [of for of in (report.get("export") or {}).get("files", []) if of["precision"] == "int8"]
    lost = [(of["map50_95_difference"], of["file"]) for of in files if of.get("map50_95_difference") is not None]
    if not lost or min(lost)[0] > -LITTLE:
        return None
    worst, file = min(lost)
    file = file.replace("`", "'")
    return (
        f"{file} loses {-100 * worst:.1f} points to INT8: keep more of it in float "
        "(`export.int8_float=[head,model.0.*]`), or calibrate on more images (`export.calib_images`)."
    )


def _slow(report: dict[str, Any], first: Row, last: Row) -> str | None:
    """Whether less than half of the FLOPs cut became speed."""
    if loud(first, last) or not (first.get("latency_ms") and last.get("latency_ms")):
        return None
    flops, ms = last["flops"] / first["flops"], timed_ms(last) / timed_ms(first)
    if flops > 0.95 or (1 - ms) / (1 - flops) >= 0.5:
        return None
    return (
        f"FLOPs {ratio(flops, 1)}, but time {ratio(ms, 1)} in {runtime_of(report)}: ask for time instead, which layers "
        f"are chosen by (`prune.target={{latency: {flops:.2f}}}`)."
    )


def _more_images(first: Row, last: Row) -> str | None:
    found = difference(last, first)
    if too_few(last):
        return f"Validate on more images: {images(last)} of {last['split']} are too few to tell the detectors apart."
    if found is None or not found[0] < -LITTLE < found[1]:
        return None
    return (
        f"Validate on more images: on {images(last)} of {last['split']} it stays open whether a point of mAP50-95 is "
        f"lost ({points(found[0], 0)} to {points(found[1], 0)})."
    )


def _further(first: Row, last: Row) -> str | None:
    found = difference(last, first)
    if found is None or found[0] < -LITTLE:
        return None
    target = f"`prune.target={{flops: {0.7 * last['flops'] / first['flops']:.2f}}}`"
    return f"There is room: no point of mAP50-95 is lost, so less may do as well ({target})."


def _unseen(report: dict[str, Any], last: Row) -> str | None:
    if report.get("split") != "val" or not last.get("train_epochs"):
        return None
    return (
        "Measure on images that no choice was made by: val has chosen the epoch as well, and flatters. A `test:` split "
        "in the data set's YAML is taken instead of it."
    )
