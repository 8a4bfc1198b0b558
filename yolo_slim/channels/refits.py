"""What least squares makes of any cut, without looking at an image again: to compare many cuts with one another.

`reconstruct` refits front to back, each layer to what the slim detector hands it, and runs the images anew for every
cut. Here each layer is refitted to what it read in the original, whose second moments are taken once: of the inputs K
that stay and R that go, with A their covariance, W' = W_K + W_R A_RK (A_KK + ridge)^-1 (He et al., Channel Pruning,
ICCV 2017, arXiv:1707.06168, 3.1, in closed form). It does not know of errors that layers before have made, and what is
written in the end is refitted by `reconstruct`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels.groups import FIXED, Trace
from yolo_slim.channels.moments import RIDGE, Moments, damp, look
from yolo_slim.channels.reconstruct import install, refittable, to_refit
from yolo_slim.channels.surgery import cut, stays
from yolo_slim.errors import SlimError

MEMORY = 2 << 30
"""Bytes that all covariances may take: of layers with larger ones, only the means of what goes are made up for."""


class Refits:
    """A detector, and what its layers read on some images.

    Args:
        detector: whole; left alone.
        trace: of it.
        batches: images (B, C, H, W), read once.
        points: output positions drawn in each image for each layer.
        ridge: as `reconstruct` takes it.
        seed: of the positions.
        memory: bytes of covariances to hold.

    Raises:
        SlimError: there are no batches, or a layer reads what is not finite.
    """

    def __init__(
        self,
        detector: nn.Module,
        trace: Trace,
        batches: Iterable[Tensor],
        *,
        points: int = 64,
        ridge: float = RIDGE,
        seed: int = 0,
        memory: int = MEMORY,
    ) -> None:
        self.detector, self.trace, self.ridge = detector, trace, ridge
        self.fitted: dict[str, tuple[bytes, Tensor, Tensor]] = {}
        """Layer -> the inputs that stayed when it was refitted last, its weights and intercept."""
        some = filter(refittable, trace.convs.values())
        sizes = sorted((4 * c.layer(detector).weight[0].numel() ** 2, c.name) for c in some)
        held = {
            name for (_, name), total in zip(sizes, np.cumsum([s for s, _ in sizes]), strict=True) if total <= memory
        }
        moments = {name: Moments() for _, name in sizes}

        def see(name: str, x: Tensor) -> None:
            moments[name].add(*((x, x[:, :0]) if name in held else (x[:, :0], x)))

        if not look(detector, moments, batches, see, points=points, seed=seed):
            raise SlimError("expected images to see what layers read, got none")
        self.inputs = {name: _inputs(name, found, name in held) for name, found in moments.items() if found.n}

    @torch.no_grad()
    def __call__(self, kept: np.ndarray) -> nn.Module:
        """A new detector: cut to `kept` (bool per channel), and what read removed channels refitted."""
        slim = cut(self.detector, self.trace, kept)
        for name in to_refit(self.trace, kept, ()):
            conv = self.trace.convs[name]
            if name in self.inputs:
                weights, intercept = self._fit(name, kept)
                out = torch.as_tensor(stays(conv.outputs, kept), device=weights.device)
                install(slim, self.detector, self.trace, conv, kept, weights[out], intercept[out])
        return slim

    def _fit(self, name: str, kept: np.ndarray) -> tuple[Tensor, Tensor]:
        """Weights (Co, a') and intercept (Co,) of all outputs, from the inputs that stay."""
        conv = self.trace.convs[name]
        there = (conv.inputs == FIXED) | kept[conv.inputs]
        if (last := self.fitted.get(name)) and last[0] == there.tobytes():
            return last[1:]
        layer, (covariance, mean) = conv.layer(self.detector), self.inputs[name]
        weight = layer.weight.flatten(1).float()
        on = torch.as_tensor(np.repeat(there, weight.shape[1] // len(there)), device=weight.device)
        fitted = weight[:, on]
        if covariance is not None:
            staying = covariance[on][:, on].double()
            damp(staying, self.ridge)
            lent = torch.linalg.solve(staying, (covariance[on][:, ~on] @ weight[:, ~on].T).double()).T
            fitted = fitted + lent.to(weight)
        intercept = weight @ mean - fitted @ mean[on]
        if layer.bias is not None:
            intercept = intercept + layer.bias
        self.fitted[name] = there.tobytes(), fitted, intercept
        return fitted, intercept


def _inputs(name: str, moments: Moments, whole: bool) -> tuple[Tensor | None, Tensor]:
    """Covariance (a, a), of those that are held whole, and mean (a,) of what a layer reads."""
    if not moments.finite() or not torch.isfinite(moments.y).all():
        raise SlimError(f"what {name} reads is not finite. Are the images in [0, 1], and all weights finite?")
    origin, sums = (moments.origin[0], moments.x) if whole else (moments.origin[1], moments.y)
    mean = (origin + sums / moments.n).float()
    return moments.covariance().float() if whole else None, mean
