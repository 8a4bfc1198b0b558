"""The norm of a channel's filter (Li et al., Pruning Filters, ICLR 2017, arXiv:1608.08710, 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Group, Trace
from yolo_slim.importance.combine import rows_of


def l1(detector: nn.Module, trace: Trace, group: Group, *, bn_fold: bool = False, **_: object) -> np.ndarray:
    """(m, n): sum |W_i| of each filter that makes the channel."""
    return _norms(detector, trace, group, bn_fold, lambda filters: filters.abs().sum(1))


def l2(detector: nn.Module, trace: Trace, group: Group, *, bn_fold: bool = False, **_: object) -> np.ndarray:
    """(m, n): root of sum W_i^2 of each filter that makes the channel."""
    return _norms(detector, trace, group, bn_fold, lambda filters: filters.square().sum(1).sqrt())


def _norms(detector: nn.Module, trace: Trace, group: Group, bn_fold: bool, norm: object) -> np.ndarray:
    rows = [np.empty((0, group.size))]
    for name in group.producers:
        conv = trace.convs[name]
        filters = detector.get_submodule(name).weight.detach().float().flatten(1)  # [Co, Ci*kh*kw]
        if bn_fold and conv.norm is not None:
            bn = detector.get_submodule(conv.norm)
            scale = torch.ones_like(bn.running_var) if bn.weight is None else bn.weight.detach()
            filters = filters * (scale / (bn.running_var + bn.eps).sqrt())[:, None]
        values: Tensor = norm(filters)  # type: ignore[operator]
        rows.append(rows_of(group, conv.outputs, values))
    return np.concatenate(rows)
