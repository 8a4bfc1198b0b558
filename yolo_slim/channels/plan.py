"""A plan: what stays of a detector, by names. Made by one step, kept in a file, followed by others.

All that says what a cut takes out is one, or is made of one by a method that is named for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from yolo_slim.channels.groups import FIXED, Trace
from yolo_slim.channels.patterns import inside
from yolo_slim.channels.surgery import stays
from yolo_slim.errors import SlimError

FORMAT = 2
"""Of `as_json`. Format 1, `kept.json` and `plan.json` of 0.1, was the outputs alone."""

Cut = Mapping[str, Sequence[int]]
"""Convolution -> indices of its outputs that stay; one that is not named keeps all."""


@dataclass(frozen=True)
class Plan:
    """What stays: `outputs` of convolutions that lose any, none of those that go with their residual branch."""

    outputs: Cut
    order: Mapping[str, Sequence[int]] = field(default_factory=dict)  # group -> its channels that go, least first

    def __repr__(self) -> str:
        return f"<Plan: {len(self.outputs)} convolutions lose channels>"

    @classmethod
    def of(
        cls, trace: Trace, kept: np.ndarray, scores: Mapping[str, np.ndarray] = {}, gone: Iterable[str] = ()
    ) -> Plan:
        """From channels.

        Args:
            trace: of the detector, without the branches that go whole.
            kept: bool per channel of it.
            scores: group name -> (n,), by which channels go in order; without, there is none.
            gone: names of the convolutions of those branches.
        """
        stay = {c.name: stays(c.outputs, kept) for c in trace.convs.values()}
        outputs = {name: i.tolist() for name, i in stay.items() if len(i) < len(trace.convs[name].outputs)}
        order = {}
        for group in trace.groups if scores else ():
            leaving = np.flatnonzero(~kept[group.channels])
            if len(leaving):
                order[group.name] = leaving[np.argsort(scores[group.name][leaving], kind="stable")].tolist()
        return cls({name: [] for name in gone} | outputs, order)

    @classmethod
    def composed(cls, cuts: Iterable[Cut]) -> Plan:
        """From the outputs of cuts made one after the other: as a single one, of what there was before the first."""
        whole: dict[str, list[int]] = {}
        for cut in cuts:
            for name, stay in cut.items():
                whole[name] = [whole[name][i] for i in stay] if name in whole else list(stay)
        return cls(whole)

    @classmethod
    def of_json(cls, content: Any) -> Plan:
        """From what `as_json` gives now, or gave in an earlier version.

        Raises:
            SlimError: it gave no such thing.
        """
        if not isinstance(content, dict):
            raise SlimError("holds no plan")
        format = 1 if isinstance(content.get("format", []), list) else content["format"]  # a layer may have that name
        if format not in (1, FORMAT):
            raise SlimError(f"holds a plan of format {format!r:.20}, and this version reads up to {FORMAT}: update it")
        outputs, order = (content, {}) if format == 1 else (content.get("outputs"), content.get("order"))
        for named in (outputs, order):
            if not isinstance(named, dict) or not all(map(_numbers, named.values())):
                raise SlimError("holds no plan: expected names, each with the numbers of channels")
        return cls(outputs, order)  # type: ignore[arg-type]

    @property
    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"format": FORMAT, "outputs": self.outputs, "order": self.order}

    def every(self, trace: Trace) -> dict[str, list[int]]:
        """All convolutions of a detector with the outputs that stay, those that keep all of them among them."""
        return {n: list(self.outputs.get(n, range(len(c.outputs)))) for n, c in trace.convs.items()}

    def branches(self, trace: Trace) -> list[str]:
        """The residual branches that go whole, none of them inside another, in the order of `outputs`."""
        empty = {name: i for i, (name, stay) in enumerate(self.outputs.items()) if not stay}
        whole = [b for b in trace.blocks.values() if empty.keys() >= set(b.convs)]
        gone = [block.name for block in sorted(whole, key=lambda block: empty[block.convs[0]])]
        return [name for name in gone if not any(inside(name, other) for other in gone if other != name)]

    def without(self, branches: Sequence[str]) -> Plan:
        """What is left to do in a detector that these branches have been taken out of."""
        return Plan({n: i for n, i in self.outputs.items() if not any(inside(n, b) for b in branches)}, self.order)

    def scores(self, trace: Trace) -> dict[str, np.ndarray]:
        """Group name -> (n,), which put the channels that go into their order."""
        scores = {group.name: np.zeros(group.size) for group in trace.groups}
        for name, order in self.order.items():
            scores[name][list(order)] = np.arange(len(order))
        return scores

    def kept(self, trace: Trace) -> np.ndarray:
        """Bool per channel of a detector.

        Raises:
            SlimError: a name or index that the detector does not have, or tied layers that disagree.
        """
        votes = np.full(trace.n_channels, -1)
        for name, indices in self.outputs.items():
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
        return kept


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int for i in value)
