"""Darknet's `.weights`: a header, and behind it every number of every convolution in the order of the cfg.

The header is little-endian int32 major, minor, revision, and how many images were seen: uint64 from version 0.2 on,
uint32 before. Then float32, for each convolution: biases (or shifts); with a batch norm its scales, means and
variances; weights (out, in / groups, k, k).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.errors import SlimError
from yolo_slim.formats.archive import POINTED, POINTER
from yolo_slim.formats.darknet.build import conv_and_norm
from yolo_slim.formats.darknet.plan import Layer, Net
from yolo_slim.formats.detector import Detector

MOST_SEEN = 1 << 62
HEADER = 20
"""Bytes of the longer header."""


class Header(NamedTuple):
    """What stands before the numbers."""

    major: int
    minor: int
    revision: int
    seen: int

    @property
    def format(self) -> str:
        """For `struct`."""
        return "<iiiQ" if self.major * 10 + self.minor >= 2 else "<iiiI"

    def packed(self) -> bytes:
        """As it stands in a file."""
        return struct.pack(self.format, *self)


def header_of(content: bytes) -> Header:
    """The header of what begins with these bytes.

    Raises:
        SlimError: it is none of Darknet's.
    """
    if content.startswith(POINTER):
        raise SlimError(POINTED)
    if len(content) < HEADER:
        raise SlimError(f"has {len(content)} bytes: expected Darknet weights, {HEADER} bytes of header and the numbers")
    major, minor, revision = struct.unpack("<iii", content[:12])
    version = Header(major, minor, revision, seen=0)
    if not (0 <= version.major < 1000 and 0 <= version.minor < 1000 and version.revision >= 0):
        said = ".".join(map(str, version[:3]))
        raise SlimError(f"is no file of Darknet weights: its header says version {said}; expected 0.1.0 to 0.2.5")
    header = Header(*struct.unpack_from(version.format, content))
    if header.seen > MOST_SEEN:
        raise SlimError(f"is no file of Darknet weights: its header says {header.seen:,} images were seen")
    return header


def numbers_of(net: Net, layer: Layer) -> int:
    """How many numbers a file holds for a convolution."""
    v = layer.values
    weights = v["filters"] * (net.channels_into(layer) // v["groups"]) * v["size"] ** 2
    return weights + v["filters"] * (4 if v["norm"] else 1)


def check_size(net: Net, header: Header, size: int) -> None:
    """Refuse a file of another size than a net needs.

    Args:
        net: what the cfg describes.
        header: of the file.
        size: bytes of the file, the header's included.

    Raises:
        SlimError: how many numbers there are and how many are needed; where the file ends, if it is too short.
    """
    held, left = divmod(size - len(header.packed()), 4)
    needed = [numbers_of(net, layer) for layer in net.convs]
    if held == sum(needed) and not left:
        return
    said = f"holds {held:,} numbers{f' and {left} bytes' if left else ''}, and the cfg describes {sum(needed):,}"
    for layer, count in zip(net.convs, needed, strict=True):
        held -= count
        if held < 0:
            raise SlimError(f"{said}: it ends within {layer.place}. Is it of this cfg, and whole?")
    raise SlimError(f"{said}: it goes on behind the last layer. Is it of this cfg?")


def tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a convolution's layer in Darknet's order, with what they are called in messages."""
    conv, norm = conv_and_norm(layer)
    if norm is None:
        assert conv.bias is not None
        yield "biases", conv.bias
    else:
        named = norm.bias, norm.weight, norm.running_mean, norm.running_var
        yield from zip(("biases", "scales", "means", "variances"), named, strict=True)
    yield "weights", conv.weight


@torch.no_grad()
def fill(model: Detector, net: Net, content: bytes, header: Header) -> None:
    """Put a file's numbers into a detector, in place.

    Args:
        model: as `built` makes it from `net`.
        net: what the cfg describes.
        content: of a file whose size was checked.
        header: of it.

    Raises:
        SlimError: numbers that are none, or variances below zero: in which layer.
    """
    numbers = np.frombuffer(content, "<f4", offset=len(header.packed()))
    at = 0
    for layer in net.convs:
        for name, tensor in tensors(model.model[layer.index]):
            part = numbers[at : at + tensor.numel()]
            at += tensor.numel()
            if bad := int((~np.isfinite(part)).sum()):
                raise SlimError(
                    f"holds NaN or infinity in the {name} of {layer.place}, {bad} of {part.size} numbers: what it "
                    "detects cannot be trusted. Use earlier weights of this training"
                )
            if name == "variances" and bool((part < 0).any()):
                raise SlimError(f"holds variances below zero in {layer.place}: no batch norm has one")
            tensor.copy_(torch.from_numpy(part.astype(np.float32).reshape(tensor.shape)))


def content_of(model: Detector, net: Net, header: Header) -> bytes:
    """A file of a detector's weights.

    Args:
        model: whose layers are those of `net`, of whatever widths.
        net: what its cfg describes.
        header: to put before them.

    Raises:
        SlimError: the detector holds numbers that are none.
    """
    parts = [header.packed()]
    for layer in net.convs:
        for name, tensor in tensors(model.model[layer.index]):
            part = tensor.detach().float().cpu().numpy().astype("<f4")
            if not np.isfinite(part).all():
                raise SlimError(
                    f"the detector holds NaN or infinity in the {name} of {layer.place}: nothing is written"
                )
            parts.append(part.tobytes())
    return b"".join(parts)
