"""|gamma|: the scale a batch norm gives a channel (Liu et al., Network Slimming, ICCV 2017, arXiv:1708.06519, 3)."""

from __future__ import annotations

import numpy as np
from torch import nn

from yolo_slim.channels import Trace
from yolo_slim.importance.combine import Rows, rows_of
from yolo_slim.importance.evidence import Evidence


def bn_scale(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """|gamma| of each batch norm on a group's channels; no rows where there is none."""
    found: Rows = {}
    for group in trace.free:
        rows = [np.empty((0, group.size))]
        for name in group.norms:
            weight = trace.norms[name].layer(detector).weight
            if weight is not None:
                rows.append(rows_of(group, trace.norms[name].channels, weight.abs()))
        found[group.name] = np.concatenate(rows)
    return found
