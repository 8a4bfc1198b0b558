"""Refit the weights that read removed channels, so that each layer gives again what it gave in the original.

For every convolution downstream of a cut, front to back: its inputs X come from the slim detector, already refitted up
to there, its targets Y from the original at the same positions, and the least-squares solution replaces its weights (He
et al., Channel Pruning, ICCV 2017, arXiv:1707.06168, 3.1-3.2, step ii). The intercept goes into the bias or the batch
norm behind. No labels, no gradients; memory holds one batch and the Gram matrices of a few layers, never the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_slim.channels.groups import FIXED, Conv, Trace
from yolo_slim.channels.memo import Memo
from yolo_slim.channels.surgery import stays
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

RIDGE = 1e-3
"""Weight of staying at the cut weights, against the mean variance of an input: keeps directions that the images do not
show as they were."""


class Moments:
    """Sums over samples from which a least-squares fit with intercept follows: X (N, a) against Y (N, b)."""

    def __init__(self) -> None:
        self.n = 0
        # Sums are of differences to the first mean: a covariance is small beside squares of what is far from zero.
        self.origin: tuple[Tensor, Tensor]  # (a,), (b,)
        self.x = torch.zeros(())  # (a,)
        self.y = torch.zeros(())  # (b,)
        self.xx = torch.zeros(())  # (a, a)
        self.xy = torch.zeros(())  # (a, b)

    def add(self, x: Tensor, y: Tensor) -> None:
        """More samples: (n, a) and (n, b)."""
        if not self.n:
            self.origin = x.mean(0), y.mean(0)
        x, y = x - self.origin[0], y - self.origin[1]
        self.n += len(x)
        self.x = self.x + x.sum(0, dtype=torch.float64)
        self.y = self.y + y.sum(0, dtype=torch.float64)
        self.xx = self.xx + (x.T @ x).double()
        self.xy = self.xy + (x.T @ y).double()

    def finite(self) -> bool:
        """Whether all samples were numbers, and small enough to be squared."""
        return bool(torch.isfinite(self.xx).all() and torch.isfinite(self.xy).all())

    def covariance(self) -> Tensor:
        """Of the inputs, (a, a)."""
        return (self.xx - torch.outer(self.x, self.x) / self.n) / self.n

    def fit(self, start: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """Weights (b, a) and intercept (b,) that minimise mean |Y - X W' - c|^2 + ridge * |W - start|^2.

        `ridge` is in units of the mean variance of an input; it makes the solution unique and ties what the samples
        do not determine to `start` (b, a).
        """
        xx, start = self.covariance(), start.double()
        pull = (self.xy - torch.outer(self.x, self.y) / self.n) / self.n - xx @ start.T
        damp(xx, ridge)
        weights = start + torch.linalg.solve(xx, pull).T
        mean_x, mean_y = (o + s / self.n for o, s in zip(self.origin, (self.x, self.y), strict=True))
        return weights, mean_y - weights @ mean_x


def damp(covariance: Tensor, share: float) -> None:
    """Add a share of its mean to a covariance's diagonal, in place: no direction is without a say of its own."""
    covariance.diagonal().add_(share * covariance.diagonal().mean().clamp(min=1e-12))


def patches(image: Tensor, conv: nn.Conv2d, rows: Tensor, columns: Tensor) -> Tensor:
    """What the convolution multiplies at the given output positions.

    Args:
        image: (B, C, H, W).
        rows: (P,) output rows; `columns`: (P,) output columns.

    Returns:
        (B * P, C * kh * kw), in the order of `conv.weight.flatten(1)`.
    """
    (kh, kw), (sy, sx), (dy, dx) = conv.kernel_size, conv.stride, conv.dilation
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = F.pad(image, conv._reversed_padding_repeated_twice, mode)  # as the layer pads, "same" included
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
    also: Collection[str] = (),
    points: int = 64,
    ridge: float = RIDGE,
    seed: int = 0,
    memory: int = 2 << 30,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> nn.Module:
    """A copy of `slim` whose convolutions are refitted, front to back, to what they gave in the original.

    Args:
        slim: `detector` after the cut.
        detector: the original, at full width; it may hold residual branches that the traced one no longer has.
        trace: of the detector that was cut.
        kept: bool per channel.
        batches: images (B, C, H, W); read once for each level of depth.
        also: further convolutions to refit, because what they read has lost a residual branch.
        points: output positions drawn in each image for each layer (all of them where a map has fewer).
        ridge: how firmly directions that the images do not show stay at the cut weights.
        seed: of the positions.
        memory: bytes of intermediate maps to keep at most; with fewer, more is computed again.
        step: called with (layers fitted, layers to fit) whenever some are done.

    Raises:
        SlimError: there are no batches, or a layer to refit sees something that is not finite.
    """
    healed = duplicate(slim)
    memos = Memo(healed, memory // 2), Memo(detector, memory // 2)
    waiting, done = set(to_refit(trace, kept, also)), 0
    while waiting:
        found = _gather(memos, trace, kept, waiting, batches, points, seed)
        for name, sums in found.items():
            fitted = sums.fit(trace.convs[name].layer(healed).weight.flatten(1), ridge)
            install(healed, detector, trace, trace.convs[name], kept, *fitted)
        for memo in memos:
            memo.forget_unread()
        waiting -= found.keys()
        done += len(found)
        step(done, done + len(waiting))
    return healed


def _gather(
    memos: tuple[Memo, Memo],
    trace: Trace,
    kept: np.ndarray,
    waiting: set[str],
    batches: Iterable[Tensor],
    points: int,
    seed: int,
) -> dict[str, Moments]:
    """One pass over the batches: samples of all layers that can be fitted now, from both detectors."""
    moments: dict[str, Moments] = {}
    ready = None
    for number, batch in enumerate(batches):
        ready = _ready(memos, batch, waiting) if ready is None else ready
        if not ready:
            break
        inputs, originals = (memo.run(number, batch, waiting, ready) for memo in memos)
        if not len(inputs) == len(originals) == len(ready):
            raise _not_finite(ready[0])
        for (name, image), (_, original) in zip(inputs, originals, strict=True):
            conv, (slim, full) = trace.convs[name], (memo.modules[name] for memo in memos)
            out = full(original)
            at = draw(out, points, [seed, number])
            y = out[:, torch.as_tensor(stays(conv.outputs, kept), device=out.device)][:, :, at[0], at[1]]
            moments.setdefault(name, Moments()).add(patches(image, slim, *at), y.permute(0, 2, 1).flatten(0, 1))
    if ready is None:
        raise SlimError("expected batches of images that can be read again and again to refit the layers on, got none")
    for name, sums in moments.items():
        if not sums.finite():
            raise _not_finite(name)
    return moments


def _not_finite(name: str) -> SlimError:
    return SlimError(
        f"cannot refit {name}: what it reads or what it gave in the original is not a number, or too large, "
        "on the images given. Are these in [0, 1], and all weights of the detector finite?"
    )


def _ready(memos: tuple[Memo, Memo], batch: Tensor, waiting: set[str]) -> list[str]:
    """The calls that can be fitted now: of layers that can be in all their calls, if there are such.

    Takes those out of `waiting` that are never called: some layers run in train mode only.
    """
    slim, full = ([name for name, _ in memo.probe(0, batch, waiting)] for memo in memos)
    calls = memos[1].calls
    waiting.intersection_update(calls)
    if slim != full or (waiting and not full):
        raise _not_finite(sorted(waiting)[0])
    return [name for name in full if full.count(name) == calls[name]] or full


def draw(out: Tensor, points: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of `points` positions of a map (B, C, H, W), without repetition."""
    h, w = out.shape[2:]
    at = torch.as_tensor(np.random.default_rng(seed).permutation(h * w)[:points], device=out.device)
    return at // w, at % w


def to_refit(trace: Trace, kept: np.ndarray, also: Collection[str]) -> Iterator[str]:
    """Convolutions that lost inputs and can be refitted."""
    for conv in trace.convs.values():
        gone = (conv.inputs != FIXED) & ~kept[conv.inputs]
        if (gone.any() or conv.name in also) and refittable(conv):
            yield conv.name


def refittable(conv: Conv) -> bool:
    """Whether a convolution is dense, with somewhere to put an intercept."""
    return conv.groups == 1 and (conv.bias or conv.norm is not None)


def install(
    slim: nn.Module,
    detector: nn.Module,
    trace: Trace,
    conv: Conv,
    kept: np.ndarray,
    weights: Tensor,
    intercept: Tensor,
) -> None:
    """Put weights (Co', a') and an intercept (Co',) into a layer of a slim detector; the latter into its batch norm."""
    layer = conv.layer(slim)
    layer.weight.copy_(weights.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(intercept)
    elif conv.norm is not None:  # from the original's mean: the slim one's may hold what was absorbed
        norm = trace.norms[conv.norm]
        mean = norm.layer(detector).running_mean[torch.as_tensor(stays(conv.outputs, kept))]
        norm.layer(slim).running_mean.copy_(mean - intercept)
