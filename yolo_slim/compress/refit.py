"""Refit a compressed detector: each layer gives again what one of the original gave, as nearly as its form allows.

Front to back, by least squares, without labels and gradients, as `channels.reconstruct` does after a cut: a layer is
fitted to what the layers before it, fitted already, hand it. Which forms its weights may take, its method knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from yolo_slim.channels import trace
from yolo_slim.channels.moments import RIDGE, Moments
from yolo_slim.channels.reconstruct import front_to_back, put
from yolo_slim.compress.method import Method, Plan
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate


@torch.no_grad()
def refit(
    compressed: nn.Module,
    original: nn.Module,
    plan: Plan,
    method: Method,
    batches: Iterable[Tensor],
    *,
    points: int = 64,
    ridge: float = RIDGE,
    seed: int = 0,
    memory: int = 2 << 30,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> nn.Module:
    """A copy of `compressed` whose layers in `plan.refit` are fitted, by `method.fit`, to the original's.

    Of several that are fitted to one, the last takes up the intercept; where there is neither a bias nor a batch norm
    for it, they stay as they are.

    Args:
        compressed: what `method.apply` made of it.
        original: left alone, as `compressed` is.
        plan: that was followed.
        method: that followed it.
        batches: images (B, C, H, W); read once for each level of depth.
        points: output positions drawn in each image for each layer.
        ridge: how firmly directions that the images do not show stay at the weights there are.
        seed: of the positions.
        memory: bytes of intermediate maps to keep at most; with fewer, more is computed again.
        step: called with (layers fitted, layers to fit) whenever some are done.

    Raises:
        SlimError: there are no batches, or a layer sees something that is not finite.
    """
    healed = duplicate(compressed)
    if not plan.refit:
        return healed
    first = next(iter(batches), None)
    if first is None:
        raise SlimError("expected batches of images that can be read again and again to refit the layers on, got none")
    hw = first.shape[2], first.shape[3]
    new, old = trace(healed, hw), trace(original, hw)

    def fit(name: str, sums: Moments) -> None:
        conv, was = new.convs[name], old.convs[plan.refit[name]]
        layer = conv.layer(healed)
        weights, intercept = method.fit(name, layer.weight.flatten(1), sums, plan)
        norm = new.norms[conv.norm].layer(healed) if conv.norm is not None else None
        mean = old.norms[was.norm].layer(original).running_mean if was.norm is not None else None
        put(layer, norm, mean, weights, intercept)

    last = {was: new.convs[name] for name, was in plan.refit.items()}
    pairs = {name: was for name, was in plan.refit.items() if last[was].bias or last[was].norm is not None}
    front_to_back(
        healed, original, pairs, batches, fit, points=points, ridge=ridge, seed=seed, memory=memory, step=step
    )
    return healed
