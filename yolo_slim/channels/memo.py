"""Run a detector over the same batches again and again, computing only what has changed since.

While layers are settled one after another, front to back, everything before them stays as it is. A module whose output
holds no NaN depends on nothing that waits (what waits answers NaN), so its output is final: it is kept for each batch,
handed out instead of computed, and forgotten when nothing reads it any more. What is kept is bounded. Where something
is missing after all, was forgotten too early or has been written to, the batch is computed from its beginning.

Operators must pass NaN on. All that stand between a detector's convolutions do; a comparison or an index would not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from yolo_slim.channels.surgery import evaluating, tensors

Found: TypeAlias = list[tuple[str, Tensor]]  # (convolution that waits, its input), one for each call, in order


class _Enough(Exception):
    """The rest of the pass is of no interest."""


class _Missing(Exception):
    """The pass reads what is no longer kept."""


class _Watched(Tensor):
    """A tensor that says when it is read."""

    on_read: Callable[[], None]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for tensor in tensors((args, kwargs or {})):
            if isinstance(tensor, _Watched):
                tensor.on_read()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class _Kept(NamedTuple):
    """An output; `writes` counts how often it had been written to when it was final."""

    output: Tensor
    writes: int

    @property
    def bytes(self) -> int:
        return self.output.untyped_storage().nbytes()


class Memo:
    """A detector in eval mode with a memory of final outputs.

    Args:
        detector: left alone, apart from its `forward`s while a pass runs.
        limit: bytes to keep at most.
    """

    def __init__(self, detector: nn.Module, limit: int) -> None:
        self.detector, self.limit, self.bytes = detector, limit, 0
        self.modules = {name: m for name, m in detector.named_modules() if name}
        self.known: dict[int, dict[str, _Kept | None]] = {}  # batch number -> module -> output; None: forgotten
        self.reads: set[str] = set()  # modules whose final output was read since the last `forget_unread`
        self.calls: Counter[str] = Counter()  # of each module in one pass: only what is called once has one output
        self.overwritten: set[str] = set()  # modules whose output somebody writes to: never kept
        self.shapes: dict[tuple[str, torch.Size], torch.Size] = {}  # (convolution, of its input) -> of its output

    def probe(self, number: int, batch: Tensor, waiting: Collection[str]) -> Found:
        """A pass to the end that keeps nothing and learns what is read: what waits and can be reached."""
        return self._run(number, batch, waiting, None)

    def run(self, number: int, batch: Tensor, waiting: Collection[str], ready: Collection[str]) -> Found:
        """A pass over batch `number`, up to the last call in `ready`, that keeps what is final.

        Args:
            waiting: convolutions that are not settled.
            ready: those of them, one entry for each call, whose inputs are wanted.
        """
        return self._run(number, batch, waiting, ready)

    def forget_unread(self) -> None:
        """Forget what no pass has read since the last call: as a rule, what is settled is read by ever fewer."""
        for known in self.known.values():
            for name in known.keys() - self.reads:
                self._drop(known, name)
                known[name] = None
        self.reads.clear()

    def _run(self, number: int, batch: Tensor, waiting: Collection[str], ready: Collection[str] | None) -> Found:
        known = self.known.setdefault(number, {})
        try:
            return self._pass(known, batch, waiting, ready)
        except _Missing:
            for name in list(known):
                self._drop(known, name)
            return self._pass(known, batch, waiting, ready)  # nothing is known, so nothing can be missing

    @torch.no_grad()
    def _pass(
        self, known: dict[str, _Kept | None], batch: Tensor, waiting: Collection[str], ready: Collection[str] | None
    ) -> Found:
        calls: Counter[str] = Counter()
        found: Found = []

        def convolve(name: str, layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
            forward = layer.forward

            def run(image: Tensor) -> Tensor:
                if not _waits(image):
                    if name not in waiting:
                        return forward(image)
                    if ready is None or name in ready:
                        found.append((name, image.clone()))  # somebody may write over it
                    if ready is not None and len(found) == len(ready):
                        raise _Enough
                size = name, image.shape
                if size not in self.shapes:
                    self.shapes[size] = forward(image).shape
                return image.new_full(self.shapes[size], torch.nan)

            return run

        def remember(name: str, module: nn.Module) -> Callable[..., Any]:
            compute = convolve(name, module) if isinstance(module, nn.Conv2d) else module.forward

            def run(*args: Any, **kwargs: Any) -> Any:
                calls[name] += 1
                once = max(calls[name], self.calls[name]) == 1
                if once and name in known:
                    return self._recall(known, name)
                out = compute(*args, **kwargs)
                # Numbers only: no NaN would say that an index or a mask depends on what waits.
                if not isinstance(out, Tensor) or not out.is_floating_point() or _waits(out):
                    return out
                if not once or name in self.overwritten:
                    return out
                if ready is not None:
                    self._keep(known, name, out)
                return _watched(out, lambda: self.reads.add(name))

            return run

        forwards = {name: remember(name, module) for name, module in self.modules.items()}
        with suppress(_Enough), evaluating(self.detector), self._replaced(forwards):
            self.detector(batch)
        self.calls |= calls  # the maximum: parts of a module that is known are not called
        return found

    def _keep(self, known: dict[str, _Kept | None], name: str, out: Tensor) -> None:
        """Keep an output if there is room for it; what was kept of the module's parts goes then."""
        kept = _Kept(out.as_subclass(Tensor), out._version)
        parts = [part for part in known if part.startswith(f"{name}.")]
        freed = sum(entry.bytes for part in parts if (entry := known[part]))
        if self.bytes - freed + kept.bytes <= self.limit:
            for part in parts:
                self._drop(known, part)
            known[name] = kept
            self.bytes += kept.bytes

    def _recall(self, known: dict[str, _Kept | None], name: str) -> Tensor:
        kept = known[name]
        if kept is None:
            return _watched(torch.empty(0), _miss)
        if kept.output._version != kept.writes:
            self.overwritten.add(name)
            raise _Missing
        return _watched(kept.output, lambda: self.reads.add(name))

    def _drop(self, known: dict[str, _Kept | None], name: str) -> None:
        if kept := known.pop(name):
            self.bytes -= kept.bytes

    @contextmanager
    def _replaced(self, forwards: dict[str, Callable[..., Any]]) -> Iterator[None]:
        """Other `forward`s for a while, and no activation that writes over its input."""
        own = {name: vars(m).get("forward") for name, m in self.modules.items()}
        in_place = [m for m in self.modules.values() if getattr(m, "inplace", False) is True]
        for name, forward in forwards.items():
            vars(self.modules[name])["forward"] = forward  # setattr would search parameters and buffers first: slow
        for module in in_place:
            module.inplace = False
        try:
            yield
        finally:
            for module in in_place:
                module.inplace = True
            for name, forward in own.items():
                if forward is None:
                    del vars(self.modules[name])["forward"]
                else:
                    vars(self.modules[name])["forward"] = forward


def _watched(out: Tensor, on_read: Callable[[], None]) -> Tensor:
    watched = out.as_subclass(_Watched)
    watched.on_read = on_read
    return watched


def _miss() -> None:
    raise _Missing


def _waits(out: Tensor) -> bool:
    """Whether a tensor depends on what is not settled: then it holds NaN for the first image as for every other."""
    return bool(torch.isnan(out[:1].sum() if out.dim() else out))
