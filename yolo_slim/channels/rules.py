"""What each operator does to channels: the law, one operator at a time.

A rule gets the tracer, the outcome, and the operator's arguments, and gives labels to the outcome. False means: not
understood, so the tracer keeps every channel that went in. Only operators in `RULES` pass channels on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from yolo_slim.channels.groups import FIXED, Conv, Ints, Norm
from yolo_slim.channels.surgery import tensors

if TYPE_CHECKING:
    from yolo_slim.channels.trace import Tracer

Labels = tuple[int, Ints]  # (the dimension that holds channels, one label per index of it)
Rule = Callable[["Tracer", Any, tuple, dict], "bool | None"]


def shape_of(op: Any, args: tuple) -> Any:
    """The outcome of operators whose meta kernels are slow Python decompositions: there, only the shape matters.

    (They also import torch's compiler when first called, which takes longer than all of a trace.) Shapes that do not
    fit raise, as the operator itself would: the law is tried by running narrowed detectors.
    """
    if op in NORMS:
        _fits(op, args[1] is None or args[1].shape[0] == args[0].shape[1], args[0], args[1])
        return _like(args[0]), None, None
    if op is aten.convolution and not args[6] and args[0].dim() == 4:
        image, weight, _, stride, padding, dilation, _, _, groups = args
        _fits(op, image.shape[1] == weight.shape[1] * groups, image, weight)
        hw = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(image.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        ]
        _fits(op, min(hw) > 0, image, weight)
        return torch.empty(image.shape[0], weight.shape[0], *hw, device="meta")
    if op in SAME_SHAPE and args[0].is_meta and args[0].is_floating_point():
        return _like(args[0])
    if op in IN_PLACE and args[0].is_meta:
        return args[0]
    if op in ARITHMETIC and any(isinstance(a, Tensor) and a.is_meta for a in args[:2]):
        dtype = torch.result_type(args[0], args[1])
        if op is aten.div and not dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        shape = torch.broadcast_shapes(*(a.shape for a in args[:2] if isinstance(a, Tensor)))
        return torch.empty(shape, dtype=dtype, device="meta")
    if op in (aten.cat, aten.stack) and len({p.dim() for p in args[0]}) == 1:
        first, dim = args[0][0], args[1] if len(args) > 1 else 0
        shape = list(first.shape)
        if op is aten.stack:
            dim %= len(shape) + 1
            _fits(op, all(p.shape == first.shape for p in args[0]), *args[0])
            shape.insert(dim, len(args[0]))
        else:
            dim %= len(shape)
            others = [[n for i, n in enumerate(p.shape) if i != dim] for p in args[0]]
            _fits(op, all(o == others[0] for o in others), *args[0])
            shape[dim] = sum(p.shape[dim] for p in args[0])
        return torch.empty(shape, dtype=first.dtype, device="meta")
    return None


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _fits(op: Any, yes: bool, *operands: Tensor) -> None:
    if not yes:
        shapes = ", ".join(str(tuple(t.shape)) for t in operands)
        raise RuntimeError(f"{op.__name__} of tensors that do not fit: {shapes}")


def convolution(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> None:
    image, weight = args[0], args[1]
    transposed, groups = args[6], args[8]
    labels = t.labels(image)
    known = t.weights.get(id(weight))
    if known is None or transposed or (labels and labels[0] != 1):
        t.protect([image], f"{'transposed' if transposed else 'functional'} convolution in {t.where()}")
        return
    name, module = known
    t.read_by_conv[id(image)] = image
    inputs = labels[1] if labels else np.full(image.shape[1], FIXED)
    before = t.convs.get(name)
    if before is not None:
        t.tie(before.inputs, inputs)  # the same weights read both: slot by slot the same variable
        outputs, positions = before.outputs, before.positions
    else:
        depthwise = groups > 1 and groups == module.in_channels == module.out_channels
        outputs, positions = inputs if depthwise else t.fresh(module.out_channels), 0
        if groups > 1 and not depthwise:
            t.protect([image], f"grouped convolution {name}")
            t.protected.append((outputs, f"grouped convolution {name}"))
    if t.count_positions:
        positions += out.shape[-2] * out.shape[-1]
    kernel = weight.shape[2] * weight.shape[3]
    norm = before.norm if before else None
    t.convs[name] = Conv(name, inputs, outputs, kernel, positions, groups, args[2] is not None, norm)
    t.give(out, (1, outputs))
    t.maker[id(out)] = name


def _batch_norm(t: Tracer, out: tuple, args: tuple, kwargs: dict) -> bool | None:
    labels = t.labels(args[0])
    assert labels is not None
    name = next((t.scales[id(a)] for a in (args[1], args[3]) if id(a) in t.scales), None)
    if labels[0] != 1 or (name is None and args[1] is not None):
        return False
    if name is not None:
        before = t.norms.get(name)
        if before is not None:
            t.tie(before.channels, labels[1])
        positions = before.positions if before else 0
        positions += int(np.prod(args[0].shape[2:])) if t.count_positions else 0
        t.norms[name] = Norm(name, labels[1], positions, args[1] is not None)
        if (maker := t.maker.get(id(args[0]))) is not None:
            c = t.convs[maker]
            t.convs[maker] = Conv(c.name, c.inputs, c.outputs, c.kernel, c.positions, c.groups, c.bias, name)
    t.give(out[0], labels)
    return None


def _pass_on(t: Tracer, out: Any, args: tuple, kwargs: dict) -> bool | None:
    """Elementwise with f(0) = 0, or window by window: a channel stays the channel it was."""
    labels = t.labels(args[0])
    if labels is None:
        return False
    passed = [o for o in tensors(out) if o.dim() > labels[0] and o.shape[labels[0]] == len(labels[1])]
    for tensor in passed:
        t.give(tensor, labels)
        t.maker.pop(id(tensor), None)  # in place: no longer what the convolution made
    return None if passed else False


def _window(t: Tracer, out: Any, args: tuple, kwargs: dict) -> bool | None:
    """Works on the last two dimensions: a channel stays the channel it was unless channels are among them."""
    labels = t.labels(args[0])
    return False if labels is None or labels[0] >= args[0].dim() - 2 else _pass_on(t, out, args, kwargs)


def _pad(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    labels, pad = t.labels(args[0]), args[1]
    value = args[2] if len(args) > 2 else kwargs.get("value", 0)
    if labels is None or value != 0 or len(pad) // 2 > args[0].dim() - 1 - labels[0]:
        return False
    return _pass_on(t, out, args, kwargs)


def _cat(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    parts = args[0]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    known = [t.labels(p) for p in parts]
    if len({k[0] for k in known if k}) != 1:
        return False
    (channel_dim,) = {k[0] for k in known if k}
    if dim == channel_dim:
        ids = [k[1] if k else np.full(p.shape[dim], FIXED) for k, p in zip(known, parts, strict=True)]
        t.give(out, (dim, np.concatenate(ids)))
        return None
    first, *others = (k for k in known if k)
    if len(others) + 1 < len(known):
        return False
    for other in others:
        t.tie(first[1], other[1])
    t.give(out, first)
    return None


def _add(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    if not isinstance(args[1], Tensor) and args[1] == 0:  # f(0) = 0 still
        return _pass_on(t, out, args, kwargs)
    a, b = t.labels(args[0]), t.labels(args[1])
    if a is None or b is None or a[0] != b[0] or args[0].dim() != args[1].dim() or len(a[1]) != len(b[1]):
        return False
    t.tie(a[1], b[1])
    t.give(out, a)
    return None


def _scale(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    """Multiplied or divided by one number; anything else may mix channels."""
    other = args[1]
    if isinstance(other, Tensor) and other.numel() != 1:
        return False
    return _pass_on(t, out, args, kwargs)


def _clamp(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    """Between two bounds, as ReLU6: f(0) = 0 if 0 lies between them."""
    low, high = (args[i] if len(args) > i else default for i, default in ((1, -1), (2, 1)))  # torch leaves out defaults
    return _pass_on(t, out, args, kwargs) if low <= 0 <= high else False


def _split(t: Tracer, out: list[Tensor], args: tuple, kwargs: dict) -> bool | None:
    labels = t.labels(args[0])
    assert labels is not None
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].dim()
    if dim != labels[0]:
        return _pass_on(t, out, args, kwargs)
    width = out[0].shape[dim]
    if not t.chunk_watch.inside or any(part.shape[dim] != width for part in out):
        return False
    # After a cut `chunk` divides what is left evenly, so the parts must lose the same channels.
    parts = [labels[1][i * width : (i + 1) * width] for i in range(len(out))]
    for tensor, ids in zip(out, parts, strict=True):
        t.tie(parts[0], ids)
        t.give(tensor, (dim, ids))
    t.chunks[t.path[-1] if t.path else ""] = width
    return None


def _mean(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    labels = t.labels(args[0])
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    if labels is None or dims is None or any(d % args[0].dim() <= labels[0] for d in dims):
        return False
    return _pass_on(t, out, args, kwargs)


def _permute(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    labels = t.labels(args[0])
    assert labels is not None
    dims = [d % args[0].dim() for d in args[1]]
    t.give(out, (dims.index(labels[0]), labels[1]))
    return None


def _transpose(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    dims = list(range(args[0].dim()))
    a, b = args[1] % len(dims), args[2] % len(dims)
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(t, out, (args[0], dims), {})


def _metadata(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> None:
    """Reads the dtype and device of a tensor, nothing of its channels: the new tensor carries none."""


def _move(t: Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    """Moves data along one dimension or several: fine as long as channels are not among them."""
    labels = t.labels(args[0])
    assert labels is not None
    moved = MOVED[kwargs.pop("op")](args, kwargs)
    if out.dim() != args[0].dim() or labels[0] in [d % args[0].dim() for d in moved]:
        return False
    return _pass_on(t, out, args, kwargs)


def _sliced(dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> list[int]:
    """The dimension of a slice; none where it takes all there may be, as torch before 2.7 does for every `:`."""
    return [] if start in (None, 0) and end in (None, sys.maxsize) and step == 1 else [dim]


def _along(op: str) -> Rule:
    return lambda t, out, args, kwargs: _move(t, out, args, {**kwargs, "op": op})


MOVED: dict[str, Callable[[tuple, dict], list[int]]] = {
    "flip": lambda a, k: list(a[1]),
    "roll": lambda a, k: list(a[2]) if len(a) > 2 else list(range(a[0].dim())),
    "slice": lambda a, k: _sliced(*a[1:], **k),
}

aten = torch.ops.aten
NORMS = {aten.native_batch_norm, aten._native_batch_norm_legit, aten.cudnn_batch_norm}
SAME_SHAPE = {aten.silu, aten.relu, aten.leaky_relu, aten.hardswish, aten.hardtanh, aten.mish, aten.gelu, aten.elu}
IN_PLACE = {aten.silu_, aten.relu_, aten.leaky_relu_, aten.hardswish_, aten.hardtanh_, aten.mish_, aten.elu_}
ARITHMETIC = {aten.add, aten.sub, aten.mul, aten.div}
RULES: dict[Any, Rule] = {
    **dict.fromkeys(NORMS, _batch_norm),
    **dict.fromkeys([aten.silu, aten.silu_, aten.leaky_relu, aten.leaky_relu_, aten.relu, aten.relu_], _pass_on),
    **dict.fromkeys([aten.hardswish, aten.hardswish_, aten.gelu, aten.mish, aten.tanh, aten.elu], _pass_on),
    **dict.fromkeys([aten.clone, aten.detach, aten.alias, aten._to_copy, aten.native_dropout], _pass_on),
    **dict.fromkeys([aten.max_pool2d_with_indices, aten.avg_pool2d, aten._adaptive_avg_pool2d], _window),
    **dict.fromkeys([aten.upsample_nearest2d, aten.upsample_bilinear2d, aten._upsample_nearest_exact2d], _window),
    **dict.fromkeys([aten.add, aten.add_, aten.sub], _add),
    **dict.fromkeys([aten.hardtanh, aten.hardtanh_], _clamp),
    **dict.fromkeys([aten.mul, aten.mul_, aten.div, aten.div_], _scale),
    **dict.fromkeys([aten.new_full, aten.new_empty, aten.new_zeros, aten.new_ones], _metadata),
    aten.constant_pad_nd: _pad,
    aten.cat: _cat,
    aten.split: _split,
    aten.mean: _mean,
    aten.permute: _permute,
    aten.transpose: _transpose,
    aten.flip: _along("flip"),
    aten.roll: _along("roll"),
    aten.slice: _along("slice"),
}
