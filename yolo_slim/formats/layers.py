"""Layers whose numbers agree: what a layer says of itself, and the shape of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from yolo_slim.errors import SlimError
from yolo_slim.formats.modules import called
from yolo_slim.formats.plain import are_whole, is_number, is_whole

WIDEST = 1 << 20
"""Channels."""


def check_layers(detector: nn.Module) -> None:
    """Refuse layers whose widths, kernels or statistics are not those of their weights, and weights of other kinds.

    Raises:
        SlimError: the layer's dotted name, what it says, and what it has.
    """
    for name, module in detector.named_modules():
        for kind, check in CHECKS.items():
            if isinstance(module, kind):
                check(called(name), module)
    for name, parameter in detector.named_parameters():
        if not parameter.is_floating_point():
            raise SlimError(f"has weights in {name} that are {_kind(parameter)}: expected floating-point numbers")


def check_finite(detector: nn.Module) -> None:
    """Refuse a detector with numbers that are none, and with variances below zero.

    Raises:
        SlimError: the tensor's dotted name.
    """
    for name, tensor in detector.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if torch.isfinite(tensor.sum()):
            continue  # what is not finite makes its sum so; a sum alone can be too large
        if bad := int((~torch.isfinite(tensor)).sum()):
            raise SlimError(
                f"holds NaN or infinity in {name} ({bad} of {tensor.numel()} numbers): what it detects cannot be "
                "trusted. Use an earlier checkpoint of this training"
            )
    for name, tensor in detector.named_buffers():
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise SlimError(f"holds a variance below zero in {name}: no batch norm has one")


def clamp_overflow(detector: nn.Module) -> None:
    """A running variance that fp16 could not hold, as Ultralytics leaves it: its largest number, as `save` has it."""
    for name, tensor in detector.named_buffers():
        if name.endswith("running_var") and tensor.dtype == torch.float16:
            tensor.clamp_(max=torch.finfo(torch.float16).max)


def _kind(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Any) -> tuple[int, ...] | None:
    return tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else None


def _says(module: nn.Module, name: str) -> Any:
    """A layer's value; None where it lacks it."""
    return getattr(module, name, None)


def _wants(fits: bool, place: str, module: nn.Module, what: str) -> None:
    if not fits:
        raise SlimError(f"is no sound detector: {place} ({type(module).__name__}) {what}")


def _conv(place: str, conv: nn.Module) -> None:
    into, out, groups = (_says(conv, name) for name in ("in_channels", "out_channels", "groups"))
    whole = all(is_whole(n, 1, WIDEST) for n in (into, out, groups))
    fits = whole and into % groups == out % groups == 0
    said = f"from {into!r:.20} to {out!r:.20} channels in {groups!r:.20} groups"
    _wants(fits, place, conv, f"is {said}")
    kernel, stride, dilation = (_says(conv, name) for name in ("kernel_size", "stride", "dilation"))
    for name, value in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        _wants(type(value) is tuple and are_whole(value, 1, 4096), place, conv, f"has {name} {value!r}")
    padding, mode = _says(conv, "padding"), _says(conv, "padding_mode")
    _wants(padding in ("same", "valid") or are_whole(padding, 0, 65536), place, conv, f"has padding {padding!r}")
    _wants(mode in ("zeros", "reflect", "replicate", "circular"), place, conv, f"has padding_mode {mode!r}")
    pairs = (into, out // groups) if _says(conv, "transposed") is True else (out, into // groups)
    expected, found = (*pairs, *kernel), _shape(_says(conv, "weight"))
    _wants(expected == found, place, conv, f"has weights of shape {found}, expected {expected}")
    bias = _says(conv, "bias")
    _wants(
        bias is None or _shape(bias) == (out,), place, conv, f"has biases of shape {_shape(bias)}, expected {(out,)}"
    )


def _norm(place: str, norm: nn.Module) -> None:
    width, eps, momentum = (_says(norm, name) for name in ("num_features", "eps", "momentum"))
    _wants(is_whole(width, 1, WIDEST), place, norm, f"has num_features {width!r}")
    _wants(is_number(eps) and 0 < eps < 1, place, norm, f"has eps {eps!r}")
    _wants(momentum is None or (is_number(momentum) and 0 <= momentum <= 1), place, norm, f"has momentum {momentum!r}")
    for name in ("affine", "track_running_stats"):
        _wants(type(_says(norm, name)) is bool, place, norm, f"has {name} {_says(norm, name)!r}")
    _wants(_says(norm, "track_running_stats"), place, norm, "has no statistics, so what it does changes with the image")
    for name in ("running_mean", "running_var", *(("weight", "bias") if norm.affine else ())):
        shape = _shape(_says(norm, name))
        _wants(shape == (width,), place, norm, f"has {name} of shape {shape}, expected {(width,)}")


def _instance(place: str, norm: nn.Module) -> None:
    raise SlimError(
        f"normalises by image: {place} is a {type(norm).__name__}. Only detectors with batch norm are slimmed"
    )


def _linear(place: str, layer: nn.Module) -> None:
    expected = (_says(layer, "out_features"), _says(layer, "in_features"))
    _wants(expected == _shape(_says(layer, "weight")), place, layer, f"has other weights than {expected}")


CHECKS: Mapping[type, Callable[[str, Any], None]] = {
    _ConvNd: _conv,
    _InstanceNorm: _instance,
    _BatchNorm: _norm,
    nn.Linear: _linear,
}
"""Of each kind of layer, what has to agree."""
