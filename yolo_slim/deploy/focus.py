"""A `Focus` stem as the one convolution that it is: some runtimes (NCNN) cannot slice an image with a step."""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules import Focus

from yolo_slim.formats.detector import Detector

CANNOT_SLICE = frozenset({"ncnn"})
"""Formats whose runtimes have no slices with a step."""

SLICES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""First row and column of the slices that Focus lays side by side, in its order."""


class Unsliced(nn.Module):
    """Stands for a Focus, under the names that it has: k x k over its slices is 2k x 2k, stride 2, over the image."""

    def __init__(self, focus: Focus) -> None:
        super().__init__()
        self.conv, sliced = focus.conv, focus.conv.conv
        for name in ("f", "i", "type"):
            setattr(self, name, getattr(focus, name))
        c, (height, width) = sliced.in_channels // 4, sliced.kernel_size
        shape = (2 * height, 2 * width), tuple(2 * s for s in sliced.stride), tuple(2 * p for p in sliced.padding)
        whole = nn.Conv2d(c, sliced.out_channels, *shape, bias=sliced.bias is not None).to(sliced.weight)
        with torch.no_grad():
            for n, (row, column) in enumerate(SLICES):
                whole.weight[:, :, row::2, column::2] = sliced.weight[:, n * c : (n + 1) * c]
            if whole.bias is not None:
                whole.bias.copy_(sliced.bias)
        self.conv.conv = whole

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As Focus, to float rounding."""
        return self.conv(images)


def without_slices(detector: Detector) -> None:
    """Put the convolution that it is in the place of each Focus, in place."""
    for i, layer in enumerate(detector.model):
        if isinstance(layer, Focus) and layer.conv.conv.groups == 1:
            detector.model[i] = Unsliced(layer)
