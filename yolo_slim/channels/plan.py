"""Which channels stay, as data: made by a selection, or replayed from a saved cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from yolo_slim.channels.groups import FIXED, Trace
from yolo_slim.errors import SlimError


@dataclass(frozen=True)
class Plan:
    """Which channels stay: `kept` is a bool per channel of the trace it was made for."""

    kept: np.ndarray

    def __repr__(self) -> str:
        return f"<Plan: {int(self.kept.sum())} of {len(self.kept)} channels stay>"

    def outputs(self, trace: Trace) -> dict[str, list[int]]:
        """Convolution's module name -> indices of the output channels that stay, for those that lose any."""
        stay = {c.name: np.flatnonzero((c.outputs == FIXED) | self.kept[c.outputs]) for c in trace.convs.values()}
        return {name: i.tolist() for name, i in stay.items() if len(i) < len(trace.convs[name].outputs)}

    def keeps(self, trace: Trace) -> np.ndarray:
        """How many channels each group of the trace keeps."""
        return np.array([int(self.kept[g.channels].sum()) for g in trace.groups])


def plan_from_kept(trace: Trace, outputs: Mapping[str, Sequence[int]]) -> Plan:
    """Replay a saved cut: convolution -> output indices that stay. Convolutions not named keep everything.

    Raises:
        SlimError: a name or index that the detector does not have, or tied layers that disagree.
    """
    votes = np.full(trace.n_channels, -1)
    for name, indices in outputs.items():
        if name not in trace.convs:
            raise SlimError(f"the cut names a convolution that this detector does not have: {name}")
        slots = trace.convs[name].outputs
        if any(not 0 <= i < len(slots) for i in indices):
            raise SlimError(f"the cut keeps outputs of {name} that it does not have: it has {len(slots)}")
        stay = np.zeros(len(slots), bool)
        stay[list(indices)] = True
        for channel, keep in zip(slots, stay, strict=True):
            if channel == FIXED and not keep:
                raise SlimError(f"the cut removes a channel of {name} that must stay")
            if channel == FIXED:
                continue
            if votes[channel] not in (-1, keep):
                raise SlimError(f"the cut contradicts itself at {name}: a layer tied to it keeps other channels")
            votes[channel] = keep
    kept = votes != 0
    for group in trace.groups:
        if group.reason and not kept[group.channels].all():
            raise SlimError(f"the cut removes channels of {group.name}, which must stay: {group.reason}")
        if not kept[group.channels].any():
            raise SlimError(f"the cut leaves nothing of {group.name}: at least one channel must stay")
    return Plan(kept)
