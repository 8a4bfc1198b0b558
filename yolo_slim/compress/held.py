"""Zeros that are there, are held while a detector trains, and are proven in the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yolo_slim.compress.method import Hold, Plan
from yolo_slim.errors import SlimError


def masks(plan: Plan) -> dict[str, Tensor]:
    """Parameter -> bool, like it: what is not zero for good."""
    return {name: tensor for name, tensor in plan.tensors.items() if tensor.dtype == torch.bool}


def holding(plan: Plan) -> Hold:
    """Zeroes, in place, what a plan's masks say."""
    there: dict[tuple[str, torch.device], Tensor] = {}  # moved once: a step of the optimizer waits for it

    @torch.no_grad()
    def hold(detector: nn.Module, passed: float) -> None:
        for name, mask in masks(plan).items():
            weight = detector.get_parameter(name)
            key = name, weight.device
            if key not in there:
                there[key] = ~mask.to(weight.device)
            weight.masked_fill_(there[key], 0)  # not multiplied: what is not a number would stay so

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
