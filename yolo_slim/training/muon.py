"""Muon with a rate of each tensor's own: steps whose directions all count alike, against the size of the weights.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024, https://kellerjordan.github.io/posts/muon);
steps of the same size for every tensor as in Liu et al., "Muon is scalable for LLM training" (arXiv:2502.16982, 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from ultralytics.optim.muon import zeropower_via_newtonschulz5

MOMENTUM = 0.9
BETAS = (0.9, 0.99)
"""Adam's, which steps vectors: they have no directions to make alike."""
EPS = 1e-8
LEAST_SIZE = 1e-3
"""Of a tensor, what its steps are measured against: one of zeros is to move as well."""
SHARE = 0.5
"""How large a matrix's step is at the rate of 1, against its weights; a vector's is about as large."""


class Muon(torch.optim.Optimizer):
    """A step moves a tensor by its rate, as a share of the root mean square that its weights had at first."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        """`lr`: the share that all of them move by; `scale_to` sets another."""
        groups = [{"params": [p], "size": _size(p)} for p in parameters if p.numel()]
        super().__init__(groups, {"lr": lr})

    def scale_to(self, rate: float) -> None:
        """The share that all of them move by from now on."""
        for group in self.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every tensor that has a gradient; a closure is not asked."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    direction = self._of_matrix(p, p.grad) if p.ndim > 1 else self._of_vector(p, p.grad)
                    p.add_(direction, alpha=-group["lr"] * group["size"])

    def _of_matrix(self, p: nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
        """Filters as rows, however large: U V' of the momentum U S V', of a root mean square of SHARE."""
        state = self.state[p]
        if not state:
            state["mean"] = torch.zeros_like(p)
        mean = state["mean"].mul_(MOMENTUM).add_(gradient)
        ahead = gradient.add(mean, alpha=MOMENTUM).flatten(1)
        alike = zeropower_via_newtonschulz5(ahead).to(p.dtype)
        return alike.view_as(p) * (SHARE * math.sqrt(max(alike.shape)))

    def _of_vector(self, p: nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
        """Adam's step (Kingma & Ba, ICLR 2015, arXiv:1412.6980, 2)."""
        state = self.state[p]
        if not state:
            state |= {"steps": torch.zeros(()), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        state["steps"] += 1
        done = float(state["steps"])
        first, second = BETAS
        mean = state["mean"].lerp_(gradient, 1 - first) / (1 - first**done)
        square = state["square"].lerp_(gradient.square(), 1 - second) / (1 - second**done)
        return mean / (square.sqrt() + EPS)


def _size(p: nn.Parameter) -> float:
    return max(float(p.detach().square().mean().sqrt()), LEAST_SIZE)
