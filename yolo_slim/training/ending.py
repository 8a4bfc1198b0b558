"""Where a fine-tuning ends: at what was trained, where it began, or half way between, whichever is worth most.

Short trainings of a detector that has lost little do harm before they help; weights half way between two ends of one
descent are often better than either (Wortsman et al., WiSE-FT, CVPR 2022, arXiv:2109.01903).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from yolo_slim.formats.detector import Detector

SHARES = (1.0, 0.5, 0.0)
"""Of the way from the start to what was trained."""


@torch.no_grad()
def between(start: nn.Module, trained: Detector, share: float) -> Detector:
    """A copy of `trained` with every number this share of the way from `start`; statistics of batch norm too."""
    mixed = copy.deepcopy(trained)
    begun = start.state_dict()
    for name, value in mixed.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(begun[name].to(value), value, share))
    return mixed


def best_end(
    start: nn.Module, trained: Detector, worth: Callable[[nn.Module], float], shares: Sequence[float] = SHARES
) -> tuple[Detector, float, dict[float, float]]:
    """The detector that is worth most; of equals the one that comes first in `shares`.

    Args:
        start: what the training began with.
        trained: what it came to; of the same widths.
        worth: of a detector, on images that neither was trained on.
        shares: of the way.

    Returns:
        it, its share, and what each share is worth.
    """
    worths = {share: worth(between(start, trained, share)) for share in shares}
    taken = max(worths, key=lambda share: worths[share])
    return (trained if taken == 1 else between(start, trained, taken)), taken, worths
