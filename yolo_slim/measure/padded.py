"""What a device makes of a detector's widths: weights and operations after it has filled channels up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from yolo_slim.channels import Trace
from yolo_slim.channels.groups import Conv
from yolo_slim.devices import Padding, Preset, filled


@dataclass(frozen=True)
class Padded:
    """Of a detector's convolutions; biases, norms and what lies between them are no part of it."""

    layers: int
    off: int  # layers with a width that is no multiple of what the device would like
    weight_bytes: int
    weight_bytes_padded: int
    flops: int  # 2 * MACs, for one image
    flops_padded: int


def weights_after(conv: Conv, padding: Padding) -> int:
    """How many weights a convolution has when its channels are filled up; at each of its positions, MACs.

    A depthwise one has a filter a channel. Of other groups each is filled up for itself.
    """
    inputs, outputs = len(conv.inputs) // conv.groups, len(conv.outputs)
    if conv.depthwise:
        return conv.kernel * filled(outputs, padding.depthwise)
    return conv.kernel * filled(inputs, padding.inputs) * conv.groups * filled(outputs // conv.groups, padding.outputs)


def padded(convs: Iterable[Conv], to: Preset) -> Padded:
    """What these convolutions come to on a device, before and after it fills channels up."""
    rules, each = to.rules, list(convs)
    return Padded(
        layers=len(each),
        off=sum(any(len(slots) % rules.round_to for slots in (conv.inputs, conv.outputs)) for conv in each),
        weight_bytes=to.weight_bytes * sum(conv.weights for conv in each),
        weight_bytes_padded=to.weight_bytes * sum(weights_after(conv, rules.stored) for conv in each),
        flops=2 * sum(conv.macs for conv in each),
        flops_padded=2 * sum(weights_after(conv, rules.computed) * conv.positions for conv in each),
    )


def avoided(detector: nn.Module, to: Preset) -> dict[str, int]:
    """How many modules a detector has of each class that the device does not like."""
    found = Counter(type(module).__name__ for module in detector.modules())
    return {name: found[name] for name in to.device.avoid if found[name]}


def on_device(detector: nn.Module, wiring: Trace, to: Preset) -> dict[str, Any]:
    """All of that, as plain values for a record."""
    return {**asdict(padded(wiring.convs.values(), to)), "avoided": avoided(detector, to)}
