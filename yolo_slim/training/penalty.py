"""The pull on batch-norm scales that makes channels go: how far, how fast, and on whom together.

`strength` is *travel*: how far a scale moves towards zero over the whole training if nothing holds it. 1.0 takes a
scale of 1 to 0. The step is derived from the learning-rate schedule and from how much of the training has passed, so
it means the same for any batch size, accumulation, number of epochs, optimizer, AMP or number of GPUs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Costs, Trace
from yolo_slim.channels.groups import FIXED


class Travel:
    """How far scales have been asked to move when a share `p` of the training has passed.

    Proportional to the learning rate, none during warm-up; rises from 0 to `strength`.
    """

    def __init__(self, strength: float, lr_of_epoch: Callable[[int], float], epochs: int, warmup: float) -> None:
        weights = np.array([lr_of_epoch(e) * float(np.clip(e + 1 - warmup, 0, 1)) for e in range(epochs)])
        if weights.sum() == 0:  # nothing but warm-up
            weights = np.ones(epochs)
        self.marks = strength * np.concatenate([[0], np.cumsum(weights / weights.sum())])
        self.epochs = epochs

    def at(self, p: float) -> float:
        """Travel asked for up to progress p in [0, 1]."""
        return float(np.interp(p * self.epochs, np.arange(self.epochs + 1), self.marks))


class Penalty:
    """Shrinks the scales of removable channels, all of a channel's producers together or each alone.

    Group lasso over the m producers of a channel: Gamma <- Gamma * max(0, 1 - s * sqrt(m) / |Gamma|), the proximal
    step of sum sqrt(m) |Gamma|_2 (Yuan & Lin 2006). With groups of one this is the soft threshold of plain L1.
    """

    def __init__(self, detector: nn.Module, trace: Trace, kind: str = "group_lasso") -> None:
        free = np.zeros(trace.n_channels, bool)
        for group in trace.free:
            free[group.channels] = True
        self.scales: list[nn.Parameter] = []
        members: list[np.ndarray] = []
        self.trace, self.costs = trace, Costs(trace)
        for norm in trace.norms.values():
            weight = norm.layer(detector).weight
            if weight is None:
                continue
            self.scales.append(weight)
            members.append(np.where((norm.channels != FIXED) & free[norm.channels], norm.channels, FIXED))
        channel = np.concatenate(members)  # the channel each scale belongs to, FIXED where it may not shrink
        self.channel = channel
        owner = channel if kind == "group_lasso" else np.where(channel == FIXED, FIXED, np.arange(len(channel)))
        frozen = np.repeat([not s.requires_grad for s in self.scales], [s.numel() for s in self.scales])
        owner = np.where(frozen, FIXED, owner)  # layers that the user freezes stay as they are
        _, numbers = np.unique(owner, return_inverse=True)
        device = self.scales[0].device
        self.group = torch.as_tensor(numbers, device=device)
        size = torch.bincount(self.group).float()
        pull = torch.ones_like(size)
        pull[self.group[torch.as_tensor(owner == FIXED, device=device)]] = 0
        self.pull = pull * size.sqrt()

    def flat(self) -> Tensor:
        """All scales one after another, (sum of widths,) fp32."""
        return torch.cat([s.detach().float() for s in self.scales])

    def _norms(self, flat: Tensor) -> Tensor:
        return torch.zeros_like(self.pull).index_add_(0, self.group, flat.square()).sqrt_()

    @torch.no_grad()
    def shrink(self, amount: float) -> None:
        """The proximal step: move every free scale `amount` towards zero, its group together, never past zero."""
        flat = self.flat()
        factor = (1 - amount * self.pull / self._norms(flat).clamp_(min=1e-12)).clamp_(min=0)
        flat *= factor[self.group]
        self._take(flat)

    def _take(self, flat: Tensor) -> None:
        """The scales as `flat` has them."""
        torch._foreach_copy_([*self.scales], list(flat.split([s.numel() for s in self.scales])))

    @torch.no_grad()
    def add_subgradient(self, strength: float) -> None:
        """The paper's form: add strength * sign(gamma), or sqrt(m) Gamma / |Gamma| for a group, to the gradients."""
        flat = self.flat()
        pull = strength * (self.pull / self._norms(flat).clamp_(min=1e-12))[self.group] * flat
        for scale, part in zip(self.scales, pull.split([s.numel() for s in self.scales]), strict=True):
            if scale.grad is not None:
                scale.grad += part.to(scale.grad.dtype)

    @torch.no_grad()
    def summary(self, threshold: float = 1e-2) -> dict[str, float]:
        """Quantiles of |gamma| over removable channels, the share below `threshold`, and the cost without those."""
        flat = self.flat().abs().cpu().numpy()
        mine = flat[self.channel != FIXED]
        largest = np.zeros(self.trace.n_channels)  # of a channel's producers: it is gone when all of them are
        np.maximum.at(largest, self.channel[self.channel != FIXED], mine)
        keeps = np.array(
            [
                g.size if g.reason is not None or not g.norms else max(1, int((largest[g.channels] >= threshold).sum()))
                for g in self.trace.groups
            ]
        )
        cost, full = self.costs.of(keeps), self.costs.of(self.costs.full)
        q = np.quantile(mine, [0.05, 0.25, 0.5, 0.75, 0.95])
        return {
            **{f"q{p:02d}": float(v) for p, v in zip((5, 25, 50, 75, 95), q, strict=True)},
            "share_below_1e-2": float((mine < threshold).mean()),
            "flops_if_cut": cost.macs / full.macs,
            "params_if_cut": cost.params / full.params,
        }
