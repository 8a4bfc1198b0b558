"""The norm of a channel's filter (Li et al., Pruning Filters, ICLR 2017, arXiv:1608.08710, 3.1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Conv, Trace
from yolo_slim.importance.combine import Rows, rows_of, scored
from yolo_slim.importance.evidence import Evidence


@scored(normalize="mean")
def l1(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """sum |W_i| of each filter that makes a channel."""
    return of_filters(detector, trace, evidence, lambda filters: filters.abs().sum(1))


@scored(normalize="mean")
def l2(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """Root of sum W_i^2 of each filter that makes a channel."""
    return of_filters(detector, trace, evidence, lambda filters: filters.square().sum(1).sqrt())


def of_filters(detector: nn.Module, trace: Trace, evidence: Evidence, judge: Callable[[Tensor], Tensor]) -> Rows:
    """Rows from a function of a layer's filters: [Co, Ci*kh*kw] -> (Co,)."""
    found: Rows = {}
    for group in trace.free:
        rows = [np.empty((0, group.size))]
        for name in group.producers:
            conv = trace.convs[name]
            rows.append(rows_of(group, conv.outputs, judge(filters_of(detector, trace, conv, evidence.bn_fold))))
        found[group.name] = np.concatenate(rows)
    return found


def filters_of(detector: nn.Module, trace: Trace, conv: Conv, bn_fold: bool) -> Tensor:
    """A convolution's filters [Co, Ci*kh*kw] in fp32; `bn_fold`: as the batch norm behind it scales them."""
    filters = conv.layer(detector).weight.detach().float().flatten(1)  # [Co, Ci*kh*kw]
    if bn_fold and conv.norm is not None:
        bn = trace.norms[conv.norm].layer(detector)
        scale = torch.ones_like(bn.running_var) if bn.weight is None else bn.weight.detach()
        filters = filters * (scale / (bn.running_var + bn.eps).sqrt())[:, None]
    return filters
