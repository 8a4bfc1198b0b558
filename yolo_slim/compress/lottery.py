"""Lottery tickets: the weights that stay large are set back to what they were early in training, and trained alone.

Frankle & Carbin, ICLR 2019, arXiv:1803.03635; back to an early epoch instead of to the start: arXiv:1903.01611,
arXiv:1912.05671. Tickets are found by the size of trained weights, not by which units are used. Reference
implementations take out one weight more than asked (`<=` against a threshold); here it is as many as the share says,
rounded down: of 10 weights at 0.2 a round, 8 and then 7 are left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace
from yolo_slim.compress.held import holding
from yolo_slim.compress.layers import eligible
from yolo_slim.compress.method import Plan
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

Masks = Mapping[str, Tensor]
"""Parameter -> bool, like it: what is left."""


def left_of(count: int, share: float) -> int:
    """How many of so many are left after a round that takes out a share, rounded down.

    Raises:
        ValueError: a share that is none.
    """
    if not 0 <= share < 1:
        raise ValueError(f"prune: expected a share from 0 to below 1, got {share}")
    return count - math.floor(round(count * share, 9))  # .29 * 100 is 28.999...


def all_left(detector: nn.Module, trace: Trace) -> dict[str, Tensor]:
    """Masks before the first round: of the weights of all convolutions but the first and those that predict."""
    return {
        f"{conv.name}.weight": torch.ones_like(conv.layer(detector).weight, dtype=torch.bool)
        for conv in eligible(trace)
    }


@torch.no_grad()
def next_round(trained: nn.Module, masks: Masks, share: float) -> dict[str, Tensor]:
    """Masks after a round: of what is left, the share that is smallest in all layers together has gone.

    Of weights of the same size, those that come first go first.

    Args:
        trained: by what a weight is judged; left alone.
        masks: before.
        share: of the weights that are left.

    Raises:
        SlimError: a weight that is no number, or nothing that would go.
    """
    weights = {name: trained.get_parameter(name) for name in masks}
    size = torch.cat([weights[name].abs().flatten().float().cpu() for name in masks])
    if not bool(torch.isfinite(size).all()):
        raise SlimError("the trained detector has weights that are no numbers: none of them can be judged")
    there = torch.cat([mask.flatten().cpu() for mask in masks.values()])
    count = int(there.sum())
    if (goes := count - left_of(count, share)) == 0:
        raise SlimError(
            f"of {count} weights that are left, a share of {share} is none: nothing is pruned in this round"
        )
    order = size.masked_fill(~there, torch.inf).argsort(stable=True)
    after = there.index_fill(0, order[:goes], False)
    parts = after.split([mask.numel() for mask in masks.values()])
    return {name: part.view(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)}


@torch.no_grad()
def rewound(early: nn.Module, masks: Masks) -> nn.Module:
    """A new detector with what is left as it was early on, bit for bit, batch norms with their statistics as well.

    What has gone is zero. With the detector of an early epoch that is the ticket; with one of new random weights, the
    control.
    """
    ticket = duplicate(early)
    holding(Plan({}, dict(masks)))(ticket, 0.0)
    return ticket
