"""Stripes by training: each filter learns which positions of its kernel it needs (Meng et al., arXiv:2009.14410).

The filter skeleton I (Co, kh, kw) begins at one and multiplies the weights, a stripe `W[o,:,m,k]` by one number.
Training pays alpha |I|_1 beside its loss; a stripe whose number falls to a threshold goes and never returns; in the end
I is multiplied into the weights. What is left runs as one 1x1 convolution a position, of the filters that have a stripe
there, shifted and summed.

The paper adds alpha sign(I) to the gradient, which means something else with every optimizer, rate and length of a
training. Here the pull is the proximal step of the same term, after each step of the optimizer, and is stated as
travel: how far a number would move to zero in all if the loss did not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_slim.compress.held import masks
from yolo_slim.compress.method import Plan


class Skeleton(nn.Module):
    """One convolution's skeleton.

    Args:
        weight: (Co, Ci, kh, kw), of the convolution.
    """

    alive: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        shape = weight.shape[0], *weight.shape[2:]
        self.stripes = nn.Parameter(weight.new_ones(shape))
        self.register_buffer("alive", torch.ones(shape, dtype=torch.bool, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The weights that convolve, (Co, Ci, kh, kw); what has gone gets no gradient, whatever momentum carries on."""
        return weight * (self.stripes * self.alive)[:, None]

    def gradients(self, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Of the weights and of the skeleton, (Co, kh, kw), from that of what convolves, (Co, Ci, kh, kw)."""
        with torch.enable_grad():
            own = weight.detach().requires_grad_()
            found = torch.autograd.grad(self(own), (own, self.stripes), gradient)
        return found[0], found[1]

    @torch.no_grad()
    def shrunk(self, amount: float) -> Tensor:
        """The numbers (Co, kh, kw), moved so far to zero, never past it."""
        return self.stripes.sign() * (self.stripes.abs() - amount).clamp(min=0)

    @torch.no_grad()
    def dearest(self) -> tuple[int, ...]:
        """Where the largest number is: that stripe stays, for a layer without any says nothing."""
        at = (self.stripes.abs() * self.alive).argmax()
        return tuple(int(i) for i in torch.unravel_index(at, self.stripes.shape))

    @torch.no_grad()
    def drop(self) -> None:
        """What has gone is zero, whatever momentum carries on."""
        self.stripes.masked_fill_(~self.alive, 0)


class Striping:
    """`Deciding`: the skeletons of a plan's layers, trained beside the detector.

    The detector always holds what convolves, W * I: so does its average, and so does every checkpoint. Around each
    step of the optimizer the weights W take its place, with the gradients that the product gives W and I.
    """

    def __init__(self, plan: Plan, *, strength: float, threshold: float, sparsity: float, until: float) -> None:
        """`sparsity`: a share of the weights that may be zero at most; the others see `Weights`."""
        self.strength, self.threshold, self.until = strength, threshold, until
        self.there = masks(plan)
        self.skeletons = {f"{name}.weight": Skeleton(self.there[f"{name}.weight"].float()) for name in plan.layers}
        for name, skeleton in self.skeletons.items():
            skeleton.alive &= self.there[name].any(1)
        self.size = {name: self.there[name].sum(1) for name in self.skeletons}  # weights of each stripe
        self.total = sum(self.there[name].numel() for name in self.skeletons)
        self.sparsity = sparsity
        self.weights: dict[str, Tensor] = {}  # W of the layers that are trained
        self.travelled = 0.0
        self.inside: set[str] = set()  # whose W stands in the detector

    @property
    def learned(self) -> list[nn.Parameter]:
        """The skeletons."""
        return [skeleton.stripes for skeleton in self.skeletons.values()]

    @torch.no_grad()
    def before_step(self, detector: nn.Module) -> None:
        """W into the detector, and gradients of W and I for the one there was of their product."""
        for name, skeleton in self.skeletons.items():
            parameter = detector.get_parameter(name)
            if parameter.grad is None:  # frozen
                continue
            weight = self.weights.setdefault(name, parameter.detach().clone())
            own, skeleton.stripes.grad = skeleton.gradients(weight, parameter.grad)
            parameter.grad.copy_(own)
            parameter.copy_(weight)
            self.inside.add(name)

    @torch.no_grad()
    def after_step(self, detector: nn.Module) -> None:
        """The product back into the detector."""
        for name in self.inside:
            self.weights[name].copy_(detector.get_parameter(name)).masked_fill_(~self.there[name], 0)
        self.inside.clear()
        self._multiply(detector)

    @torch.no_grad()
    def decide(self, detector: nn.Module, passed: float) -> None:
        """Pull by what is due, and let go what has come to the threshold, the least first, while there is room."""
        now = self.strength * min(passed / self.until, 1.0)
        amount, self.travelled = now - self.travelled, max(now, self.travelled)
        if amount > 0 and self.weights and (left := self._left()) > 0:
            self._pull(amount, left)
            self._multiply(detector)
        self(detector, passed)

    def _left(self) -> int:
        """Weights that may go yet."""
        left = sum(int(self.size[name][skeleton.alive].sum()) for name, skeleton in self.skeletons.items())
        return int(self.sparsity * self.total + 1e-9) - (self.total - left)

    def _pull(self, amount: float, left: int) -> None:
        """Move all, and let so many weights go; what comes to the threshold and may not go stays where it was."""
        some = {name: self.skeletons[name] for name in self.weights}
        moved = {name: skeleton.shrunk(amount) for name, skeleton in some.items()}
        falls = {name: skeleton.alive & (moved[name].abs() <= self.threshold) for name, skeleton in some.items()}
        may = {name: each.clone() for name, each in falls.items()}
        for name, skeleton in some.items():
            may[name][skeleton.dearest()] = False
        numbers = torch.cat([skeleton.stripes.detach().abs()[may[name]] for name, skeleton in some.items()])
        sizes = torch.cat([self.size[name][may[name]] for name in some])
        order, goes = numbers.argsort(stable=True), torch.zeros_like(numbers, dtype=torch.bool)
        goes[order] = sizes[order].cumsum(0) <= left
        parts = goes.split([int(each.sum()) for each in may.values()])
        for (name, skeleton), part in zip(some.items(), parts, strict=True):
            skeleton.alive[may[name]] = ~part
            skeleton.stripes.copy_(torch.where(falls[name], skeleton.stripes, moved[name]))
            skeleton.drop()

    def _multiply(self, detector: nn.Module) -> None:
        for name, weight in self.weights.items():
            self.skeletons[name].drop()  # an optimizer has moved them
            detector.get_parameter(name).copy_(self.skeletons[name](weight))

    @torch.no_grad()
    def __call__(self, module: nn.Module, passed: float) -> None:
        """Zero the stripes that have gone, and what was zero before."""
        for name, mask in self.there.items():
            if name in self.skeletons:
                mask = mask & self.skeletons[name].alive[:, None]
            weight = module.get_parameter(name)
            weight.masked_fill_(~mask.to(weight.device), 0)

    def state(self) -> dict[str, Any]:
        """Weights and skeletons apart, and how far these were pulled."""
        return {
            "travelled": self.travelled,
            "weights": {name: weight.clone().cpu() for name, weight in self.weights.items()},
            "skeletons": {
                name: {key: value.clone().cpu() for key, value in skeleton.state_dict().items()}
                for name, skeleton in self.skeletons.items()
            },
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.travelled, self.inside = state["travelled"], set()
        self.weights = {
            name: weight.to(self.there[name].device, copy=True) for name, weight in state["weights"].items()
        }
        for name, skeleton in self.skeletons.items():
            skeleton.load_state_dict(state["skeletons"][name])


def striped(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """What a convolution gives, by its stripes: a zero one costs nothing, and strides are taken before multiplying.

    Args:
        image: (B, C, H, W).
        conv: not in groups, padded with zeros.
    """
    kh, kw = cast(tuple[int, int], conv.kernel_size)
    (sy, sx), (dy, dx) = conv.stride, conv.dilation
    padded = F.pad(image, conv._reversed_padding_repeated_twice)
    high, wide = (
        (padded.shape[2 + i] - conv.dilation[i] * (conv.kernel_size[i] - 1) - 1) // conv.stride[i] for i in (0, 1)
    )
    out = image.new_zeros(len(image), conv.out_channels, high + 1, wide + 1)
    if conv.bias is not None:
        out += conv.bias[:, None, None]
    for m in range(kh):
        for k in range(kw):
            stripes = conv.weight[:, :, m, k]
            there = stripes.any(1)
            if there.any():
                y, x = m * dy, k * dx
                seen = padded[:, :, y : y + high * sy + 1 : sy, x : x + wide * sx + 1 : sx]
                out[:, there] += F.conv2d(seen, stripes[there][:, :, None, None])
    return out
