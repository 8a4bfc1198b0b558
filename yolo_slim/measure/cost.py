"""Parameters and MACs as thop counts them."""

from __future__ import annotations

from dataclasses import dataclass

import thop
import torch
from torch import nn

from yolo_slim.channels import hw_of, image_channels
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate


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
    """Parameters and MACs of a detector for one image of side (or (height, width)) `imgsz` in pixels.

    Raises:
        SlimError: it does not run at this size.
    """
    copied = duplicate(detector).cpu().float().eval()
    hw = hw_of(imgsz)
    image = torch.zeros(1, image_channels(detector, hw), *hw)
    try:
        macs, params = thop.profile(copied, (image,), verbose=False)
    except Exception as e:  # whatever a layer raises
        raise SlimError(
            f"cannot run the detector at {hw[0]}x{hw[1]} px: {type(e).__name__}: {e}. Is the size a multiple of the "
            "detector's stride?"
        ) from e
    return Cost(int(params), int(macs))
