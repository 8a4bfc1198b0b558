"""Trace a detector: run it on the meta device and read off which channels are one and the same variable.

The law: a convolution makes new channels, an addition makes two equal, a concatenation lays them side by side,
batch norm, activation, pooling and upsampling pass them on, and whatever is not understood keeps all of its channels.
Each rule in `rules` is one operator of that sentence; no architecture is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from yolo_slim.channels.groups import FIXED, Conv, Draft, Ints, Norm, Trace, form_groups, same_wiring
from yolo_slim.channels.hooks import hooked
from yolo_slim.channels.inputs import furthest, ghost_of, hw_of
from yolo_slim.channels.rules import RULES, Labels, convolution, shape_of
from yolo_slim.channels.surgery import cut, tensors
from yolo_slim.errors import SlimError
from yolo_slim.mould import Known

_KNOWN = Known(16 << 20)
"""(structure, size) -> its trace: the stages of a run look at the same few detectors again and again, and weights say
nothing of the wiring."""


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
    if not any(isinstance(m, nn.Conv2d) for m in detector.modules()):
        raise SlimError("expected a detector made of convolutions, but it holds no Conv2d")
    hw = hw_of(imgsz)
    with _as_written():
        return _KNOWN.of(detector, lambda: _traced(ghost_of(detector), hw), hw)


@contextmanager
def _as_written() -> Iterator[None]:
    """Operators as they are: where deterministic ones are asked for, as Ultralytics' trainer does, torch interpolates
    by indices, which pass on no channel that could be followed."""
    was, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)


def _traced(ghost: nn.Module, hw: tuple[int, int]) -> Trace:
    image = (furthest(ghost, hw).channels, *hw)
    return _try_the_law(ghost, _observe(ghost, image), image)


def _observe(ghost: nn.Module, chw: tuple[int, int, int]) -> Draft:
    """Run it on an image of this shape, in both modes, and note what happens to its channels."""
    tracer = Tracer(ghost)
    for training in (True, False):
        ghost.train(training)
        # Two images: batch norm in train mode refuses a single value per channel, which 1x1 maps would give it.
        image = torch.empty(2, *chw, device="meta")
        tracer.count_positions = not training  # cost is what inference executes
        try:
            tracer.run(image)
        except Exception as e:
            where = tracer.where() or type(ghost).__name__
            raise SlimError(
                f"cannot trace the detector at {chw[1]}x{chw[2]} px: {where} raised {type(e).__name__}: {e}. "
                "Is the size a multiple of the detector's stride?"
            ) from e
    return tracer.draft(chw, sum(p.numel() for p in ghost.parameters()))


def _try_the_law(ghost: nn.Module, draft: Draft, chw: tuple[int, int, int]) -> Trace:
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
            again = form_groups(_observe(halved, chw))
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


class Tracer(TorchDispatchMode):
    """Labels every channel of every tensor while the ghost runs."""

    def __init__(self, ghost: nn.Module) -> None:
        super().__init__()
        self.ghost = ghost
        self.count_positions = True
        self.chunk_watch = _ChunkWatch()
        self.path: list[str] = []
        self.inputs: list[tuple[Tensor | None, int]] = []  # of the modules in `path`: its one tensor, and its version
        self.sums: dict[int, tuple[Tensor, int, tuple[Tensor, ...], list]] = {}  # id -> see `note_sum`
        self.known: dict[int, tuple[Tensor, Labels]] = {}  # the tensor too: an id is only unique while it lives
        self.maker: dict[int, str] = {}  # id of a tensor -> the convolution that has just made it
        self.read_by_conv: dict[int, Tensor] = {}  # the tensor too, as above
        self.convs: dict[str, Conv] = {}
        self.norms: dict[str, Norm] = {}
        self.equal: list[tuple[Ints, Ints]] = []
        self.protected: list[tuple[Ints, str]] = []
        self.chunks: dict[str, int] = {}
        self.blocks: dict[str, Ints] = {}
        self.maps: dict[str, Ints] = {}
        self.other_modules: set[str] = set()  # in one call at least they did something else than x + f(x)
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
        self.inputs.clear()
        self.sums.clear()
        with torch.no_grad(), hooked(_watching(self)), self.chunk_watch, self:
            output = self.ghost(image)
        for tensor in tensors(output):
            # Maps returned beside the predictions (Detect's inputs) are read on; what nobody reads is the result.
            if id(tensor) not in self.read_by_conv:
                self.protect([tensor], "output of the detector")

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = shape_of(func.overloadpacket, args)
        if out is None:
            out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.add, torch.ops.aten.add_) and not kwargs:
            self.note_sum(out, args)
        if func.overloadpacket is torch.ops.aten.convolution:
            convolution(self, out, args, kwargs or {})
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

    # ---- residual branches ----

    def enter(self, name: str, args: tuple, kwargs: dict) -> None:
        x = args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else None
        self.path.append(name)
        self.inputs.append((x, 0 if x is None else x._version))

    def leave(self, output: Any) -> None:
        """Note what leaves a module; if it is the sum of its one input, as it came in, and something else: a branch."""
        name, (x, version) = self.path.pop(), self.inputs.pop()
        found = self.labels(output)
        if found is not None and found[0] == 1:
            self.maps[name] = found[1]
        total, then, parts, labels = self.sums.get(id(output), (None, 0, (), []))
        other = None
        if total is not None and then == total._version and x is not None and version == x._version:  # both untouched
            other = next((i for i in (1, 0) if parts[1 - i] is x and total.shape == x.shape), None)
        if name and other is not None:
            self.blocks[name] = labels[other]
            del self.sums[id(output)]  # a Sequential around it hands the same sum on
        else:
            self.other_modules.add(name)

    def note_sum(self, out: Tensor, parts: tuple) -> None:
        """Remember a sum, its version once it is made (in place: about to rise), its parts and their labels."""
        if all(isinstance(part, Tensor) for part in parts):
            known = [self.labels(part) if part.shape[:2] == out.shape[:2] else None for part in parts]
            labels = [k[1] if k else np.empty(0, np.int64) for k in known]
            self.sums[id(out)] = (out, out._version + (out is parts[0]), parts, labels)

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

    def draft(self, chw: tuple[int, int, int], params: int) -> Draft:
        blocks = {name: labels for name, labels in self.blocks.items() if name not in self.other_modules}
        wiring = self.convs, self.norms, self.n_labels, self.equal, self.protected
        return Draft(*wiring, chw[1:], params, dict(self.chunks), blocks, dict(self.maps), chw[0])


def _watching(tracer: Tracer) -> Iterator[RemovableHandle]:
    """Hooks that keep `path` the stack of modules being executed."""
    for name, module in tracer.ghost.named_modules():
        enter = lambda m, a, k, name=name: tracer.enter(name, a, k)  # noqa: E731
        yield module.register_forward_pre_hook(enter, with_kwargs=True)
        yield module.register_forward_hook(lambda m, a, o: tracer.leave(o))
