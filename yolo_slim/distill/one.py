"""On-the-fly native ensemble: branches learn from what they say together (Lan et al., NeurIPS 2018, arXiv:1806.04606).

    together = ensemble(logits, gate(shared map))
    loss = sum of task(branch) + task(together) + ramp(epoch) * lesson(logits, together)

For training from scratch alone: branches are copies of the upper layers (neck and head) above a shared trunk; one of
them is kept in the end, or all, if that is affordable. A pruned student has no branches: `finetune` has no use for it.

Cost: every further branch's upper layers, forward and backward, in every step of the training; the gate is nothing
beside them. `scripts/teach.py --how one` trains so, beside a control, and times a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolo_slim.distill.soften import binary_divergence

TEMPERATURE = 3.0
RAMP_EPOCHS = 80.0
"""Both of the paper's experiments."""


class Gate(nn.Module):
    """What each branch counts for in each image, (B, branches), from a map of the shared trunk (section 3.1).

    Args:
        channels: of the map.
        branches: how many.
    """

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(channels, branches), nn.BatchNorm1d(branches)

    def forward(self, shared: Tensor) -> Tensor:
        """(B, branches) of (B, C, H, W): from 0 on, together 1."""
        return torch.relu(self.norm(self.linear(shared.mean((2, 3))))).softmax(1)


def ensemble(logits: Sequence[Tensor], gate: Tensor) -> Tensor:
    """What the branches say together: the sum of gate * logits (eq. 2); gradients reach branches and gate.

    Args:
        logits: of each branch, (B, ...).
        gate: (B, branches).
    """
    stacked = torch.stack(list(logits), 1)  # (B, branches, ...)
    if gate.shape != stacked.shape[:2]:
        raise ValueError(f"expected a gate of shape {tuple(stacked.shape[:2])}, got {tuple(gate.shape)}")
    return (stacked * gate.view(*gate.shape, *[1] * (stacked.dim() - 2))).sum(1)


def lesson(logits: Sequence[Tensor], together: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """T^2 KL(together || branch), summed over branches, a mean over all else (eq. 4 to 6), of a sigmoid for each class.

    No gradient goes to the ensemble: it is the teacher, and would else learn to say what the branches say anyway.
    """
    goal = together.detach()
    return torch.stack([binary_divergence(each, goal, temperature).mean() for each in logits]).sum()


def ramp(epoch: float, epochs: float = RAMP_EPOCHS) -> float:
    """exp(-5 (1 - epoch / epochs)^2), 1 from there on: an ensemble of beginners has little to teach."""
    return math.exp(-5 * (1 - min(max(epoch / epochs, 0.0), 1.0)) ** 2)
