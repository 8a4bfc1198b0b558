"""Distributions at a temperature: how far a student's are from its teacher's (Hinton et al., arXiv:1503.02531, 2).

T^2 keeps the size of gradients, which go with 1 / T^2. Everything is 0, and has no gradient, where both agree.
"""

from __future__ import annotations

from torch import Tensor, nn

from yolo_slim.errors import SlimError


def divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)) of logits, summed over the entries of `dim`, which goes."""
    s, t = ((x / temperature).log_softmax(dim) for x in (student, teacher))
    return temperature**2 * nn.functional.kl_div(s, t, reduction="none", log_target=True).sum(dim)


def binary_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(sigmoid(t / T) || sigmoid(s / T)) of each logit: the cross-entropy less the teacher's entropy."""
    s, t = student / temperature, teacher / temperature
    soft, bce = t.sigmoid(), nn.functional.binary_cross_entropy_with_logits
    return temperature**2 * (bce(s, soft, reduction="none") - bce(t, soft, reduction="none"))


def positive(loss: str, temperature: float) -> float:
    """The temperature, once it is known to be one.

    Raises:
        SlimError: it is not above 0.
    """
    if not temperature > 0:
        raise SlimError(f"distillation `{loss}`: temperature should be above 0, {temperature} came; 1 changes nothing")
    return temperature
