"""What a convolution reads, at positions drawn by chance, and the sums over such samples that least squares needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_slim.channels.hooks import hooked
from yolo_slim.channels.surgery import evaluating

RIDGE = 1e-3
"""Weight of staying at the cut weights, against the mean variance of an input: keeps directions that the images do not
show as they were."""


class Moments:
    """Sums over samples from which a least-squares fit with intercept follows: X (N, a) against Y (N, b).

    Args:
        ridge: of its fits, where they are not told another.
    """

    def __init__(self, ridge: float = RIDGE) -> None:
        self.n, self.ridge = 0, ridge
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

    def normal(self, start: Tensor, ridge: float | None = None) -> tuple[Tensor, Tensor]:
        """The normal equations of `fit`: (a, a) and (a, b), which the difference to `start` (b, a) solves."""
        xx = self.covariance()
        pull = (self.xy - torch.outer(self.x, self.y) / self.n) / self.n - xx @ start.double().T
        damp(xx, self.ridge if ridge is None else ridge)
        return xx, pull

    def intercept(self, weights: Tensor) -> Tensor:
        """The best one, (b,), beside weights (b, a)."""
        mean_x, mean_y = (o + s / self.n for o, s in zip(self.origin, (self.x, self.y), strict=True))
        return mean_y - weights @ mean_x

    def fit(self, start: Tensor, ridge: float | None = None) -> tuple[Tensor, Tensor]:
        """Weights (b, a) and intercept (b,) that minimise mean |Y - X W' - c|^2 + ridge * |W - start|^2.

        `ridge` is in units of the mean variance of an input; it makes the solution unique and ties what the samples
        do not determine to `start` (b, a).
        """
        weights = start.double() + torch.linalg.solve(*self.normal(start, ridge)).T
        return weights, self.intercept(weights)


def look(
    detector: nn.Module,
    names: Iterable[str],
    batches: Iterable[Tensor],
    see: Callable[[str, Tensor], None],
    *,
    points: int,
    seed: int,
) -> int:
    """Run a detector once, and show what convolutions read.

    Args:
        detector: runs in eval mode; left alone.
        names: of the convolutions.
        batches: images (B, C, H, W).
        see: called with a name and samples (B * P, a), as `patches` gives them, of each call.
        points: P, positions drawn in each image for each layer.
        seed: of the positions.

    Returns:
        how many batches there were.
    """
    number = 0

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Conv2d, args: tuple[Tensor, ...], out: Tensor) -> None:
            see(name, patches(args[0], layer, *draw(out, points, [seed, number])))

        return hook

    handles = (detector.get_submodule(name).register_forward_hook(watch(name)) for name in names)
    with torch.no_grad(), evaluating(detector), hooked(handles):
        for batch in batches:
            detector(batch)
            number += 1
    return number


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


def draw(out: Tensor, points: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of `points` positions of a map (B, C, H, W), without repetition."""
    h, w = out.shape[2:]
    at = torch.as_tensor(np.random.default_rng(seed).permutation(h * w)[:points], device=out.device)
    return at // w, at % w
