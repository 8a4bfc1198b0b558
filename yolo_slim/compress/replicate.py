"""Say channels several times over, and put blocks in that add nothing yet: the detector gives what it gave.

Net2Net: Chen, Goodfellow & Shlens, ICLR 2016, arXiv:1511.05641.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Block, Trace
from yolo_slim.channels.groups import FIXED, Conv, Ints
from yolo_slim.channels.surgery import rebuilt
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

TIGHT = 1e-9


def sources(slots: Ints, times: Ints) -> Ints:
    """Of each slot afterwards, which it was: copies stand beside what they are copies of, in every layer alike.

    Args:
        slots: (n,) channel numbers or FIXED.
        times: how often each channel will be there, (n_channels,).
    """
    return np.repeat(np.arange(len(slots)), np.where(slots == FIXED, 1, times[slots]))


def times_of(trace: Trace, outputs: Mapping[str, Sequence[int]]) -> Ints:
    """How often each channel will be there, (n_channels,).

    Args:
        trace: of the detector before.
        outputs: convolution -> of each output afterwards, which it was; those alone whose outputs become more.

    Raises:
        SlimError: they are of another detector.
    """
    times = np.ones(trace.n_channels, np.int64)
    for name, took in outputs.items():
        slots = trace.convs[name].outputs if name in trace.convs else np.empty(0, np.int64)
        count = np.bincount(np.asarray(took, np.int64), minlength=len(slots))
        if len(count) != len(slots) or (count < 1).any() or (count[slots == FIXED] > 1).any():
            raise SlimError(f"the plan to grow is of another detector: {name} is not there, or has other channels")
        times[slots[slots != FIXED]] = count[slots != FIXED]
    for name, conv in trace.convs.items():  # tied layers agree, and none is left out
        if not np.array_equal(sources(conv.outputs, times), outputs.get(name, np.arange(len(conv.outputs)))):
            raise SlimError(f"the plan to grow is of another detector: {name} would have other channels")
    return times


def widen(detector: nn.Module, trace: Trace, times: Ints, spread: float) -> nn.Module:
    """A new detector in which each channel is there `times` times; the one given is left alone.

    Whatever makes or passes a channel makes and passes its copies: rows of weights, biases, batch norms with their
    statistics. Whatever reads it reads all of them, its weight shared out among them (section 2.2: each gets 1/times).
    Copies that were read alike would get the same gradients for ever; shares that differ from row to row tell them
    apart, and add up to the same. The paper adds noise to the weights for it, which changes what the detector gives.

    Args:
        detector: as it was traced.
        trace: of it.
        times: how often each channel will be there, (n_channels,), from 1 on.
        spread: how far shares may be from 1/times, as a share of that: 0, all alike, to below 1.
    """
    grown: dict[int, Any] = {}  # id of a tensor -> what replaces it in the copy
    shapes: dict[str, dict[str, int]] = {}
    for conv in trace.convs.values():
        out, into = sources(conv.outputs, times), sources(conv.inputs, times)
        if len(out) == len(conv.outputs) and len(into) == len(conv.inputs):
            continue
        layer = conv.layer(detector)
        shapes[conv.name] = {"out_channels": len(out), "in_channels": len(into)}
        if conv.depthwise:
            shapes[conv.name]["groups"] = len(out)
        grown[id(layer.weight)] = _like(layer.weight, _weight(layer.weight.detach(), conv, out, into, spread))
        if layer.bias is not None:
            grown[id(layer.bias)] = _like(layer.bias, layer.bias.detach()[torch.as_tensor(out)])
    for norm in trace.norms.values():
        scaling, at = norm.layer(detector), sources(norm.channels, times)
        if len(at) == scaling.num_features:
            continue
        shapes[norm.name] = {"num_features": len(at)}
        for tensor in (scaling.weight, scaling.bias, scaling.running_mean, scaling.running_var):
            if tensor is not None:
                grown[id(tensor)] = _like(tensor, tensor.detach()[torch.as_tensor(at)])
    return rebuilt(detector, trace, grown, shapes, lambda slots: sources(slots, times))


def _weight(weight: Tensor, conv: Conv, out: Ints, into: Ints, spread: float) -> Tensor:
    """(Co', Ci', kh, kw) of (Co, Ci, kh, kw), or of a depthwise convolution's (C, 1, kh, kw)."""
    rows = weight[torch.as_tensor(out)]
    if conv.depthwise or len(into) == len(conv.inputs):
        return rows
    which = torch.as_tensor(into)
    draw = torch.Generator().manual_seed(zlib.crc32(conv.name.encode()))
    raw = 1 + spread * (2 * torch.rand(len(out), len(into), generator=draw, dtype=torch.float64) - 1)
    total = torch.zeros(len(out), len(conv.inputs), dtype=torch.float64).index_add_(1, which, raw)
    share = (raw / total[:, which]).to(weight.device)  # exactly 1 where there is one copy
    return (rows[:, which].double() * share[:, :, None, None]).to(weight.dtype)


def _like(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def deepen(detector: nn.Module, trace: Trace, names: Iterable[str]) -> nn.Module:
    """A new detector in which a copy of itself follows each of these residual branches, and adds nothing yet.

    Under SiLU no layer is the identity (the paper's Net2DeeperNet needs act(act(x)) = act(x), as ReLU has it), but
    x + f(x) is one where f ends in a batch norm whose scale and shift are zero.

    Raises:
        SlimError: the name of what is no such branch, or cannot be silenced.
    """
    twins: dict[str, nn.Module] = {}
    for name in names:
        if name not in trace.blocks:
            raise SlimError(
                f"grow.deeper: {name} is no residual branch, x + f(x), of this detector: behind another layer nothing "
                f"can be put that changes nothing, for no layer under SiLU is the identity; expected some of: "
                f"{', '.join(trace.blocks) or 'none, it has no such branch'}"
            )
        twins[name] = _silenced(detector.get_submodule(name), trace.blocks[name], trace)
    deep = duplicate(detector)
    for name, twin in twins.items():
        holder, _, last = name.rpartition(".")
        module = deep.get_submodule(name)
        pair = nn.Sequential(module, twin)
        for key, value in vars(module).items():  # what Ultralytics notes on a layer: its number, where its input is
            if not key.startswith("_") and isinstance(value, (int, float, str, list, tuple)):
                setattr(pair, key, copy.copy(value))
        setattr(deep.get_submodule(holder), last, pair)
    return deep


@torch.no_grad()
def _silenced(module: nn.Module, block: Block, trace: Trace) -> nn.Module:
    """A copy that gives what it gets. Tried, not derived: what follows the last convolutions is any code.

    Raises:
        SlimError: it does not.
    """
    twin = duplicate(module)
    for name in block.ends:
        end = trace.convs[name].norm or name
        for tensor in twin.get_submodule(end[len(block.name) + 1 :]).parameters():
            tensor.zero_()
    width = len(trace.convs[block.ends[-1]].outputs) if block.ends else 0
    tried = duplicate(twin).double().eval()
    x = torch.rand(2, width, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    x = x.to(next(module.parameters()).device)
    if not block.ends or not torch.allclose(tried(x), x, rtol=0, atol=TIGHT):
        raise SlimError(f"grow.deeper: {block.name} cannot be silenced: it does not end in batch norms alone")
    return twin
