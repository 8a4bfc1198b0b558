"""Give a removed channel's constant to the layers that read it, before it is gone.

A removed channel was not zero but, about, a constant. Its share of a consumer q, delta = sum_j c_qj * sum_uv W_q[:, j],
goes into the consumer's bias or the mean of the batch norm behind it (Ye et al. 2018, arXiv:1802.00124). Exact through
1x1 convolutions, pooling, upsampling and concatenation; inside a zero-padded k x k it is off at the border.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels.groups import FIXED, Trace
from yolo_slim.channels.surgery import evaluating


@torch.no_grad()
def input_means(detector: nn.Module, trace: Trace, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Mean of every convolution's input, per channel: convolution -> (in_channels,) fp32, over images and positions.

    What a consumer sees at its own input: along a residual stage that is the partial sum up to there.

    Args:
        detector: runs in eval mode.
        trace: names the convolutions.
        batches: images (B, C, H, W).
    """
    sums: dict[str, Tensor] = {}
    seen: dict[str, int] = {}

    def watch(name: str) -> object:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            total = args[0].float().mean((2, 3)).sum(0)
            sums[name] = sums[name] + total if name in sums else total
            seen[name] = seen.get(name, 0) + len(args[0])

        return hook

    handles = [detector.get_submodule(n).register_forward_pre_hook(watch(n)) for n in trace.convs]  # type: ignore[arg-type]
    try:
        with evaluating(detector):
            for batch in batches:
                detector(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / seen[name] for name, total in sums.items()}


def silenced(detector: nn.Module, trace: Trace, kept: np.ndarray) -> nn.Module:
    """A copy in which the scales of removed channels are zero and their shifts are not: each carries act(beta)."""
    flat = copy.deepcopy(detector)
    with torch.no_grad():
        for norm in trace.norms.values():
            layer = flat.get_submodule(norm.name)
            if layer.weight is not None:
                layer.weight[torch.as_tensor((norm.channels != FIXED) & ~kept[norm.channels])] = 0
    return flat


@torch.no_grad()
def absorb(slim: nn.Module, detector: nn.Module, trace: Trace, kept: np.ndarray, means: dict[str, Tensor]) -> nn.Module:
    """A copy of `slim` whose biases and running means carry what the removed channels contributed.

    Args:
        slim: `detector` after the cut.
        detector: at full width; its weights say what the removed inputs were multiplied with.
        trace: of `detector`.
        kept: bool per channel.
        means: from `input_means`, the constant of each input channel of each convolution.
    """
    healed = copy.deepcopy(slim)
    for conv in trace.convs.values():
        gone = (conv.inputs != FIXED) & ~kept[conv.inputs]
        if conv.depthwise or not gone.any() or conv.name not in means:
            continue
        weight = detector.get_submodule(conv.name).weight.detach().float().sum((2, 3))  # [Co, Ci]
        constant = means[conv.name].to(weight.device) * torch.as_tensor(gone, device=weight.device)
        stay = torch.as_tensor((conv.outputs == FIXED) | kept[conv.outputs], device=weight.device)
        delta = (weight @ constant)[stay]
        layer = healed.get_submodule(conv.name)
        if layer.bias is not None:
            layer.bias += delta.to(layer.bias.dtype)
        elif conv.norm is not None:
            norm = healed.get_submodule(conv.norm)
            norm.running_mean -= delta.to(norm.running_mean.dtype)
    return healed
