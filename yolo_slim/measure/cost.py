"""Parameters and MACs as thop counts them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import thop
import torch
from torch import nn


@dataclass(frozen=True)
class Cost:
    """`params` in numbers, `macs` in multiply-accumulates per image."""

    params: int
    macs: int

    @property
    def flops(self) -> int:
        """2 * MACs."""
        return 2 * self.macs


def cost(detector: nn.Module, imgsz: int | tuple[int, int] = 640) -> Cost:
    """Parameters and MACs of a detector for one image of side (or (height, width)) `imgsz` in pixels."""
    copied = copy.deepcopy(detector).cpu().float().eval()
    hw = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    channels = next(m for m in copied.modules() if isinstance(m, nn.Conv2d)).in_channels
    macs, params = thop.profile(copied, (torch.zeros(1, channels, *hw),), verbose=False)
    return Cost(int(params), int(macs))
