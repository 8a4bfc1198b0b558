"""Where a fine-tuning ends: at what was trained, where it began, or on the way between, whichever is worth most.

Short trainings of a detector that has lost little do harm before they help; weights between two ends of one
descent are often better than either (Wortsman et al., WiSE-FT, CVPR 2022, arXiv:2109.01903).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from yolo_slim.formats.detector import Detector
from yolo_slim.mould import duplicate

ENDS = {1.0: "trained", 0.75: "three quarters of the way", 0.5: "half way", 0.0: "start"}
"""Share of the way from the start to what was trained -> what is said of it; of equals the first is taken."""


@torch.no_grad()
def between(start: nn.Module, trained: Detector, share: float) -> Detector:
    """A copy of `trained` with every number this share of the way from `start`; statistics of batch norm too."""
    mixed = duplicate(trained)
    begun = start.state_dict()
    for name, value in mixed.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(begun[name].to(value), value, share))
    return mixed


def best_end(
    start: nn.Module, trained: Detector, worth: Callable[[nn.Module], float], begun: float
) -> tuple[Detector, float, dict[float, float]]:
    """That of `ENDS` which is worth most.

    Args:
        start: what the training began with.
        trained: what it came to; of the same widths.
        worth: of a detector, on images that neither was trained on.
        begun: what the start is worth.

    Returns:
        it, its share, and what each share is worth.
    """
    worths = {share: worth(between(start, trained, share)) if share else begun for share in ENDS}
    taken = max(worths, key=lambda share: worths[share])
    return between(start, trained, taken), taken, worths
