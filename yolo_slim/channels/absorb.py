"""Give a removed channel's constant to the layers that read it, before it is gone.

A removed channel was not zero but, about, a constant. Its share of a consumer q, delta = sum_j c_qj * sum_uv W_q[:, j],
goes into the consumer's bias or the mean of the batch norm behind it (Ye et al. 2018, arXiv:1802.00124). Exact through
1x1 convolutions, pooling, upsampling and concatenation; inside a zero-padded k x k it is off at the border.

The same for a residual branch that is taken out whole: x + f(x) becomes x, and its readers miss the mean of f(x).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from yolo_slim.channels.groups import FIXED, Conv, Trace
from yolo_slim.channels.hooks import hooked
from yolo_slim.channels.surgery import evaluating
from yolo_slim.mould import duplicate


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

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            total = args[0].float().mean((2, 3)).sum(0)
            sums[name] = sums[name] + total if name in sums else total
            seen[name] = seen.get(name, 0) + len(args[0])

        return hook

    with _hooked(detector, trace.convs, watch):
        for batch in batches:
            detector(batch)
    return {name: total / seen[name] for name, total in sums.items()}


@torch.no_grad()
def missing_means(
    before: nn.Module, after: nn.Module, readers: Iterable[Conv], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """What these convolutions miss at their input, per channel, since `before` became `after`: (in_channels,) fp32.

    The mean over images and positions in `before` less that in `after`, front to back in one pass: what a reader
    misses is handed to it on the spot, so those behind it see what they will see once it is absorbed, and miss only
    what is not made up for yet. (Of two plain measurements, subtracted, an error would be corrected anew by every
    reader that it reaches.)

    Args:
        before: with its residual branches.
        after: without some of them.
        readers: of what the branches added, in `after`; only what can be absorbed is measured.
        batches: images (B, C, H, W).
    """
    names = [c.name for c in readers if c.bias or c.norm is not None]
    wanted: dict[str, list[Tensor]] = {}  # of one batch, call by call
    sums: dict[str, Tensor] = {}
    seen: dict[str, int] = {}

    def watch(name: str) -> Callable:
        return lambda module, args: wanted.setdefault(name, []).append(args[0].float().mean((0, 2, 3)))

    def give(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            gap = wanted[name].pop(0) - args[0].float().mean((0, 2, 3))
            sums[name] = sums.get(name, 0) + gap * len(args[0])
            seen[name] = seen.get(name, 0) + len(args[0])
            return (args[0] + gap.to(args[0].dtype)[:, None, None],)

        return hook

    with _hooked(before, names, watch), _hooked(after, names, give):
        for batch in batches:
            before(batch)
            after(batch)
    return {name: total / seen[name] for name, total in sums.items()}


@contextmanager
def _hooked(detector: nn.Module, names: Iterable[str], make: Callable[[str], Callable]) -> Iterator[None]:
    """Eval mode, with a hook in front of each of these convolutions, for a while."""
    with hooked(detector.get_submodule(n).register_forward_pre_hook(make(n)) for n in names), evaluating(detector):
        yield


def silenced(detector: nn.Module, trace: Trace, kept: np.ndarray) -> nn.Module:
    """A copy in which removed channels are constant: the scales are zero, their shifts are not, each carries act(beta).

    Where a filter is zero, as soft pruning leaves it, its channel is constant as it is, act(beta - gamma mu / sigma).
    """
    flat = duplicate(detector)
    makers = {conv.norm: conv.layer(flat) for conv in trace.convs.values() if conv.norm is not None}
    with torch.no_grad():
        for norm in trace.norms.values():
            layer = norm.layer(flat)
            if layer.weight is None:
                continue
            gone = torch.as_tensor((norm.channels != FIXED) & ~kept[norm.channels], device=layer.weight.device)
            if norm.name in makers:
                gone &= makers[norm.name].weight.flatten(1).any(1)
            layer.weight[gone] = 0
    return flat


def flattened(detector: nn.Module, trace: Trace, names: Iterable[str]) -> nn.Module:
    """A copy in which these residual branches say the same whatever comes in: the scales at their ends are zero."""
    flat = duplicate(detector)
    with torch.no_grad():
        for end in (e for name in names for e in trace.blocks[name].ends):
            norm = trace.convs[end].norm
            scale = trace.norms[norm].layer(flat).weight if norm else None
            (trace.convs[end].layer(flat).weight if scale is None else scale).zero_()
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
    healed = duplicate(slim)
    for conv in trace.convs.values():
        gone = (conv.inputs != FIXED) & ~kept[conv.inputs]
        if conv.depthwise or not gone.any() or conv.name not in means:
            continue
        weight = conv.layer(detector).weight.detach().float().sum((2, 3))  # [Co, Ci]
        constant = means[conv.name].to(weight.device) * torch.as_tensor(gone, device=weight.device)
        stay = torch.as_tensor((conv.outputs == FIXED) | kept[conv.outputs], device=weight.device)
        _carry(healed, trace, conv, (weight @ constant)[stay])
    return healed


@torch.no_grad()
def absorb_missing(detector: nn.Module, trace: Trace, means: dict[str, Tensor]) -> nn.Module:
    """A copy whose biases and running means carry what its readers miss.

    Args:
        detector: after residual branches were taken out.
        trace: of `detector`.
        means: from `missing_means`.
    """
    healed = duplicate(detector)
    for name, mean in means.items():
        conv = trace.convs[name]
        weight = conv.layer(detector).weight.detach().float().sum((2, 3), keepdim=True)  # [Co, Ci/groups, 1, 1]
        constant = mean.to(weight.device)[:, None, None]
        _carry(healed, trace, conv, conv2d(constant, weight, groups=conv.groups).flatten())
    return healed


def _carry(healed: nn.Module, trace: Trace, conv: Conv, delta: Tensor) -> None:
    """Add a constant (Co,) to what a convolution puts out, where there is a place to keep it."""
    layer = conv.layer(healed)
    if layer.bias is not None:
        layer.bias += delta.to(layer.bias.dtype)
    elif conv.norm is not None:
        norm = trace.norms[conv.norm].layer(healed)
        norm.running_mean -= delta.to(norm.running_mean.dtype)
