"""Building and running a network on the meta device, where it costs no memory; within bounds, so that it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from yolo_slim.channels.hooks import hooked
from yolo_slim.channels.inputs import Shapes
from yolo_slim.errors import SlimError

MOST_LAYERS = 20_000
"""Modules and parameters; YOLO's largest have some 3,000."""
MOST_OPERATIONS = 40_000
"""Of building a detector, or of one forward pass; YOLOv9e, which takes the most, is built with 4,900. More than it
takes to build too many layers, so that those are told of."""
MOST_MACS = 200_000_000_000
"""Of one forward pass at 256 px; YOLO's largest have a tenth."""
LARGEST_TENSOR = 1 << 31
"""Numbers in one tensor."""


class Counting(Shapes):
    """Inside, what is run ends: it takes no more operations and comes to no larger tensors than a detector does."""

    def __init__(self) -> None:
        super().__init__()
        self.met = self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.met += 1
        if self.met > MOST_OPERATIONS:
            raise SlimError(f"takes more than {MOST_OPERATIONS:,} operations for one image: no detector does")
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten.convolution.default:
            self.macs += out.numel() // max(out.shape[1], 1) * args[1].numel()
        if self.macs > MOST_MACS:
            raise SlimError(f"takes more than {MOST_MACS / 1e9:.0f} G multiplications for one image: no detector does")
        if isinstance(out, torch.Tensor) and out.numel() > LARGEST_TENSOR:
            raise SlimError(f"comes to a tensor of {out.numel():,} numbers: no detector does")
        return out


@contextmanager
def bounded() -> Iterator[None]:
    """Inside, new modules are on the meta device; what is built or run without end raises a SlimError."""
    made = 0

    def count(module: nn.Module, name: str, value: Any) -> None:
        nonlocal made
        made += 1
        if made > MOST_LAYERS:
            raise SlimError(f"has more than {MOST_LAYERS:,} layers: no detector does")

    hooks = register_module_module_registration_hook(count), register_module_parameter_registration_hook(count)
    with hooked(hooks), torch.device("meta"), Counting():
        yield
