"""Devices that a detector is slimmed for.

Nothing here is needed to cut: `prune.device` takes its multiples from here, and the report what padding costs.
"""

from __future__ import annotations

from typing import NamedTuple

from yolo_slim.devices.kinds import BYTES, Device, Fact, Padding, Rules, filled
from yolo_slim.devices.table import DEVICES

__all__ = ["DEVICES", "Device", "Fact", "Padding", "Preset", "Rules", "filled", "preset"]


class Preset(NamedTuple):
    """A device at one precision."""

    name: str
    precision: str
    device: Device

    @property
    def rules(self) -> Rules:
        """Of this precision."""
        return self.device.rules[self.precision]

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight."""
        return BYTES[self.precision]

    def __str__(self) -> str:
        return f"{self.name}:{self.precision}"


def preset(text: str) -> Preset:
    """`rknn:fp16`, or `rknn` at the precision that is usual there.

    Raises:
        ValueError: with what there is.
    """
    name, _, precision = text.partition(":")
    if name not in DEVICES:
        raise ValueError(f"expected one of {', '.join(DEVICES)}, as rknn or rknn:int8, got {text!r:.60}")
    device = DEVICES[name]
    chosen = precision or next(iter(device.rules))
    if chosen not in device.rules or text.endswith(":"):
        raise ValueError(f"expected {' or '.join(f'{name}:{p}' for p in device.rules)}, got {text!r:.60}")
    return Preset(name, chosen, device)
