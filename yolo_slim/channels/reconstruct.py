"""Refit the weights that read removed channels, so that each layer gives again what it gave in the original.

For every convolution downstream of a cut, front to back: its inputs X come from the slim detector, already refitted up
to there, its targets Y from the original at the same positions, and the least-squares solution replaces its weights (He
et al., Channel Pruning, ICCV 2017, arXiv:1707.06168, 3.1-3.2, step ii). The intercept goes into the bias or the batch
norm behind. No labels, no gradients; memory holds one batch and the Gram matrices of a few layers, never the samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_slim.channels.groups import FIXED, Conv, Trace
from yolo_slim.channels.memo import Enough, Memo, Visit

RIDGE = 1e-3
"""Weight of staying at the cut weights, against the mean variance of an input: keeps directions that the images do not
show as they were."""


@dataclass
class Moments:
    """Sums over samples from which a least-squares fit with intercept follows: X (N, a) against Y (N, b)."""

    n: int = 0
    x: Tensor | float = 0.0  # (a,)
    y: Tensor | float = 0.0  # (b,)
    xx: Tensor | float = 0.0  # (a, a)
    xy: Tensor | float = 0.0  # (a, b)

    def add(self, x: Tensor, y: Tensor) -> None:
        """More samples: (n, a) and (n, b)."""
        self.n += len(x)
        self.x = self.x + x.sum(0, dtype=torch.float64)
        self.y = self.y + y.sum(0, dtype=torch.float64)
        self.xx = self.xx + (x.T @ x).double()
        self.xy = self.xy + (x.T @ y).double()

    def covariance(self) -> Tensor:
        """Of the inputs, (a, a)."""
        mean = self.x / self.n
        return self.xx / self.n - torch.outer(mean, mean)

    def fit(self, start: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """Weights (b, a) and intercept (b,) that minimise |Y - X W' - c|^2 + ridge * |W - start|^2.

        `ridge` is in units of the mean variance of an input; it makes the solution unique and ties what the samples
        do not determine to `start` (b, a).
        """
        mean_x, mean_y, xx = self.x / self.n, self.y / self.n, self.covariance()
        xy = self.xy / self.n - torch.outer(mean_x, mean_y)
        start = start.double()
        damped = xx + ridge * xx.diagonal().mean().clamp(min=1e-12) * torch.eye(
            len(xx), dtype=xx.dtype, device=xx.device
        )
        weights = start + torch.linalg.solve(damped, xy - xx @ start.T).T
        return weights, mean_y - weights @ mean_x


def patches(image: Tensor, conv: nn.Conv2d, rows: Tensor, columns: Tensor) -> Tensor:
    """What the convolution multiplies at the given output positions.

    Args:
        image: (B, C, H, W).
        rows: (P,) output rows; `columns`: (P,) output columns.

    Returns:
        (B * P, C * kh * kw), in the order of `conv.weight.flatten(1)`.
    """
    (kh, kw), (sy, sx), (dy, dx), (py, px) = conv.kernel_size, conv.stride, conv.dilation, conv.padding
    padded = F.pad(image, (px, px, py, py)) if py or px else image
    y = (rows * sy)[:, None] + torch.arange(kh, device=rows.device) * dy  # [P, kh]
    x = (columns * sx)[:, None] + torch.arange(kw, device=rows.device) * dx  # [P, kw]
    windows = padded[:, :, y[:, :, None], x[:, None, :]]  # [B, C, P, kh, kw]
    return windows.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1)


@torch.no_grad()
def reconstruct(
    slim: nn.Module,
    detector: nn.Module,
    trace: Trace,
    kept: np.ndarray,
    batches: Iterable[Tensor],
    *,
    points: int = 64,
    ridge: float = RIDGE,
    seed: int = 0,
    memory: int = 2 << 30,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> nn.Module:
    """A copy of `slim` whose convolutions are refitted, front to back, to what they gave in the original.

    Args:
        slim: `detector` after the cut.
        detector: the original, at full width.
        trace: of `detector`.
        kept: bool per channel.
        batches: images (B, C, H, W); read once for each level of depth.
        points: output positions drawn in each image for each layer (all of them where a map has fewer).
        ridge: how firmly directions that the images do not show stay at the cut weights.
        seed: of the positions.
        memory: bytes of intermediate maps to keep at most; with fewer, more is computed again.
        step: called with (layers fitted, layers to fit) whenever some are done.
    """
    healed = copy.deepcopy(slim)
    waiting = set(_downstream(trace, kept))
    total, memos = len(waiting), [Memo(d, memory // 2) for d in (healed, detector)]
    while waiting:
        moments: dict[str, Moments] = {}
        ready = 0
        for number, batch in enumerate(batches):
            ready = _count_ready(memos, waiting, batch) if number == 0 else ready
            inputs, outputs = _meet(memos, waiting, ready, number, batch)
            for (name, image), (_, out) in zip(inputs, outputs, strict=True):
                conv = trace.convs[name]
                at = draw(out, points, [seed, number])
                x = patches(image, healed.get_submodule(name), *at)
                y = out[:, torch.as_tensor(_stay(conv, kept), device=out.device)][:, :, at[0], at[1]]
                moments.setdefault(name, Moments()).add(x, y.permute(0, 2, 1).flatten(0, 1))
        if not moments:  # what waits sees no number even in the original
            break
        for name, sums in moments.items():
            _install(healed, trace.convs[name], *sums.fit(healed.get_submodule(name).weight.flatten(1), ridge))
        for memo in memos:
            memo.forget_unread()
        waiting -= moments.keys()
        step(total - len(waiting), total)
    return healed


Found: TypeAlias = list[tuple[str, Tensor]]  # (layer, its input or output), in order of execution


def _meet(memos: list[Memo], waiting: set[str], ready: int, number: int, batch: Tensor) -> tuple[Found, Found]:
    """Run both detectors up to the layers that can be fitted now: inputs in the slim one, outputs in the original."""
    inputs: Found = []
    outputs: Found = []
    memos[0].run(number, batch, _collect(inputs, waiting, ready, lambda image, compute: image))
    memos[1].run(number, batch, _collect(outputs, waiting, ready, lambda image, compute: compute(image)))
    return inputs, outputs


def _count_ready(memos: list[Memo], waiting: set[str], batch: Tensor) -> int:
    """How many calls can be fitted now; each memory learns what will still be read."""
    for memo in memos:
        found: Found = []
        memo.probe(0, batch, _collect(found, waiting, 0, lambda image, compute: image))
    return len(found)


def _collect(
    found: Found, waiting: set[str], enough: int, what: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
) -> Visit:
    def visit(name: str, image: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor | None:
        if name not in waiting:
            return compute(image)
        found.append((name, what(image, compute)))
        if len(found) == enough:
            raise Enough
        return None

    return visit


def draw(out: Tensor, points: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of `points` positions of a map (B, C, H, W), without repetition."""
    h, w = out.shape[2:]
    at = torch.as_tensor(np.random.default_rng(seed).permutation(h * w)[:points], device=out.device)
    return at // w, at % w


def _downstream(trace: Trace, kept: np.ndarray) -> Iterator[str]:
    """Convolutions that lost inputs and can be refitted: dense, with somewhere to put an intercept."""
    for conv in trace.convs.values():
        gone = (conv.inputs != FIXED) & ~kept[conv.inputs]
        if gone.any() and conv.groups == 1 and (conv.bias or conv.norm is not None):
            yield conv.name


def _stay(conv: Conv, kept: np.ndarray) -> np.ndarray:
    return np.flatnonzero((conv.outputs == FIXED) | kept[conv.outputs])


def _install(slim: nn.Module, conv: Conv, weights: Tensor, intercept: Tensor) -> None:
    layer = slim.get_submodule(conv.name)
    layer.weight.copy_(weights.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(intercept)
    else:
        norm = slim.get_submodule(conv.norm)
        norm.running_mean -= intercept.to(norm.running_mean.dtype)
