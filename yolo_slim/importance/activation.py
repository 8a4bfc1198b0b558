"""What a channel's maps look like on images: how much they vary, how large they are, how often they are on.

Moments are taken at each consumer's own input: over the positions of an image first, then over images, all images
alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace
from yolo_slim.importance.combine import Rows, rows_of, scored
from yolo_slim.importance.evidence import Evidence
from yolo_slim.importance.magnitude import filters_of
from yolo_slim.importance.places import Place, made, watch


@scored(normalize="mean")
def act_std(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """std(a_c) * ||W[:, c]||_2, summed over the consumers and the slots that the channel fills there: one row.

    What is lost when the mean of a removed channel is absorbed. The variance is that of all positions of all images:
    the mean of the variances within images plus the variance of the means of images. With `bn_fold`, W is as the
    consumer's batch norm scales it.

    Raises:
        SlimError: no images.
    """

    def moments(a: Tensor) -> Tensor:
        within, mean = torch.var_mean(a, (2, 3), correction=0)
        return torch.stack([within.double(), mean.double(), mean.double().square()])

    def std(moments: Tensor) -> Tensor:
        within, mean, square = moments
        return (within + square - mean.square()).clamp(min=0).sqrt()

    return _of_readers(detector, trace, evidence, "act_std", moments, std)


@scored(normalize="mean")
def act_mean(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """mean |a_c| * ||W[:, c]||_2, summed as in `act_std`; for comparison: a constant counts, though it is absorbed.

    Raises:
        SlimError: no images.
    """
    return _of_readers(
        detector, trace, evidence, "act_mean", lambda a: a.abs().mean((2, 3)).double()[None], lambda means: means[0]
    )


def apoz(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """Share of positions at which the batch norm's output is above zero, a row for each producer.

    One minus the average percentage of zeros (Hu et al. 2016, arXiv:1607.03250, 3.1), before the activation: SiLU has
    no zeros of its own, and z <= 0 is what ReLU would make zero.

    Raises:
        SlimError: no images.
    """
    on = _averages(detector, trace, evidence, "apoz", "made", lambda z: (z > 0).double().mean((2, 3))[None])
    return {
        g.name: np.concatenate(
            [np.empty((0, g.size))] + [rows_of(g, slots, on[n][0]) for n, slots in made(trace, g).items() if n in on]
        )
        for g in trace.free
    }


def _of_readers(
    detector: nn.Module,
    trace: Trace,
    evidence: Evidence,
    criterion: str,
    look: Callable[[Tensor], Tensor],
    size: Callable[[Tensor], Tensor],
) -> Rows:
    """`size` of the averages of `look` at each consumer's input, times what its weights make of it."""
    averages = _averages(detector, trace, evidence, criterion, "read", look)
    found: Rows = {}
    for group in trace.free:
        total = np.zeros(group.size)
        for conv in (trace.convs[name] for name in group.consumers if name in averages):
            filters = filters_of(detector, trace, conv, evidence.bn_fold)
            columns = filters.unflatten(1, (len(conv.inputs), -1))  # [Co, Ci, k]
            total += rows_of(group, conv.inputs, size(averages[conv.name]) * columns.double().norm(dim=(0, 2))).sum(0)
        found[group.name] = total[None]
    return found


def _averages(
    detector: nn.Module,
    trace: Trace,
    evidence: Evidence,
    criterion: str,
    at: Place,
    look: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Mean over images of `look`, which makes [M, B, C] of a map: module -> [M, C]."""
    sums: dict[str, Tensor] = {}
    seen: dict[str, int] = {}

    def add(name: str, values: Tensor) -> None:
        sums[name] = sums.get(name, 0) + look(values).sum(1)
        seen[name] = seen.get(name, 0) + len(values)

    watch(detector, trace, evidence, criterion, at, add)
    return {name: total / seen[name] for name, total in sums.items()}
