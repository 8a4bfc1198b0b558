"""Batch-norm statistics measured anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recalibrate(detector: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Replace running means and variances by the average over these batches; in place, returns the detector.

    "Adaptive batch norm" of EagleEye (Li et al., ECCV 2020, arXiv:2007.02491, 3.3).
    """
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    device = next(detector.parameters()).device
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # cumulative average
    detector.train()
    for batch in batches:
        detector(batch.to(device))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    return detector.eval()
