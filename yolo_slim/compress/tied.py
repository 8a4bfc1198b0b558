"""Weights that are not free one by one: members of a cluster, or whole numbers times a scale.

Both are a few free numbers u that weights follow linearly, w = S u. Training keeps them so by projecting after every
step: w <- S (S'S)^-1 S' w. A step of gradient descent on all weights, then projected, is w - lr S (S'S)^-1 S' g: the
free numbers move against the summed gradient of those that follow them, S' g, divided by how many (or how much) that
is. It is descent on u in the units of the weights, and for an optimizer that is linear in the gradient (SGD with
momentum and weight decay) exactly so; Deep Compression (Han et al., ICLR 2016, arXiv:1510.00149, 3.3) leaves the
division to the learning rate. The state of the optimizer is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from yolo_slim.channels.groups import Conv
from yolo_slim.channels.reconstruct import refittable
from yolo_slim.compress.method import Hold
from yolo_slim.errors import SlimError

HALF = float(torch.finfo(torch.float16).max)


def weight_of(layer: str) -> str:
    """The parameter that holds a convolution's weights."""
    return f"{layer}.weight"


def checked(name: str, weight: Tensor) -> Tensor:
    """A layer's weights.

    Raises:
        SlimError: they are not finite, or beyond what a checkpoint in fp16 holds.
    """
    if not torch.isfinite(weight).all() or (weight.numel() and weight.abs().max() > HALF):
        raise SlimError(
            f"expected weights that fp16 can hold, but {name} has NaN, infinity or more than {HALF:.0f}: use an "
            "earlier checkpoint of its training"
        )
    return weight.detach()


def in_half(values: Tensor) -> Tensor:
    """Rounded to what a checkpoint in fp16 holds, so that what is measured is what is stored; no -0 among them."""
    return values.half().to(values.dtype) + 0.0


def to_refit(convs: Iterable[Conv]) -> dict[str, str]:
    """The layers that can be refitted, as a plan has them."""
    return {conv.name: conv.name for conv in convs if refittable(conv)}


def zeros_of(name: str, weight: Tensor, zeros: Mapping[str, Tensor]) -> Tensor:
    """Which weights are zero and stay so: what is held there, and what happens to be."""
    at_zero = weight == 0
    mask = zeros.get(name)
    return at_zero if mask is None else at_zero | ~mask.to(at_zero.device)


def restoring(numbers: Mapping[str, Tensor], back: Callable[[Tensor, Tensor], Tensor]) -> Hold:
    """Brings weights back, in place.

    Args:
        numbers: parameter -> the plan's whole numbers for it.
        back: from weights as they are, and those numbers, to weights as they may be.
    """
    there: dict[tuple[str, torch.device], Tensor] = {}  # moved once: a step of the optimizer waits for it

    @torch.no_grad()
    def hold(detector: nn.Module, passed: float) -> None:
        for name, fixed in numbers.items():
            weight = detector.get_parameter(name)
            key = name, weight.device
            if key not in there:
                there[key] = fixed.to(weight.device)
            weight.copy_(back(weight, there[key]))

    return hold


def moved(detector: nn.Module, compressed: nn.Module, names: Iterable[str]) -> float:
    """How far parameters have moved, relative to their size: |after - before| / |before|, all of them together."""
    way = size = 0.0
    for name in names:
        before, after = (each.get_parameter(name).detach().double() for each in (detector, compressed))
        way, size = way + float((after - before).square().sum()), size + float(before.square().sum())
    return math.sqrt(way / size) if size else 0.0
