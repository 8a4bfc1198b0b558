"""Polarization: a pull that parts the scales into those at zero and those that stay, instead of pulling on all.

R(g) = t |g|_1 - |g - mean(g)|_1 over scales g in [0, a]^n (Zhuang et al., NeurIPS 2020, eq. 2): a scale below the mean
is pulled to zero with t + 1, one above it with t - 1, more or less by where the mean lies. At its least a share of
1/2 - t/4 of the scales is at `a`, the others are at zero (theorem 3.2).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace, relative_difference
from yolo_slim.errors import SlimError
from yolo_slim.training.penalty import Penalty
from yolo_slim.training.sparse import SparseTrainer


def regulariser(scales: Tensor, t: float) -> Tensor:
    """R of scales (n,): a scalar to differentiate, through the mean too."""
    return t * scales.abs().sum() - (scales - scales.mean()).abs().sum()


def first_local_min(scales: np.ndarray, bin: float = 0.01) -> float | None:
    """Where the histogram of scales (n,) first stops falling: what lies below is the part at zero (paper, 3.3).

    Returns:
        the lower edge of the first bin, from zero on, that holds no more than either neighbour; None: none does.
    """
    counts = np.bincount((np.abs(scales) / bin + 1e-9).astype(int))  # .03 / .01 is 2.9999999999999996
    inner = counts[1:-1]
    lows = np.flatnonzero((counts[:-2] >= inner) & (inner <= counts[2:]))
    return float((lows[0] + 1) * bin) if len(lows) else None


@torch.no_grad()
def flip_signs(detector: nn.Module, trace: Trace) -> None:
    """Make scales positive without changing the detector, in place: gamma (x - mu) = -gamma (-x + mu).

    Where a scale is negative, its filter, that filter's bias, and the running mean change sign with it. Exact where the
    batch norm alone reads the convolution. One that reads more than one convolution, or none, stays as it is.
    """
    convs = [(c, c.norm) for c in trace.convs.values() if c.norm is not None]
    readers = [reader for _, reader in convs]
    for conv, reader in convs:
        norm, layer = trace.norms[reader].layer(detector), conv.layer(detector)
        if norm.weight is None or readers.count(reader) > 1:
            continue
        sign = torch.where(norm.weight < 0, -1.0, 1.0)
        norm.weight.mul_(sign)
        norm.running_mean *= sign
        layer.weight *= sign.view(-1, 1, 1, 1)
        if layer.bias is not None:
            layer.bias *= sign


class Polarization(Penalty):
    """The pull of R on the scales of removable channels; one scale a channel: the RMS over its producers.

    `cap` is the paper's a: 1, or the largest scale at the start where a trained detector has larger ones.
    """

    def __init__(self, detector: nn.Module, trace: Trace, t: float) -> None:
        super().__init__(detector, trace, "group_lasso")
        self.t, self.free = t, self.pull > 0
        flat = self.flat()[self.free[self.group]]
        self.cap = max(1.0, float(flat.max())) if len(flat) else 1.0

    @torch.no_grad()
    def shrink(self, amount: float) -> None:
        """A step down R, decoupled from the loss as the proximal one is, then back into [0, cap].

        Divided by t + 1, so that a scale below the mean, which R pulls with t + 1 (more or less, by where the mean
        lies), moves about `amount`: the travel keeps its meaning.
        """
        flat, mine = self.flat(), self.free[self.group]
        flat = torch.where(mine, flat.clamp(0, self.cap), flat)
        before = (self._norms(flat) / self.pull)[self.free]
        with torch.enable_grad():
            scales = before.clone().requires_grad_()
            (slope,) = torch.autograd.grad(regulariser(scales, self.t), scales)
        factor = torch.ones_like(self.pull)
        factor[self.free] = (before - amount / (self.t + 1) * slope).clamp(0, self.cap) / before.clamp(min=1e-12)
        flat *= factor[self.group]
        flat = torch.where(mine, flat.clamp(max=self.cap), flat)
        self._take(flat)


class PolarizedTrainer(SparseTrainer):
    """SparseTrainer under polarization; `SETTINGS`: strength, t."""

    penalty: Polarization

    def make_penalty(self, detector: nn.Module) -> Polarization:
        """Positive scales first, in the average too: zero would stop a negative one on its way."""
        before = copy.deepcopy(detector)
        for each in (detector, self.ema.ema):
            flip_signs(each, self.wiring)
        device = next(detector.parameters()).device
        image = torch.rand(1, self.wiring.image_channels, *self.wiring.imgsz, device=device)
        if not relative_difference(before, detector, image) < 1e-3:
            raise SlimError(
                "sparse_train.mode=polarization needs positive scales, and here something beside a batch norm reads "
                "its convolution, so that the two cannot exchange signs. Use another mode"
            )
        penalty = Polarization(detector, self.wiring, self.settings["t"])
        penalty.cap = self.cap or penalty.cap
        return penalty

    cap: float | None = None

    def extra_state(self) -> dict[str, Any]:
        """The cap, which a resumed training would find lower."""
        return {**super().extra_state(), "cap": self.penalty.cap}

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.cap = ckpt["cap"]
