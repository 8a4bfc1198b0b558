"""Stripes by training: each filter learns which positions of its kernel it needs (Meng et al., arXiv:2009.14410).

The filter skeleton I (Co, kh, kw) begins at one and multiplies the weights, a stripe `W[o,:,m,k]` by one number.
Training pays alpha |I|_1 beside its loss; a stripe whose number falls to a threshold goes and never returns; in the end
I is multiplied into the weights. What is left runs as one 1x1 convolution a position, of the filters that have a stripe
there, shifted and summed.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Skeleton(nn.Module):
    """One convolution's skeleton. `torch.nn.utils.parametrize` puts it before the weights, and folds it in the end.

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

    @torch.no_grad()
    def pull(self, alpha: float) -> None:
        """Add the subgradient of alpha |I|_1 to the gradient: before each step of the optimizer, after any scaling."""
        sign = alpha * self.stripes.sign() * self.alive
        self.stripes.grad = sign if self.stripes.grad is None else self.stripes.grad + sign

    @torch.no_grad()
    def settle(self, threshold: float) -> int:
        """Let stripes go at |I| <= threshold: after each step of the optimizer. How many are left."""
        self.alive &= self.stripes.abs() > threshold
        self.stripes.masked_fill_(~self.alive, 0)
        return int(self.alive.sum())


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
