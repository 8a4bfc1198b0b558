"""What a device makes of the widths: the table, the words and the warnings, from the `device` entry of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yolo_slim.devices import Rules, preset
from yolo_slim.report.numbers import digits, plain, ratio, table

DEVICE_HEAD = ("stage", "layers off the multiple", "weights, MB", "filled up", "GFLOPs", "filled up")


def device_rows(found: dict[str, Any]) -> list[list[str]]:
    """A line for each detector: what its convolutions come to as they are, and as the device has them."""
    return [_line(row) for row in found["rows"]]


def _line(row: dict[str, Any]) -> list[str]:
    cells = [row["stage"], f"{row['off']} of {row['layers']}"]
    for key, unit in (("weight_bytes", 1e6), ("flops", 1e9)):
        before, after = row[key], row[f"{key}_padded"]
        cells += [digits(before / unit), f"{digits(after / unit)} ({ratio(after, before)})"]
    return cells


def device_markdown(found: dict[str, Any] | None) -> str:
    """The section of report.md; "" without a device."""
    if not found:
        return ""
    return "\n\n".join(("## On the device", table(DEVICE_HEAD, device_rows(found)), *map(plain, device_said(found))))


def device_said(found: dict[str, Any]) -> list[str]:
    """What the multiple is and where it comes from, and what the table leaves out."""
    of = preset(found["device"])
    known = [fact for fact in of.device.facts if fact.checked]
    said = [
        f"{of.device.title}, {of.precision}: multiples of {of.rules.round_to}. Convolutions alone: biases and all "
        f"else are not counted. {_filling(of.rules)}"
    ]
    if of.device.fixed_shape:
        said.append("Its files take pictures of one size, export.imgsz")
    if of.device.calibration and of.precision == "int8":
        said.append(f"INT8 is to be calibrated on at least {of.device.calibration:,} images")
    if known:
        said.append("Read or seen: " + "; ".join(f"{fact.says} ({fact.checked}: {fact.source})" for fact in known))
    unknown = [fact for fact in of.device.facts if not fact.checked]
    if unknown:
        said.append("Not verified: " + "; ".join(f"{fact.says} ({fact.source})" for fact in unknown))
    return [f"{line.rstrip('.')}." for line in said]


def _filling(rules: Rules) -> str:
    if rules.computed == rules.stored == Rules(1).computed:
        return "What it fills up is not known, or nothing: both columns are the same."
    return "Filled up: what it stores, and computes, once widths are full blocks."


def device_warnings(found: dict[str, Any] | None) -> list[str]:
    """Of the last detector: weights that the device has no room for, and layers that it does not like."""
    if not found or not found["rows"]:
        return []
    of, last = preset(found["device"]), found["rows"][-1]
    said, cache, took = [], of.device.cache, last["weight_bytes_padded"]
    if cache and took > cache:
        said.append(
            f"{last['stage']}: its convolutions have {took / 1e6:.2f} MB of weights in {of.precision}, and "
            f"{of.device.title} keeps about {cache / 1e6:.1f} MB: the rest is read from the host for every image. "
            "Cut more (prune.target.params)"
        )
    return said + [
        f"{last['stage']}: {count} {name} on {of.device.title}: {of.device.avoid[name]}"
        for name, count in last["avoided"].items()
    ]


def widths_said(device: str, round_to: int, min_channels: int, given: Sequence[str]) -> str:
    """Which widths a cut goes by, and who says so."""
    of = preset(device)
    parts = [
        f"{name}={value} ({'as given' if name in given else f'{of.device.title} at {of.precision}'})"
        for name, value in (("round_to", round_to), ("min_channels", min_channels))
    ]
    return f"prune.device={device}: {', '.join(parts)}"
