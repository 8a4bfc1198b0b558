"""Rocket launching: a light net learns beside a booster that shares its lower layers (AAAI 2018, arXiv:1708.04106).

    loss = task(booster) + task(light) + hint(light logits, booster logits)

For training from scratch alone: both share a stem and the stages behind it, and have a neck and a head each; the
booster's are thrown away in the end. A pruned student shares no tensor with what it was cut from, so that `finetune`
has no use for it: there, the original teaches (`finetune.distill`).

Cost: the booster's neck and head, forward and backward, in every step of the training; nothing afterwards.
`scripts/teach.py --how rocket` trains so, beside a control, and times a step.
"""

from __future__ import annotations

from torch import Tensor

GAMMA = 0.03
"""Of the paper's experiments."""


def hint(light: Tensor, booster: Tensor, gamma: float = GAMMA) -> Tensor:
    """gamma |booster - light|^2 / B of logits before the sigmoid, (B, ...), (eq. 2 and section 3.3).

    No gradient goes to the booster ("gradient block", there without a choice: with a gradient, the booster would be
    pulled down to what the light net can say).
    """
    if light.shape != booster.shape:
        raise ValueError(f"expected logits of one shape, got {tuple(light.shape)} and {tuple(booster.shape)}")
    return gamma * (booster.detach() - light).square().sum() / len(light)
