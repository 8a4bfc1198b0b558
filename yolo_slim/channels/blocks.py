"""Residual branches: x + f(x) becomes x.

Which modules are residual branches is read off the trace (`Trace.blocks`): the sum that a module hands back has its own
input as a part. Taking the branch out leaves the network around it as it is wired, so the module gives way to an
nn.Identity and no other layer changes its shape.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from yolo_slim.channels.groups import FIXED, Block, Group, Trace
from yolo_slim.channels.plan import Plan, plan_from_kept
from yolo_slim.channels.surgery import cut
from yolo_slim.channels.trace import trace


def drop(detector: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy in which these modules hand on what they are given; their weights are not copied.

    What the detector has noted on a module (Ultralytics: its number and where its input comes from) stays on its
    stand-in.
    """
    stand_ins = {id(module): _stand_in(module) for module in map(detector.get_submodule, names)}
    return copy.deepcopy(detector, stand_ins)


def _stand_in(module: nn.Module) -> nn.Identity:
    identity = nn.Identity()
    for key, value in vars(module).items():
        if not key.startswith("_") and isinstance(value, (int, float, str, list, tuple)):
            setattr(identity, key, copy.copy(value))
    return identity


def overlaps(a: str, b: str) -> bool:
    """Whether one of two modules is the other, or lies inside it."""
    return f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")


def emptiable(detector: nn.Module, trace: Trace) -> dict[str, str]:
    """Groups that may lose all of their channels, each with the block that goes with them: group name -> block name.

    Nobody outside the block knows these channels, and without them its branch adds the same whatever comes in.
    """
    return {
        group.name: block.name
        for block in trace.blocks.values()
        for group in trace.free
        if block.ends
        and all(n.startswith(f"{block.name}.") for n in (*group.producers, *group.consumers, *group.norms))
        and _silences(detector, trace, block, group)
    }


@torch.no_grad()
def _silences(detector: nn.Module, trace: Trace, block: Block, group: Group) -> bool:
    """Tried, not derived: a path around the group may have no convolution on it, and then no channel tells of it."""
    module = copy.deepcopy(detector.get_submodule(block.name)).double().eval()
    slots = {n: trace.convs[n].outputs for n in group.producers} | {n: trace.norms[n].channels for n in group.norms}
    for name, channels in slots.items():
        for tensor in module.get_submodule(name[len(block.name) + 1 :]).parameters():
            tensor[torch.as_tensor(np.isin(channels, group.channels))] = 0
    width = len(trace.convs[block.ends[-1]].outputs)
    x = torch.rand(2, width, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.to(next(module.parameters()).device)
    one, other = module(x) - x
    return torch.allclose(one, other, atol=1e-9)


def replay(detector: nn.Module, imgsz: int | tuple[int, int], kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """Apply a saved cut (kept.json): convolution -> output indices that stay; none: it goes with its block.

    Raises:
        SlimError: a cut of another detector, see `plan_from_kept`.
    """
    detector, wiring, plan = _planned(detector, imgsz, kept)
    return cut(detector, wiring, plan.kept)


def survivors(
    detector: nn.Module, imgsz: int | tuple[int, int], kept: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Who is who after a saved cut: module name -> which channels of its map here are those of its map there, in order.

    Modules whose maps are not understood are not named.

    Args:
        detector: before the cut.
        imgsz: side, or (height, width), in pixels.
        kept: as `replay` takes it.

    Raises:
        SlimError: a cut of another detector, see `plan_from_kept`.
    """
    _, wiring, plan = _planned(detector, imgsz, kept)
    return {name: np.flatnonzero((slots == FIXED) | plan.kept[slots]) for name, slots in wiring.maps.items()}


def _planned(
    detector: nn.Module, imgsz: int | tuple[int, int], kept: Mapping[str, Sequence[int]]
) -> tuple[nn.Module, Trace, Plan]:
    """The detector without the residual branches that a saved cut takes out, and the rest of the cut as a plan."""
    wiring = trace(detector, imgsz)
    gone = [b.name for b in wiring.blocks.values() if all(n in kept and not kept[n] for n in b.convs)]
    if gone:
        detector = drop(detector, gone)
        wiring = trace(detector, imgsz)
        kept = {name: stay for name, stay in kept.items() if not any(overlaps(name, block) for block in gone)}
    return detector, wiring, plan_from_kept(wiring, kept)
