"""Weights on a grid of whole numbers, symmetric and one for each output channel (Krishnamoorthi, 2018,
arXiv:1806.08342, 2.2 and 3.1; Nagel et al., 2021, arXiv:2106.08295, 2.2).

w = q s, q a whole number from -(2^(b-1) - 1) to 2^(b-1) - 1, s the channel's largest weight over the largest q. A
checkpoint holds these products as fp16 rounds them, fp16(q s), from which q and an s that gives the same again can be
told (`coding/words.py`, way g). Batch norms stay as they are and are not folded in: the checkpoint keeps them.
Activations are not touched; `yolo-slim export` with `export.int8` calibrates those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from yolo_slim.channels import trace
from yolo_slim.channels.moments import Moments
from yolo_slim.compress.layers import Chosen
from yolo_slim.compress.method import Hold, Material, Plan
from yolo_slim.compress.tied import checked, in_half, moved, restoring, to_refit, weight_of, zeros_of
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

ROUNDED, SMALLEST = 2.0**-10, 2.0**-24
"""By which a weight and its scale may be rounded in fp16, relative, and what lies between its smallest numbers."""


@dataclass(frozen=True)
class Quantize(Chosen):
    """A symmetric grid for the weights of each output channel."""

    help: ClassVar[str] = "weights on a grid of whole numbers, one for each output channel"
    speed: ClassVar[str] = "no faster in float: a smaller file once it is packed; export.int8 makes files that are"
    changes_layers: ClassVar[bool] = False
    gradual: ClassVar[bool] = False

    bits: int = field(default=8, metadata={"help": "of a weight: 8, down to 4"})

    def __post_init__(self) -> None:
        if not 4 <= self.bits <= 8:
            raise ValueError(f"bits: expected 4 to 8, got {self.bits}")

    def plan(self, detector: nn.Module, material: Material) -> Plan:
        """Of each weight its whole number; int8, like the weights.

        Raises:
            SlimError: no layer is eligible, or one has weights that are no numbers.
        """
        convs, kept = self.chosen(trace(detector, material.imgsz))
        layers, tensors = {}, {}
        for conv in convs:
            name, weight = weight_of(conv.name), checked(conv.name, conv.layer(detector).weight)
            zero = zeros_of(name, weight, material.zeros)
            steps, scale = grid(weight.masked_fill(zero, 0), self.bits)
            size = float(weight.double().norm())
            error = float((on_grid(steps, scale) - weight).double().norm()) / size if size else 0.0
            layers[conv.name] = {"bits": self.bits, "error": error}
            tensors[name] = steps
        return Plan(layers, tensors, kept, to_refit(convs))

    @torch.no_grad()
    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        """A new detector on the plan's grids, in fp16's numbers."""
        stepped = duplicate(detector)
        for name, steps in plan.tensors.items():
            weight = stepped.get_parameter(name)
            steps = steps.to(weight.device)
            weight.copy_(on_grid(steps, grid(weight.masked_fill(steps == 0, 0), self.bits)[1]))
        return stepped

    def prove(self, detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """See `check`; and `error`, how far the weights have moved, relative."""
        return {**self.check(compressed, plan), "error": moved(detector, compressed, plan.tensors)}

    def check(self, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """That all weights are the plan's whole numbers times a scale, as fp16 rounds them.

        Raises:
            SlimError: they are not.
        """
        for name, steps in plan.tensors.items():
            after = compressed.get_parameter(name).detach()
            stored = after.half().to(after.dtype)
            wanted = along(after, steps.to(after.device))
            if not ((stored - wanted).abs() <= ROUNDED * wanted.abs() + SMALLEST).all():
                raise SlimError(f"{name}: weights are not the plan's whole numbers times a scale for each channel")
        return {}

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        """The scales of least squares, one for each output, of the plan's whole numbers q: s = q'(C w + p) / q' C q."""
        steps = plan.tensors[weight_of(layer)].flatten(1).to(weight.device).double()
        covariance, pull = moments.normal(weight)
        against = ((steps @ covariance) * steps).sum(1)
        towards = (steps * (weight.double() @ covariance + pull.T)).sum(1)
        scale = torch.where(against > 0, towards / against.where(against > 0, 1), 0)
        fitted = on_grid(steps, scale).to(weight.dtype)
        return fitted, moments.intercept(fitted.double())

    def describe(self, plan: Plan) -> dict[str, Any]:
        """Layers, and bits of a weight."""
        return {"layers": len(plan.layers), "bits": self.bits}

    def hold(self, plan: Plan) -> Hold:
        """Whole numbers stay those of the plan, and zeros zero: the scales are trained, with the gradient of all
        weights of their channel (`tied`)."""
        return restoring(plan.tensors, along)


def grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers, int8 like the weights (Co, ...), and the scale of each channel (Co,)."""
    most = (1 << bits - 1) - 1
    scale = weight.detach().flatten(1).abs().amax(1) / most
    steps = (weight.detach() / _by_channel(scale.where(scale > 0, 1), weight)).round().clamp(-most, most)
    return steps.to(torch.int8), scale


def on_grid(steps: Tensor, scale: Tensor) -> Tensor:
    """What is stored of whole numbers (Co, ...) and scales (Co,), in fp16's numbers."""
    return in_half(steps * _by_channel(scale, steps))


def along(weight: Tensor, steps: Tensor) -> Tensor:
    """The multiples of each channel's whole numbers (Co, ...) that are nearest to its weights."""
    whole = steps.to(torch.float64)
    scale = (weight * whole).flatten(1).sum(1) / whole.square().flatten(1).sum(1).clamp(min=1)
    return (whole * _by_channel(scale, whole)).to(weight.dtype) + 0.0


def _by_channel(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (like.ndim - 1))
