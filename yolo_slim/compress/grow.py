"""Growth: a detector becomes wider or deeper, gives what it gave, and has room to learn.

For what was pruned too far: instead of training a larger one anew, channels that are used most are there twice, or a
block is followed by another (Net2Net; see `replicate` for what is done and its source). It makes no detector smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Group, Trace, relative_difference, small_image, trace
from yolo_slim.channels.blocks import overlaps
from yolo_slim.channels.groups import FIXED, Ints, same_wiring
from yolo_slim.channels.moments import Moments
from yolo_slim.compress.method import Hold, Material, Plan
from yolo_slim.compress.replicate import deepen, sources, times_of, widen
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

TOLERANCE = 1e-5
MOST = 16.0
"""How often wider a group may become: what is there more often learns the same more slowly."""


@dataclass(frozen=True)
class Grow:
    """Wider and deeper, without a change in what the detector gives."""

    help: ClassVar[str] = "grow channels or blocks back after pruning too far, without a change in what comes out"
    speed: ClassVar[str] = "slower: it adds channels and layers, for training to use"
    changes_layers: ClassVar[bool] = True
    gradual: ClassVar[bool] = False

    wider: float | Mapping[str, int] = field(
        default=1.25,
        metadata={"help": "times the channels of every group, or layer -> the width it grows to; 1: none"},
    )
    deeper: tuple[str, ...] = field(
        default=(), metadata={"help": "residual branches (as inspect lists them) that a copy of themselves follows"}
    )
    round_to: int = field(default=1, metadata={"help": "widths grow on to a multiple of it, where `wider` is a number"})
    spread: float = field(
        default=0.25,
        metadata={"help": "how unequally copies are read, 0 to below 1: at 0 they would stay copies for ever"},
    )

    def __post_init__(self) -> None:
        """Raises ValueError: a setting out of its bounds."""
        if isinstance(self.wider, Mapping):
            if wrong := {name: width for name, width in self.wider.items() if type(width) is not int or width < 1}:
                raise ValueError(f"wider: expected layers with whole numbers of channels, got {wrong}")
        elif not 1 <= self.wider <= MOST:
            raise ValueError(f"wider: expected 1 to {MOST:g} times the channels, got {self.wider}")
        if not 1 <= self.round_to <= 1024:
            raise ValueError(f"round_to: expected 1 to 1024, got {self.round_to}")
        if not 0 <= self.spread < 1:
            raise ValueError(f"spread: expected 0 to below 1, got {self.spread}")
        if twice := [(a, b) for i, a in enumerate(self.deeper) for b in self.deeper[:i] if overlaps(a, b)]:
            raise ValueError(f"deeper: {twice[0][0]} and {twice[0][1]} lie in one another, or are the same")

    def plan(self, detector: nn.Module, material: Material) -> Plan:
        """Which channels are there more often, and which blocks are followed by another.

        Raises:
            SlimError: a layer that there is not, that cannot grow or is wider already, or nothing that would grow.
        """
        wiring = trace(detector, material.imgsz)
        deepen(detector, wiring, self.deeper)  # says what is wrong with them
        times, used = np.ones(wiring.n_channels, np.int64), _used(detector, wiring)
        widths, kept = self._widths(wiring)
        for group, width in widths:
            times[group.channels] = width // group.size
            most = group.channels[np.argsort(-used[group.channels], kind="stable")]
            times[most[: width % group.size]] += 1
        layers: dict[str, dict[str, Any]] = {}
        for conv in wiring.convs.values():
            took = sources(conv.outputs, times)
            if len(took) > len(conv.outputs):
                layers[conv.name] = {"width": [len(conv.outputs), len(took)], "outputs": took.tolist()}
        layers |= {name: {"twin": True} for name in wiring.blocks if name in self.deeper}
        if not layers:
            raise SlimError(f"grow has nothing to do: wider={self.wider} adds no channel, and deeper names no block")
        return Plan(layers, kept=kept)

    def _widths(self, wiring: Trace) -> tuple[list[tuple[Group, int]], dict[str, str]]:
        """The groups that grow, each with the width it grows to, and those that stay, each with the reason."""
        if isinstance(self.wider, Mapping):
            found = [(_group_of(wiring, name), width) for name, width in self.wider.items()]
            for group, width in found:
                if not group.size <= width <= MOST * group.size:
                    raise SlimError(
                        f"grow.wider: {group.name} has {group.size} channels, and can grow up to {MOST:g} times as "
                        f"many, not to {width}"
                    )
            if twice := {g.name: w for g, w in found if any(o.name == g.name and v != w for o, v in found)}:
                raise SlimError(f"grow.wider: two widths for layers that have one: the group {next(iter(twice))}")
            return found, {}
        to = self.round_to
        widths = [(g, max(g.size, -(-round(g.size * self.wider) // to) * to) if self.wider > 1 else g.size)
                  for g in wiring.free]  # fmt: skip
        return widths, {g.name: g.reason for g in wiring.groups if g.reason}

    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        """A new detector that gives the same.

        Raises:
            SlimError: the plan is of another detector.
        """
        wiring = trace(detector)
        times, twins = times_of(wiring, plan.grown), _twins(plan)
        wide = widen(detector, wiring, times, self.spread)
        return deepen(wide, trace(wide), twins) if twins else wide

    def prove(self, detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """Both give the same, and the new one is wired as the old one, up to copies.

        Raises:
            SlimError: they do not.
        """
        wiring = trace(detector)
        image = torch.rand(
            1,
            *small_image(detector, wiring.image_channels, wiring.imgsz),
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float64,
        )
        before, after = (duplicate(each).double().cpu() for each in (detector, compressed))
        difference = relative_difference(before, after, image)
        if not difference < TOLERANCE:
            raise SlimError(
                f"growing changed the detector: outputs differ by {difference:.1e} (allowed {TOLERANCE:.0e}). Nothing "
                "was written. This is a bug in yolo-slim: please report it"
            )
        if not _twins(plan):  # else there are layers that had no counterpart
            again = trace(compressed)
            if not same_wiring(again, _first(wiring, again, times_of(wiring, plan.grown)), wiring):
                raise SlimError("the grown detector is not wired as planned. This is a bug in yolo-slim: report it")
        return {"difference": difference}

    def check(self, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """Nothing: its layers are as any others are."""
        return {}

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        """Never asked for: nothing is lost."""
        raise NotImplementedError("growing changes nothing that would have to be fitted again")

    def describe(self, plan: Plan) -> dict[str, Any]:
        """How many layers are wider, their channels before and after, and which blocks are followed by another."""
        widths = [each["width"] for each in plan.layers.values() if "width" in each]
        before, after = (sum(w[i] for w in widths) for i in (0, 1))
        return {"wider": len(widths), "channels": [before, after], "deeper": _twins(plan)}

    def hold(self, plan: Plan) -> Hold | None:
        """Nothing: all of it is to be trained."""
        return None


def _twins(plan: Plan) -> list[str]:
    return [name for name, each in plan.layers.items() if each.get("twin")]


def _group_of(wiring: Trace, name: str) -> Group:
    """The group of a layer's outputs, that may grow."""
    found = [g for g in wiring.groups if g.name == name] or [g for g in wiring.groups if name in g.producers]
    if len(found) != 1:
        known = ", ".join(g.name for g in (found or wiring.free))
        what = "makes several groups of channels, name one" if found else "is no convolution of this detector"
        raise SlimError(f"grow.wider: {name} {what}: {known}")
    if found[0].reason:
        raise SlimError(f"grow.wider: {name} keeps its width: {found[0].reason}")
    return found[0]


@torch.no_grad()
def _used(detector: nn.Module, wiring: Trace) -> np.ndarray:
    """How much is made of each channel: the sum of squares of the weights that read it, (n_channels,)."""
    used = np.zeros(wiring.n_channels)
    for conv in wiring.convs.values():
        if conv.groups == 1:
            read = conv.layer(detector).weight.double().square().sum((0, 2, 3)).cpu().numpy()
            free = conv.inputs != FIXED
            np.add.at(used, conv.inputs[free], read[free])
    return used


def _first(before: Trace, after: Trace, times: Ints) -> np.ndarray:
    """Bool per channel afterwards: the first of its copies."""
    first = np.zeros(after.n_channels, bool)
    for name, conv in before.convs.items():
        slots, took = after.convs[name].outputs, sources(conv.outputs, times)
        here = (np.diff(took, prepend=-1) != 0) & (slots != FIXED)
        first[slots[here]] = True
    return first
