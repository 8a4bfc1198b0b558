"""Zeros that become more while a detector trains, each time the least of what the weights are by then.

Zhu & Gupta, arXiv:1710.01878: how many follows a cubic, and which is ranked anew with every step of it, so that a
weight that has grown stays. What has gone never returns: here it is zero, and takes no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.compress.held import masks
from yolo_slim.compress.masking import Layer
from yolo_slim.compress.method import Plan
from yolo_slim.compress.ranking import EVIDENCE, Ranking, weights_of

RANKINGS = 100
"""How often weights are ranked on the way to the last zero, where so many steps of the optimizer are taken."""


def share_gone(passed: float, until: float) -> float:
    """Share of the way to the last zero, after a share of the training: 1 - (1 - passed / until)^3, 1 from `until` on.

    (Eq. 1: s = s_f + (s_0 - s_f) (1 - passed / until)^3.)
    """
    return 1 - (1 - min(max(passed / until, 0.0), 1.0)) ** 3


class Growing:
    """`Deciding`: the zeros of a plan, and more of them by and by."""

    learned: Sequence[nn.Parameter] = ()

    def __init__(self, plan: Plan, ranking: Ranking, until: float) -> None:
        """From the zeros there are (s_0) to those that the ranking asks for (s_f), after a share `until`."""
        self.ranking, self.until = ranking, until
        self.stays = masks(plan)
        self.evidence = {name: plan.tensors.get(f"{name}.weight{EVIDENCE}") for name in plan.layers}
        self.parts = [(part, self._zeros(part)) for part in ranking.parts(plan.layers)]
        self.ranked = 0  # of `RANKINGS`

    def _zeros(self, layers: Iterable[str]) -> float:
        """Their share among the weights of layers."""
        some = [self.stays[f"{name}.weight"] for name in layers]
        return 1 - sum(int(mask.sum()) for mask in some) / sum(mask.numel() for mask in some)

    def before_step(self, detector: nn.Module) -> None:
        """Nothing."""

    def after_step(self, detector: nn.Module) -> None:
        """Nothing."""

    @torch.no_grad()
    def decide(self, detector: nn.Module, passed: float) -> None:
        """Rank what is left, where it is time to, and zero what goes."""
        self(detector, passed)
        due = int(RANKINGS * min(passed / self.until, 1.0) + 1e-9)
        if due <= self.ranked:
            return
        self.ranked, far = due, share_gone(passed, self.until)
        for part, begun in self.parts:
            weights = {name: weights_of(detector, name) for name in part}
            layers = {name: self._layer(name, weight) for name, weight in weights.items()}
            shapes = {name: weight.shape for name, weight in weights.items()}
            for name, stays in self.ranking.stays(layers, shapes, begun, far).items():
                mask = self.stays[f"{name}.weight"]
                self.stays[f"{name}.weight"] = mask & stays.to(mask.device)
        self(detector, passed)

    def _layer(self, name: str, weight: Tensor) -> Layer:
        evidence = self.evidence[name]
        there = self.stays[f"{name}.weight"].cpu()
        return self.ranking.layer(weight, there, None if evidence is None else evidence.cpu())

    @torch.no_grad()
    def __call__(self, module: nn.Module, passed: float) -> None:
        """Zero what has gone."""
        for name, mask in self.stays.items():
            weight = module.get_parameter(name)
            weight.masked_fill_(~mask.to(weight.device), 0)

    def state(self) -> dict[str, Any]:
        """What has gone, and how often it was asked."""
        return {"ranked": self.ranked, "stays": {name: mask.cpu() for name, mask in self.stays.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.ranked = state["ranked"]
        self.stays = {name: state["stays"][name].to(mask.device) for name, mask in self.stays.items()}
