"""Chance: the control every other criterion must beat, under the same groups, floors, rounding and budget."""

from __future__ import annotations

import zlib

import numpy as np
from torch import nn

from yolo_slim.channels import Group, Trace


def random(detector: nn.Module, trace: Trace, group: Group, *, seed: int = 0, **_: object) -> np.ndarray:
    """(1, n): uniform in [0, 1), the same for the same seed and group name."""
    return np.random.default_rng([seed, zlib.crc32(group.name.encode())]).random((1, group.size))
