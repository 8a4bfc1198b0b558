"""Take channels out of a copy of the detector, and prove that nothing else changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels.groups import FIXED, Ints, Trace
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

Network = TypeVar("Network", bound=nn.Module)


def cut(detector: Network, trace: Trace, kept: np.ndarray) -> Network:
    """A new detector without the channels that `kept` (bool, one per channel of the trace) leaves out.

    The input is left alone; parameters keep their dtype, device and `requires_grad`.
    """
    sliced: dict[int, Any] = {}  # id of a tensor -> what replaces it in the copy; the rest is copied as it is
    shapes: dict[str, dict[str, int]] = {}  # layer -> the attributes that state its width
    for conv in trace.convs.values():
        layer = conv.layer(detector)
        out, into = stays(conv.outputs, kept), stays(conv.inputs, kept)
        shapes[conv.name] = {"out_channels": len(out), "in_channels": len(into)}
        if conv.depthwise:
            shapes[conv.name]["groups"] = len(out)
        if len(out) == layer.out_channels and len(into) == layer.in_channels:
            continue
        sliced[id(layer.weight)] = _slice(layer.weight, out, None if conv.depthwise else into)
        if layer.bias is not None:
            sliced[id(layer.bias)] = _slice(layer.bias, out)
    for norm in trace.norms.values():
        scaling, stay = norm.layer(detector), stays(norm.channels, kept)
        shapes[norm.name] = {"num_features": len(stay)}
        if len(stay) < scaling.num_features:
            for tensor in (scaling.weight, scaling.bias, scaling.running_mean, scaling.running_var):
                if tensor is not None:
                    sliced[id(tensor)] = _slice(tensor, stay)
    return rebuilt(detector, trace, sliced, shapes, lambda slots: stays(slots, kept))


def rebuilt(
    detector: Network,
    trace: Trace,
    instead: dict[int, Any],
    shapes: dict[str, dict[str, int]],
    left: Callable[[Ints], Ints],
) -> Network:
    """A copy with other tensors, whose layers state the widths that these have.

    Args:
        detector: left alone.
        trace: of it.
        instead: id of a tensor -> what takes its place; the others are copied.
        shapes: layer -> the attributes that state its width.
        left: from slots, each a channel or FIXED, to those that there are then.
    """
    for name, width in trace.chunks.items():
        # A module that chunks may remember the width of a part as `c` for code that export swaps in.
        if getattr(detector.get_submodule(name), "c", None) == width:
            shapes = {**shapes, name: {"c": _part_width(trace, name, left, width)}}
    built = duplicate(detector, instead)
    for name, attributes in shapes.items():
        for key, value in attributes.items():
            setattr(built.get_submodule(name), key, value)
    return built


def stays(slots: Ints, kept: np.ndarray) -> Ints:
    """Which of the slots, each a channel or FIXED, are there after a cut: their indices."""
    return np.flatnonzero((slots == FIXED) | kept[slots])


def _slice(tensor: Tensor, out: Ints, into: Ints | None = None) -> Tensor:
    if tensor.is_meta:  # there, indexing is slow Python
        shape = [len(out), *tensor.shape[1:]] if into is None else [len(out), len(into), *tensor.shape[2:]]
        value = torch.empty(shape, dtype=tensor.dtype, device="meta")
    else:
        value = tensor.detach()[torch.as_tensor(out, device=tensor.device)]
        if into is not None and len(into) < value.shape[1]:
            value = value[:, torch.as_tensor(into, device=tensor.device)]
    return nn.Parameter(value, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _part_width(trace: Trace, name: str, left: Callable[[Ints], Ints], width: int) -> int:
    """What one part comes to: its channels occupy some convolution below `name` once per part."""
    for conv in trace.convs.values():
        if conv.name.startswith(f"{name}.") and len(conv.outputs) % width == 0 and len(conv.outputs) > width:
            return len(left(conv.outputs[:width]))
    return width


@torch.no_grad()
def widened(slim: nn.Module, detector: Network, trace: Trace, kept: np.ndarray) -> Network:
    """`cut` undone: a copy of the detector at full width in which all that stays has the values that it has in `slim`.

    What goes is as it was, the weights that read it included.
    """
    whole = duplicate(detector)
    for conv in trace.convs.values():
        layer, narrow = conv.layer(whole), conv.layer(slim)
        out, into = (torch.as_tensor(stays(slots, kept)) for slots in (conv.outputs, conv.inputs))
        if conv.groups == 1:
            layer.weight[out[:, None], into] = narrow.weight
        else:  # depthwise, or in groups, which lose no inputs
            layer.weight[out] = narrow.weight
        if layer.bias is not None and narrow.bias is not None:
            layer.bias[out] = narrow.bias
    for norm in trace.norms.values():
        wide, left, stay = norm.layer(whole), norm.layer(slim), stays(norm.channels, kept)
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(wide, name) is not None:
                getattr(wide, name)[torch.as_tensor(stay)] = getattr(left, name)
    return whole


def masked(detector: Network, trace: Trace, kept: np.ndarray) -> Network:
    """A copy at full width in which the channels to be removed are silenced: scale and shift set to zero.

    Every activation a trace passes channels through has f(0) = 0, so the removed channels carry zeros wherever they
    go, and the cut detector must give the same output. Producers without a batch norm lose weight and bias instead.
    """
    silent = duplicate(detector)
    with torch.no_grad():
        for norm in trace.norms.values():
            scaling, gone = norm.layer(silent), _gone(norm.channels, kept)
            for tensor in (scaling.weight, scaling.bias) if scaling.weight is not None else (scaling.running_mean,):
                if tensor is not None:
                    tensor[gone] = 0
        for conv in trace.convs.values():
            layer, gone = conv.layer(silent), _gone(conv.outputs, kept)
            layer.weight[gone] = 0
            if layer.bias is not None:
                layer.bias[gone] = 0
    return silent


def _gone(slots: Ints, kept: np.ndarray) -> Tensor:
    return torch.as_tensor(np.flatnonzero((slots != FIXED) & ~kept[slots]))


def voices(detector: nn.Module, trace: Trace) -> dict[str, Ints]:
    """Tensors that are enough to silence a channel: name -> the channel (or FIXED) of each entry of its first axis.

    Scale and shift of the batch norms it passes; weight and bias of a convolution that no such norm reads. A channel
    that is zero in all of them carries zeros, for the reason given at `masked`; only where something else reads what a
    convolution hands its batch norm (nothing in YOLO does) is it heard there.
    """
    found: dict[str, Ints] = {}
    scaled = set()
    for norm in trace.norms.values():
        if norm.affine:
            found |= {f"{norm.name}.weight": norm.channels, f"{norm.name}.bias": norm.channels}
            scaled.add(norm.name)
        else:  # with its convolution silent, the running mean is all it adds
            found[f"{norm.name}.running_mean"] = norm.channels
    for conv in trace.convs.values():
        if conv.norm not in scaled:
            found[f"{conv.name}.weight"] = conv.outputs
            if conv.bias:
                found[f"{conv.name}.bias"] = conv.outputs
    state = detector.state_dict()
    return {name: channels for name, channels in found.items() if name in state}


def silent(detector: nn.Module, trace: Trace, kept: np.ndarray) -> bool:
    """Whether every channel that `kept` leaves out is zero in all of its `voices`: the cut then changes nothing."""
    state = detector.state_dict()
    return not any(bool(state[name][_gone(c, kept)].any()) for name, c in voices(detector, trace).items())


@torch.no_grad()
def relative_difference(a: nn.Module, b: nn.Module, image: Tensor) -> float:
    """Largest difference between the outputs of two detectors, each output relative to its own largest value.

    Both run in eval mode on `image` (B, C, H, W). Maps that a detector returns beside its predictions may differ in
    width, and are then left out; predictions may not.

    Raises:
        SlimError: no output of the two has the same shape.
    """
    outputs = []
    for detector in (a, b):
        with evaluating(detector):
            outputs.append(list(tensors(detector(image))))
    pairs = [(x, y) for x, y in zip(*outputs, strict=False) if x.shape == y.shape and x.is_floating_point()]
    if not pairs or len(outputs[0]) != len(outputs[1]) or outputs[0][0].shape != outputs[1][0].shape:
        shapes = [tuple(o[0].shape) for o in outputs]
        raise SlimError(f"expected two detectors with the same predictions, got outputs of shape {shapes}")
    # Tensor by tensor: boxes in pixels must not hide an error in probabilities.
    gaps = [float((x - y).abs().max()) / (float(x.abs().max()) or 1.0) for x, y in pairs]
    return max(gaps) if all(g == g for g in gaps) else float("inf")  # not a number is never close


@contextmanager
def evaluating(detector: nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards every module is in the mode it was in."""
    training = [m for m in detector.modules() if m.training]
    detector.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in a nest of dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        yield tree
    else:
        for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ():
            yield from tensors(value)
