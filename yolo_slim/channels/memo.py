"""Run a detector over the same batches again and again, computing only what has changed since.

While layers are settled one after another, front to back, everything before them stays as it is. A module whose output
holds no NaN depends on nothing that waits (what waits answers NaN), so its output is final: it is kept for each batch,
handed out instead of computed, and forgotten as soon as nothing reads it any more. What is kept is bounded; beyond
the bound things are computed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.channels.surgery import evaluating, tensors

Visit = Callable[[str, Tensor, Callable[[Tensor], Tensor]], "Tensor | None"]
"""(convolution, its input, how to compute it) -> its output, or None while that is not settled."""


class Enough(Exception):
    """Raised by a visitor when the rest of the pass is of no interest."""


class _Kept(Tensor):
    """A tensor that says when it is read, and is never written to."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for tensor in tensors((args, kwargs or {})):
            if isinstance(tensor, _Kept):
                tensor.reads.add(tensor.key)
        name = getattr(func, "__name__", "")
        in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
        with torch._C.DisableTorchFunctionSubclass():
            if in_place and isinstance(args[0], _Kept):
                args = (args[0].as_subclass(Tensor).clone(), *args[1:])
            return func(*args, **(kwargs or {}))


class Memo:
    """A detector in eval mode with a memory of final outputs.

    Args:
        detector: left alone, apart from its `forward`s while a pass runs.
        limit: bytes to keep at most.
    """

    def __init__(self, detector: nn.Module, limit: int) -> None:
        self.detector, self.limit, self.bytes = detector, limit, 0
        self.modules = {name: m for name, m in detector.named_modules() if name}
        self.outputs: dict[int, dict[str, Tensor]] = {}  # batch number -> module -> output
        self.reads: set[str] = set()  # modules whose kept output was read since the last `forget`
        self.calls: Counter[str] = Counter()  # of the last whole pass: only what is called once has one output

    def probe(self, number: int, batch: Tensor, visit: Visit) -> None:
        """A pass through to the end that keeps nothing: what it reads is what later passes will read."""
        self.calls = self._run(number, batch, visit, keep=False)

    def run(self, number: int, batch: Tensor, visit: Visit) -> None:
        """A pass over batch `number`, up to where `visit` has had enough, that keeps what is final.

        `visit` answers for every convolution that is computed on numbers; on NaN the output is NaN and costs nothing.
        """
        with suppress(Enough):
            self._run(number, batch, visit, keep=True)

    @torch.no_grad()
    def _run(self, number: int, batch: Tensor, visit: Visit, keep: bool) -> Counter[str]:
        calls: Counter[str] = Counter()
        known = self.outputs.setdefault(number, {})

        def forward(name: str, module: nn.Module) -> Callable[..., Any]:
            compute = self._conv(name, module, visit) if isinstance(module, nn.Conv2d) else module.forward

            def run(*args: Any, **kwargs: Any) -> Any:
                calls[name] += 1
                if name not in known:
                    out = compute(*args, **kwargs)
                    if not keep or self.calls[name] > 1 or not self._keep(known, name, out):
                        return out
                return self._hand_out(name, known[name])

            return run

        with evaluating(self.detector), self._replaced({n: forward(n, m) for n, m in self.modules.items()}):
            self.detector(batch)
        return calls

    def forget_unread(self) -> None:
        """Drop what nothing has read since the last call: what is settled is never read by more than before."""
        for known in self.outputs.values():
            for name in known.keys() - self.reads:
                self.bytes -= known[name].nbytes
                known[name] = known[name][:0].clone()  # a stand-in, passed on unread
        self.reads = set()

    def _conv(self, name: str, layer: nn.Conv2d, visit: Visit) -> Callable[[Tensor], Tensor]:
        forward = layer.forward

        def run(image: Tensor) -> Tensor:
            out = None if _waits(image) else visit(name, image, forward)
            return _unknown(layer, image) if out is None else out

        return run

    def _keep(self, known: dict[str, Tensor], name: str, out: Any) -> bool:
        """Whether the output is final and there is room for it; what was kept of the module's parts goes then."""
        if not isinstance(out, Tensor) or _waits(out):
            return False
        for inner in [k for k in known if k.startswith(f"{name}.")]:
            self.bytes -= known.pop(inner).nbytes
        if self.bytes + out.nbytes > self.limit:
            return False
        known[name] = out.as_subclass(Tensor)
        self.bytes += out.nbytes
        return True

    def _hand_out(self, name: str, out: Tensor) -> Tensor:
        kept = out.as_subclass(_Kept)
        kept.key, kept.reads = name, self.reads
        return kept

    @contextmanager
    def _replaced(self, forwards: dict[str, Callable[..., Any]]) -> Iterator[None]:
        """Other `forward`s for a while, and no activation that writes over its input."""
        own = {name: vars(m).get("forward") for name, m in self.modules.items()}
        in_place = [m for m in self.modules.values() if getattr(m, "inplace", False) is True]
        for name, forward in forwards.items():
            self.modules[name].forward = forward  # type: ignore[method-assign]
        for module in in_place:
            module.inplace = False
        try:
            yield
        finally:
            for module in in_place:
                module.inplace = True
            for name, forward in own.items():
                if forward is None:
                    del self.modules[name].forward
                else:
                    self.modules[name].forward = forward  # type: ignore[method-assign]


def _waits(out: Tensor) -> bool:
    """Whether a tensor depends on what is not settled: then it holds NaN for the first image as for every other."""
    return bool(torch.isnan(out[0].sum()))


def _unknown(layer: nn.Conv2d, image: Tensor) -> Tensor:
    """NaN in the shape of the layer's output."""
    sizes = zip(image.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    hw = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
    return torch.full((len(image), layer.out_channels, *hw), torch.nan, dtype=image.dtype, device=image.device)
