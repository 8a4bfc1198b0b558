"""From a scan, how much worse the detector gets when one group alone loses channels, to an order of removal.

The scan and the rule to pick ratios: Li et al., Pruning Filters, ICLR 2017, arXiv:1608.08710, 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yolo_slim.channels.space import Space
from yolo_slim.errors import SlimError

HOPELESS = 1e12  # stands for a detector that answers with no number at all


@dataclass(frozen=True)
class Curve:
    """What the removal of a share of one group's channels, the lowest scores first, does to the detector."""

    ratios: tuple[float, ...]  # rising, in [0, 1], the last above 0
    worse: tuple[float, ...]  # loss added or mAP lost at each ratio, against the detector as it is

    def at(self, ratios: np.ndarray) -> np.ndarray:
        """How much worse at any ratio in [0, 1]: linear between the scanned ones, never falling, from zero at zero.

        Past the last ratio scanned it goes on at its mean slope.
        """
        worse = np.nan_to_num(np.array(self.worse, float), nan=HOPELESS, posinf=HOPELESS)
        rising = np.maximum.accumulate([0.0, *worse])
        return np.interp(ratios, [0.0, *self.ratios, 1.0], [*rising, rising[-1] / self.ratios[-1]])


def removal_keys(space: Space, curves: Mapping[str, Curve]) -> list[np.ndarray]:
    """For each group, how much worse the detector is after its 1st, 2nd, ... removal; fixed ones go before.

    Raises:
        SlimError: a group that may lose channels was not scanned.
    """
    keys = []
    for group, fixed, n in zip(space.groups, space.fixed, space.removable, strict=True):
        if n and group.name not in curves:
            raise SlimError(f"the scan says nothing about {group.name}: run `yolo-slim sensitivity` on this detector")
        shares = (fixed + 1 + np.arange(n)) / group.size
        keys.append(curves[group.name].at(shares) if n else np.empty(0))
    return keys
