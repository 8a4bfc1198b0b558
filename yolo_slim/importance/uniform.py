"""Chance: the control every other criterion must beat, under the same groups, floors, rounding and budget."""

from __future__ import annotations

import zlib

import numpy as np
from torch import nn

from yolo_slim.channels import Trace
from yolo_slim.importance.combine import Rows
from yolo_slim.importance.evidence import Evidence


def random(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """Uniform in [0, 1), the same for the same seed and group name."""
    return {
        g.name: np.random.default_rng([evidence.seed, zlib.crc32(g.name.encode())]).random((1, g.size))
        for g in trace.free
    }
