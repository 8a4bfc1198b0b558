"""The device that a run is for: the widths that a cut goes by because of it, and what it makes of the detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

import yolo_slim.report as report
from yolo_slim.channels import trace
from yolo_slim.config import Complete, Prune
from yolo_slim.console import console
from yolo_slim.devices import preset
from yolo_slim.formats.detector import Detector
from yolo_slim.measure.padded import on_device
from yolo_slim.record import Record


def tell_widths(chosen: Prune) -> dict[str, Any]:
    """Say which widths a plan goes by where there is a device, and why; the same for its record."""
    if not chosen.device:
        return {}
    given = [name for name in chosen.widths._fields if getattr(chosen, name) is not None]
    console.print(report.widths_said(chosen.device, *chosen.widths, given), markup=False)
    return {"device": {"device": chosen.device, **chosen.widths._asdict(), "given": given}}


def tell_padded(chosen: Prune, stage: str, detector: nn.Module, imgsz: int) -> dict[str, Any]:
    """Say what the device makes of a detector; the same for its record."""
    if not chosen.device:
        return {}
    row = {"stage": stage, **on_device(detector, trace(detector, imgsz), preset(chosen.device))}
    found = {"device": chosen.device, "rows": [row]}
    console.print(
        f"on {chosen.device}: {row['weight_bytes'] / 1e6:.3f} MB of weights, filled up "
        f"{row['weight_bytes_padded'] / 1e6:.3f}; {row['flops'] / 1e9:.3f} GFLOPs of convolutions, filled up "
        f"{row['flops_padded'] / 1e9:.3f}; {row['off']} of {row['layers']} layers off the multiple"
    )
    for line in report.device_warnings(found):
        console.print(line, markup=False)
    return {"on_device": found}


def device_of(config: Complete, done: Mapping[str, Record]) -> str | None:
    """What the run is for: as it is asked for now, else as it was cut."""
    cut = done.get("pruned")
    return config.prune.device or (cut.settings.get("device") if cut else None)


def compared(device: str, detectors: Mapping[str, Detector], imgsz: int) -> dict[str, Any]:
    """What a device makes of the first and the last of these detectors, for the report."""
    ends = dict.fromkeys((next(iter(detectors)), list(detectors)[-1]))
    to = preset(device)
    rows = [{"stage": name, **on_device(detectors[name], trace(detectors[name], imgsz), to)} for name in ends]
    return {"device": device, "rows": rows}
