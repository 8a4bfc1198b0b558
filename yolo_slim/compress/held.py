"""Zeros that are there, are held while a detector trains, and are proven in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from yolo_slim.compress.method import Hold, Plan
from yolo_slim.errors import SlimError

ORDER = ":order"
"""Parameter + this, in a plan's tensors: the share of the way to the last zero at which each weight is zero, like the
parameter; 0: from the beginning, infinity: never. So the mask at any moment is `order > share of the way`."""


def masks(plan: Plan) -> dict[str, Tensor]:
    """Parameter -> bool, like it: what stays in the end."""
    return {name: tensor for name, tensor in plan.tensors.items() if not name.endswith(ORDER)}


def share_gone(passed: float, until: float) -> float:
    """Share of the way to the last zero, after a share of the training: 1 - (1 - passed / until)^3, 1 from `until` on.

    Zhu & Gupta, arXiv:1710.01878, Eq. 1, without their steps: s = s_f + (s_0 - s_f) (1 - passed / until)^3.
    """
    return 1 - (1 - min(max(passed / until, 0.0), 1.0)) ** 3


def holding(plan: Plan, way: Callable[[float], float] = lambda passed: 1.0) -> Hold:
    """Zeroes, in place, what is zero by then.

    Args:
        plan: with masks, and with the order of those that do not go at once.
        way: share of the training passed -> share of the way to the last zero.
    """
    there: dict[tuple[str, torch.device], Tensor] = {}  # moved once: a step of the optimizer waits for it

    def on(name: str, device: torch.device) -> Tensor:
        if (name, device) not in there:
            there[name, device] = plan.tensors[name].to(device)
        return there[name, device]

    @torch.no_grad()
    def hold(detector: nn.Module, passed: float) -> None:
        far = way(passed)
        for name in masks(plan):
            weight = detector.get_parameter(name)
            late = far < 1 and f"{name}{ORDER}" in plan.tensors
            gone = on(f"{name}{ORDER}", weight.device) <= far if late else ~on(name, weight.device)
            weight.masked_fill_(gone, 0)  # not multiplied: what is not a number would stay so

    return hold


@torch.no_grad()
def check_zeros(detector: nn.Module, plan: Plan, of: tuple[int, int] | None) -> None:
    """Nothing, where all zeros of a plan are there.

    Args:
        detector: that is to have them.
        plan: with masks.
        of: N, M: of M consecutive inputs at most N may be other than zero.

    Raises:
        SlimError: a weight is not zero that should be, masks have other counts than the plan says, or blocks have more.
    """
    for name, mask in masks(plan).items():
        layer, weight = name.removesuffix(".weight"), detector.get_parameter(name)
        if weight.shape != mask.shape:
            raise SlimError(
                f"{name} is {tuple(weight.shape)} and the plan's mask {tuple(mask.shape)}: the plan is another's"
            )
        if left := int(weight[~mask.to(weight.device)].count_nonzero()):
            raise SlimError(f"{name}: expected zeros where the plan has them, but {left} weights are not zero")
        row = plan.layers.get(layer)
        if row is None:  # an earlier step's
            continue
        if (zeros := int((~mask).sum())) != row["zeros"]:
            raise SlimError(f"{name}: the plan counts {row['zeros']} zeros, its mask has {zeros}")
        if of and int((weight != 0).unflatten(1, (-1, of[1])).sum(2).max()) > of[0]:
            raise SlimError(f"{name}: expected {of[0]} of {of[1]} consecutive weights at most to be other than zero")


@torch.no_grad()
def untouched(before: nn.Module, after: nn.Module, masked: Mapping[str, Tensor]) -> None:
    """Nothing, where two detectors hold the same but for what masks take.

    Raises:
        SlimError: they do not.
    """
    old, new = before.state_dict(), after.state_dict()
    if old.keys() != new.keys():
        others = sorted(old.keys() ^ new.keys())
        raise SlimError(f"expected the same tensors in both detectors, but one alone has {', '.join(others[:4])}")
    for name, value in old.items():
        wanted = value.masked_fill(~masked[name].to(value.device), 0) if name in masked else value
        if not torch.allclose(wanted, new[name], rtol=0, atol=0, equal_nan=True):
            raise SlimError(f"{name} has changed, and only masked weights should have")
