"""A detector taken apart into plain layers, and a YAML that describes them: that repository's train.py goes on with it.

That builds a network anew, from a YAML in which blocks have one width each. Of convolutions each has its own there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn
from ultralytics.nn.modules import C3, SPPF, Concat, Conv

from yolo_slim.errors import SlimError
from yolo_slim.formats.yolov5.layers import AnchorDetect
from yolo_slim.formats.yolov5.model import AnchorModel

ROUNDED = 8
"""Widths that the repository reads from a YAML become multiples of it."""


class Rows:
    """Layers one after the other, and the row of the YAML for each; methods return the number of what they add."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self.layers: list[Any] = []

    def add(self, f: int | list[int], name: str, args: list[Any], layer: Any) -> int:
        """Any layer, which takes the outputs of those with the numbers `f`."""
        layer.i, layer.f, layer.type = len(self.layers), f, name
        layer.np = sum(p.numel() for p in layer.parameters())
        self.rows.append([f, 1, name, args])
        self.layers.append(layer)
        return layer.i

    def conv(self, f: int, m: Any) -> int:
        """A convolution, its norm and SiLU."""
        c = m.conv
        return self.add(f, "Conv", [checked(m), c.kernel_size[0], c.stride[0], c.padding[0], c.groups], m)

    def bottleneck(self, f: int, m: Any) -> int:
        """Two convolutions and the shortcut around them, where there is one; the width between them is a share."""
        inner, width = checked(m.cv1, rounded=1), checked(m.cv2)
        return self.add(f, "Bottleneck", [width, m.add, m.cv2.conv.groups, (inner + 0.5) / width], m)

    def c3(self, f: list[int], m: Any) -> int:
        """Bottlenecks beside a convolution."""
        last = self.conv(f[0], m.cv1)
        for inner in m.m:
            if type(inner) is not nn.Identity:  # what is left of a branch that was taken out
                last = self.bottleneck(last, inner)
        return self.conv(self.add([last, self.conv(f[0], m.cv2)], "Concat", [1], Concat(1)), m.cv3)

    def sppf(self, f: list[int], m: Any) -> int:
        """Pools one after the other."""
        side, seen = m.m.kernel_size, [self.conv(f[0], m.cv1)]
        for _ in range(3):
            pool = nn.MaxPool2d(side, 1, side // 2)
            seen.append(self.add(seen[-1], "nn.MaxPool2d", [side, 1, side // 2], pool))
        return self.conv(self.add(seen, "Concat", [1], Concat(1)), m.cv2)


def checked(m: Any, rounded: int = ROUNDED) -> int:
    """The outputs of a convolution that the repository would build from a YAML.

    Raises:
        SlimError: it would build another one.
    """
    width = m.conv.out_channels
    if type(m.act) is not nn.SiLU or width % rounded:
        raise SlimError(
            f"convert.unrolled: a convolution with {type(m.act).__name__} and {width} outputs: the repository builds "
            f"them with SiLU, and of multiples of {ROUNDED} (prune.round_to=8)"
        )
    return width


KINDS: dict[type[nn.Module], Callable[[Rows, Sequence[int], Any], int]] = {
    Conv: lambda rows, f, m: rows.conv(f[0], m),
    C3: lambda rows, f, m: rows.c3([*f], m),
    SPPF: lambda rows, f, m: rows.sppf([*f], m),
    Concat: lambda rows, f, m: rows.add([*f], "Concat", [m.d], m),
    nn.Upsample: lambda rows, f, m: rows.add(f[0], "nn.Upsample", [None, int(m.scale_factor), m.mode], m),
    AnchorDetect: lambda rows, f, m: rows.add([*f], "Detect", ["nc", "anchors"], m),
}


def unrolled(detector: AnchorModel) -> AnchorModel:
    """A new detector of the same weights that answers the same; the input is left alone.

    Raises:
        SlimError: a layer that is not taken apart, or a width that the repository would round.
    """
    new, rows, at = copy.deepcopy(detector), Rows(), {-1: -1}
    for n, layer in enumerate(new.model):
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        if (kind := KINDS.get(type(layer))) is None:
            raise SlimError(f"convert.unrolled: model.{n} is a {type(layer).__name__}, which is not taken apart")
        at[n] = kind(rows, [at[f if f >= 0 else n + f] for f in sources], layer)
    head = cast(AnchorDetect, rows.layers[-1])
    new.model = cast(Any, nn.Sequential(*rows.layers))
    named = [f for layer in rows.layers for f in ([layer.f] if isinstance(layer.f, int) else layer.f)]
    new.save = sorted({*named} - {-1})
    anchors = [level.flatten().tolist() for level in head.sizes()]
    new.yaml = {"nc": head.nc, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": anchors, "backbone": rows.rows,
                "head": []}  # fmt: skip
    return new
