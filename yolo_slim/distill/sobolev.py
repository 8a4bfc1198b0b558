"""Sobolev training: the student's answer shall change with the image as the teacher's does (arXiv:1706.04859).

No entry of `FEATURES` or `OUTPUTS`, and off: those see what two detectors say, and this asks how it hangs on the image,
for which both have to be run with a graph down to the pixels, the student's to be differentiated twice.
`scripts/teach.py --how sobolev` trains so from scratch, beside a control, and times a step. Activations have to be
smooth: SiLU is, of LeakyReLU and ReLU the second derivative is zero, and little is learned.

Cost: two to three times that of a step without it, and the memory of both graphs; each further direction adds a
backward pass of both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Answer = Callable[[Tensor], Tensor]
"""From images (B, C, H, W), or any (B, ...), to what is compared of what is said of them, (B, ...)."""


def sobolev(
    student: Answer,
    teacher: Answer,
    images: Tensor,
    *,
    directions: int = 1,
    value: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """value * |s(x) - t(x)|^2 + mean over v of |grad_x <v, s(x)> - grad_x <v, t(x)>|^2, a mean over images (eq. 4).

    The v are random unit vectors in the space of answers, one an image and direction: the whole Jacobian would take
    as many backward passes as an answer has numbers. Of a single number, v is 1 or -1, and it is exact.

    Args:
        student: what gradients reach; for a detector e.g. `confidence` of its logits.
        teacher: what they do not.
        images: (B, ...).
        directions: how many v.
        value: weight of the first term; 0 leaves it to other losses.
        generator: of the v.
    """
    x = images.detach().requires_grad_(True)
    said, wanted = student(x).flatten(1), teacher(x).flatten(1)
    if said.shape != wanted.shape:
        raise ValueError(f"expected answers of one shape, got {tuple(said.shape)} and {tuple(wanted.shape)}")
    loss = value * (said - wanted.detach()).square().sum(1).mean()
    for _ in range(directions):
        v = torch.randn(said.shape, generator=generator, dtype=said.dtype, device=said.device)
        v = v / v.norm(dim=1, keepdim=True)
        (ours,) = torch.autograd.grad((said * v).sum(), x, create_graph=True)
        (theirs,) = torch.autograd.grad((wanted * v).sum(), x, retain_graph=True)
        loss = loss + (ours - theirs.detach()).square().flatten(1).sum(1).mean() / directions
    return loss


def confidence(scores: Tensor) -> Tensor:
    """(B, 1): the sum of a detector's probabilities, of logits (B, K, A): one number an image, so one direction is all.

    What is compared is then where in the image both see objects: which pixels raise what is found.
    """
    return scores.sigmoid().flatten(1).sum(1, keepdim=True)
