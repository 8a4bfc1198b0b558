"""Images out of a detector: what its batch norms remember of those it was trained on (DeepInversion, arXiv:1912.08795).

For when there is no image at all to recover on: noise is changed until every layer sees means and variances such as its
batch norm has kept. What comes out looks like texture more than like objects, and holds nothing that was not averaged
over a whole data set; a few hundred real images without labels teach more. Lopes et al. (arXiv:1710.07535) keep
statistics of single images, DAFL (arXiv:1904.01186) needs a softmax over classes: no YOLO has either. Boxes that are
asked for (Chawla et al., WACV 2021) would need the loss of each head; they are left out.

Cost: a forward and a backward pass of the whole detector a step and batch: some 2 s for 16 images of 320 px on one core
(YOLOv5n); thousands of images take GPU-hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from yolo_slim.errors import SlimError

RATE = 0.05
SMOOTH = 0.1
"""Weight of the total variation, of statistics whose terms are each about 1 at the start."""
SHIFT = 8
"""Pixels by which images are moved at random, a step: no pattern may hang on the grid of strides."""
EPS = 1e-5
TINY = 1e-12
"""Under a root: its slope at 0 is none."""


def gap(mean: Tensor, var: Tensor, norm: nn.BatchNorm2d, relative: bool = False) -> Tensor:
    """Sum over channels of (mu(x) - mu)^2 + (var(x) - var)^2.

    Args:
        mean: (C,) of what a batch norm reads now.
        var: (C,).
        norm: it.
        relative: as in the paper (eq. 4) lengths, not their squares, and each a root mean square as a share of the
            layer's mean deviation or variance: of squares the layer that is furthest off would be all that counts.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    means, variances = (mean - norm.running_mean).square(), (var - norm.running_var).square()
    if not relative:
        return means.sum() + variances.sum()
    scale = norm.running_var.mean() + EPS
    return (means.mean() / scale + TINY).sqrt() + (variances.mean() / scale.square() + TINY).sqrt()


def variation(images: Tensor) -> Tensor:
    """Mean square of the differences between neighbours, of images (B, C, H, W)."""
    return images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()


@contextmanager
def watched(detector: nn.Module, relative: bool = True) -> Iterator[list[Tensor]]:
    """A list to which a pass adds the gap of each batch norm, in the order they run; clear it before the next."""
    gaps: list[Tensor] = []

    def look(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        gaps.append(gap(x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False), norm, relative))

    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
    if not norms:
        raise SlimError("expected a detector with batch norms, which remember what it was trained on; it has none")
    held = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        yield gaps
    finally:
        for hook in held:
            hook.remove()


def dream(
    detector: nn.Module,
    images: Tensor,
    steps: int,
    *,
    rate: float = RATE,
    smooth: float = SMOOTH,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Images (B, C, H, W) in [0, 1] whose statistics are those the detector remembers; it is left as it is.

    Args:
        detector: in eval mode while it is looked through, and back in its own afterwards.
        images: what to begin with: noise. Two at least: of one alone, a small map has no variance.
        steps: of Adam.
        rate: of Adam, at the start; it falls to zero along a half cosine.
        smooth: weight of the total variation.
        generator: on the CPU, of the shifts.
        on_step: is told each step's number and loss.

    Raises:
        SlimError: the detector has no batch norm, or what it sees is no number.
    """
    x = images.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    modes = {module: module.training for module in detector.modules()}
    detector.eval()
    try:
        with watched(detector) as gaps:
            for step in range(steps):
                gaps.clear()
                by = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
                detector(x.roll(by, (2, 3)))
                loss = torch.stack(gaps).mean() + smooth * variation(x)
                if not torch.isfinite(loss):
                    raise SlimError(f"dreaming broke down in step {step}: what the detector sees is no number any more")
                (x.grad,) = torch.autograd.grad(loss, x)
                optimizer.step()
                falling.step()
                with torch.no_grad():
                    x.clamp_(0, 1)
                if on_step:
                    on_step(step, loss.item())
    finally:
        for module, training in modes.items():
            module.training = training
    return x.detach()
