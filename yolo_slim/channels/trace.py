"""Trace a detector: run it on the meta device and read off which channels are one and the same variable.

The law: a convolution makes new channels, an addition makes two equal, a concatenation lays them side by side,
batch norm, activation, pooling and upsampling pass them on, and whatever is not understood keeps all of its channels.
Every rule below is one operator of that sentence; no architecture is known here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_slim.channels.groups import FIXED, Conv, Draft, Ints, Norm, Trace, form_groups, same_wiring
from yolo_slim.channels.surgery import cut, tensors
from yolo_slim.errors import SlimError


def trace(detector: nn.Module, imgsz: int | tuple[int, int] = 640) -> Trace:
    """Find the channels of a detector, the groups they form, and why some of them must stay.

    The detector is left alone: a copy without weights runs once in train mode and once in eval mode, since some
    branches run only in one of them. Then the law itself is put to the test, see `_try_the_law`.

    Args:
        detector: maps an image (B, C, H, W) to anything.
        imgsz: side, or (height, width), in pixels at which output positions are counted.

    Raises:
        SlimError: the detector holds no convolution, or cannot run without its weights at this size.
    """
    ghost = _ghost(detector)
    hw = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz)
    return _try_the_law(ghost, _observe(ghost, hw), hw)


def _ghost(detector: nn.Module) -> nn.Module:
    """A copy of the detector on the meta device: all of its structure, none of its memory."""
    stand_ins: dict[int, Any] = {}
    for p in detector.parameters():
        stand_ins[id(p)] = nn.Parameter(torch.empty_like(p, device="meta", dtype=torch.float32), requires_grad=False)
    for b in detector.buffers():
        stand_ins[id(b)] = torch.empty_like(b, device="meta", dtype=torch.float32 if b.is_floating_point() else b.dtype)
    return copy.deepcopy(detector, stand_ins)


def _observe(ghost: nn.Module, hw: tuple[int, int]) -> Draft:
    first = next((m for m in ghost.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise SlimError("expected a detector made of convolutions, but it holds no Conv2d")
    tracer = _Tracer(ghost)
    for training in (True, False):
        ghost.train(training)
        # Two images: batch norm in train mode refuses a single value per channel, which 1x1 maps would give it.
        image = torch.empty(2, first.in_channels, *hw, device="meta")
        tracer.count_positions = not training  # cost is what inference executes
        try:
            tracer.run(image)
        except Exception as e:
            where = tracer.where() or type(ghost).__name__
            raise SlimError(
                f"cannot trace the detector at {hw[0]}x{hw[1]} px: {where} raised {type(e).__name__}: {e}. "
                "Is the size a multiple of the detector's stride?"
            ) from e
    return tracer.draft(hw, sum(p.numel() for p in ghost.parameters()))


def _try_the_law(ghost: nn.Module, draft: Draft, hw: tuple[int, int]) -> Trace:
    """Halve every free group on a copy, run it, and trace it again: it must run and be wired the same.

    Python code that reads a width from one tensor and reshapes another with it is invisible to any tracer; it shows
    here. The groups that cause it are found by bisection and kept whole.
    """
    protected: dict[str, str] = {}
    found = form_groups(draft)

    def complaint(names: list[str]) -> str | None:
        kept = np.ones(found.n_channels, bool)
        for group in found.free:
            if group.name in names and group.name not in protected:
                kept[group.channels[max(group.size // 2, 1) :]] = False
        halved = cut(ghost, found, kept)
        try:
            again = form_groups(_observe(halved, hw))
        except SlimError as e:
            return str(e.__cause__ or e)
        return None if same_wiring(found, kept, again) else "the wiring changes with the width"

    def blame(names: list[str]) -> None:
        message = complaint(names)
        if message is None:
            return
        if len(names) == 1:
            protected[names[0]] = f"does not survive narrowing: {message}"[:200]
            return
        half = len(names) // 2
        before = len(protected)
        blame(names[:half])
        blame(names[half:])
        if len(protected) == before:  # only together do they fail: keep them all
            protected.update({n: f"does not survive narrowing: {message}"[:200] for n in names})

    blame([g.name for g in found.free])
    return form_groups(draft, protected) if protected else found


Labels = tuple[int, Ints]  # (the dimension that holds channels, one label per index of it)
Rule = Callable[["_Tracer", Any, tuple, dict], None]


class _ChunkWatch(TorchFunctionMode):
    """Tells `chunk` (parts follow the width) from `split` (sizes held by Python): one operator in ATen."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.inside = func in (torch.chunk, Tensor.chunk)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.inside = False


class _Tracer(TorchDispatchMode):
    """Labels every channel of every tensor while the ghost runs."""

    def __init__(self, ghost: nn.Module) -> None:
        super().__init__()
        self.ghost = ghost
        self.count_positions = True
        self.chunk_watch = _ChunkWatch()
        self.path: list[str] = []
        self.known: dict[int, tuple[Tensor, Labels]] = {}  # the tensor too: an id is only unique while it lives
        self.maker: dict[int, str] = {}  # id of a tensor -> the convolution that has just made it
        self.read_by_conv: dict[int, Tensor] = {}  # the tensor too, as above
        self.convs: dict[str, Conv] = {}
        self.norms: dict[str, Norm] = {}
        self.equal: list[tuple[Ints, Ints]] = []
        self.protected: list[tuple[Ints, str]] = []
        self.chunks: dict[str, int] = {}
        self.n_labels = 0
        self.weights = {id(m.weight): (n, m) for n, m in ghost.named_modules() if isinstance(m, nn.Conv2d)}
        self.scales: dict[int, str] = {}
        for n, m in ghost.named_modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                self.scales.update({id(t): n for t in (m.weight, m.running_mean) if t is not None})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Never compiled: spares every trace the import of torch._dynamo (5 s)."""
        return False

    # ---- running ----

    def run(self, image: Tensor) -> None:
        self.known.clear()
        self.maker.clear()
        self.read_by_conv.clear()
        self.path.clear()
        with torch.no_grad(), _watched(self.ghost, self.path), self.chunk_watch, self:
            output = self.ghost(image)
        for tensor in tensors(output):
            # Maps returned beside the predictions (Detect's inputs) are read on; what nobody reads is the result.
            if id(tensor) not in self.read_by_conv:
                self.protect([tensor], "output of the detector")

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = _shape_of(func.overloadpacket, args)
        if out is None:
            out = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.convolution:
            _convolution(self, out, args, kwargs or {})
        elif any(id(t) in self.known for t in tensors((args, kwargs))):
            rule = RULES.get(func.overloadpacket)
            understood = rule(self, out, args, kwargs or {}) if rule else False
            if understood is False:
                name = func.overloadpacket.__name__.strip("_")
                self.protect(tensors((args, kwargs)), f"{name} in {self.where()}")
                for t in tensors(out):  # an in-place operator hands its input back: no longer understood either
                    self.known.pop(id(t), None)
        return out

    def where(self) -> str:
        name = self.path[-1] if self.path else ""
        return f"{name} ({type(self.ghost.get_submodule(name)).__name__})" if name else ""

    # ---- what rules are made of ----

    def labels(self, tensor: Any) -> Labels | None:
        entry = self.known.get(id(tensor))
        return entry[1] if entry else None

    def give(self, tensor: Tensor, labels: Labels) -> None:
        assert tensor.shape[labels[0]] == len(labels[1]), (tensor.shape, labels[0], len(labels[1]))
        self.known[id(tensor)] = (tensor, labels)

    def fresh(self, n: int) -> Ints:
        self.n_labels += n
        return np.arange(self.n_labels - n, self.n_labels)

    def tie(self, a: Ints, b: Ints) -> None:
        """Make two label arrays equal, slot by slot; tied to a fixed slot, a label is fixed as well."""
        self.equal.append((a, b))
        for free, other in ((a, b), (b, a)):
            if np.any(stuck := other == FIXED):
                self.protected.append((free[stuck], f"added to a fixed tensor in {self.where()}"))

    def protect(self, tensors: Iterable[Tensor], reason: str) -> None:
        for labels in filter(None, map(self.labels, tensors)):
            self.protected.append((labels[1], reason))

    def draft(self, hw: tuple[int, int], params: int) -> Draft:
        return Draft(self.convs, self.norms, self.n_labels, self.equal, self.protected, hw, params, dict(self.chunks))


@contextmanager
def _watched(ghost: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep `path` the stack of modules being executed."""
    handles = []
    for name, module in ghost.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, a, name=name: path.append(name)))
        handles.append(module.register_forward_hook(lambda m, a, o: (path.pop(), None)[1]))  # None: keep the output
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shape_of(op: Any, args: tuple) -> Any:
    """The outcome of operators whose meta kernels are slow Python decompositions: there, only the shape matters.

    (They also import torch's compiler when first called, which takes longer than all of a trace.) Shapes that do not
    fit raise, as the operator itself would: the law is tried by running narrowed detectors.
    """
    if op in NORMS:
        _fits(op, args[1] is None or args[1].shape[0] == args[0].shape[1], args[0], args[1])
        return torch.empty_like(args[0]), None, None
    if op is aten.convolution and not args[6] and args[0].dim() == 4:
        image, weight, _, stride, padding, dilation, _, _, groups = args
        _fits(op, image.shape[1] == weight.shape[1] * groups, image, weight)
        hw = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(image.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        ]
        _fits(op, min(hw) > 0, image, weight)
        return torch.empty(image.shape[0], weight.shape[0], *hw, device="meta")
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


def _fits(op: Any, yes: bool, *operands: Tensor) -> None:
    if not yes:
        shapes = ", ".join(str(tuple(t.shape)) for t in operands)
        raise RuntimeError(f"{op.__name__} of tensors that do not fit: {shapes}")


# ---- the rules: what each operator does to channels; False means not understood ----


def _convolution(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> None:
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


def _batch_norm(t: _Tracer, out: tuple, args: tuple, kwargs: dict) -> bool | None:
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


def _pass_on(t: _Tracer, out: Any, args: tuple, kwargs: dict) -> bool | None:
    """Elementwise with f(0) = 0, or window by window: a channel stays the channel it was."""
    labels = t.labels(args[0])
    if labels is None:
        return False
    passed = [o for o in tensors(out) if o.dim() > labels[0] and o.shape[labels[0]] == len(labels[1])]
    for tensor in passed:
        t.give(tensor, labels)
        t.maker.pop(id(tensor), None)  # in place: no longer what the convolution made
    return None if passed else False


def _window(t: _Tracer, out: Any, args: tuple, kwargs: dict) -> bool | None:
    """Works on the last two dimensions: a channel stays the channel it was unless channels are among them."""
    labels = t.labels(args[0])
    return False if labels is None or labels[0] >= args[0].dim() - 2 else _pass_on(t, out, args, kwargs)


def _pad(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    labels, pad = t.labels(args[0]), args[1]
    value = args[2] if len(args) > 2 else kwargs.get("value", 0)
    if labels is None or value != 0 or len(pad) // 2 > args[0].dim() - 1 - labels[0]:
        return False
    return _pass_on(t, out, args, kwargs)


def _cat(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
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
    if not all(known):
        return False
    for other in known[1:]:
        t.tie(known[0][1], other[1])
    t.give(out, known[0])
    return None


def _add(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    if not isinstance(args[1], Tensor) and args[1] == 0:  # f(0) = 0 still
        return _pass_on(t, out, args, kwargs)
    a, b = t.labels(args[0]), t.labels(args[1])
    if a is None or b is None or a[0] != b[0] or args[0].dim() != args[1].dim() or len(a[1]) != len(b[1]):
        return False
    t.tie(a[1], b[1])
    t.give(out, a)
    return None


def _scale(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    """Multiplied or divided by one number; anything else may mix channels."""
    other = args[1]
    if isinstance(other, Tensor) and other.numel() != 1:
        return False
    return _pass_on(t, out, args, kwargs)


def _split(t: _Tracer, out: list[Tensor], args: tuple, kwargs: dict) -> bool | None:
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


def _mean(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    labels = t.labels(args[0])
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    if labels is None or dims is None or any(d % args[0].dim() <= labels[0] for d in dims):
        return False
    return _pass_on(t, out, args, kwargs)


def _permute(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    labels = t.labels(args[0])
    assert labels is not None
    dims = [d % args[0].dim() for d in args[1]]
    t.give(out, (dims.index(labels[0]), labels[1]))
    return None


def _transpose(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    dims = list(range(args[0].dim()))
    a, b = args[1] % len(dims), args[2] % len(dims)
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(t, out, (args[0], dims), {})


def _metadata(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> None:
    """Reads the dtype and device of a tensor, nothing of its channels: the new tensor carries none."""


def _move(t: _Tracer, out: Tensor, args: tuple, kwargs: dict) -> bool | None:
    """Moves data along one dimension or several: fine as long as channels are not among them."""
    labels = t.labels(args[0])
    assert labels is not None
    moved = MOVED[kwargs.pop("op")](args, kwargs)
    if out.dim() != args[0].dim() or labels[0] in [d % args[0].dim() for d in moved]:
        return False
    return _pass_on(t, out, args, kwargs)


def _along(op: str) -> Rule:
    return lambda t, out, args, kwargs: _move(t, out, args, {**kwargs, "op": op})


MOVED: dict[str, Callable[[tuple, dict], list[int]]] = {
    "flip": lambda a, k: list(a[1]),
    "roll": lambda a, k: list(a[2]) if len(a) > 2 else list(range(a[0].dim())),
    "slice": lambda a, k: [a[1] if len(a) > 1 else k.get("dim", 0)],
}

aten = torch.ops.aten
NORMS = {aten.native_batch_norm, aten._native_batch_norm_legit, aten.cudnn_batch_norm}
ARITHMETIC = {aten.add, aten.sub, aten.mul, aten.div}
RULES: dict[Any, Rule] = {
    **dict.fromkeys(NORMS, _batch_norm),
    **dict.fromkeys([aten.silu, aten.silu_, aten.leaky_relu, aten.leaky_relu_, aten.relu, aten.relu_], _pass_on),
    **dict.fromkeys([aten.hardswish, aten.hardswish_, aten.gelu, aten.mish, aten.tanh, aten.elu], _pass_on),
    **dict.fromkeys([aten.clone, aten.detach, aten.alias, aten._to_copy, aten.native_dropout], _pass_on),
    **dict.fromkeys([aten.max_pool2d_with_indices, aten.avg_pool2d, aten._adaptive_avg_pool2d], _window),
    **dict.fromkeys([aten.upsample_nearest2d, aten.upsample_bilinear2d, aten._upsample_nearest_exact2d], _window),
    **dict.fromkeys([aten.add, aten.add_, aten.sub], _add),
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
