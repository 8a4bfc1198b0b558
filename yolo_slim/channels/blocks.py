"""Residual branches: x + f(x) becomes x.

Which modules are residual branches is read off the trace (`Trace.blocks`): the sum that a module hands back has its own
input as a part. Taking the branch out leaves the network around it as it is wired, so the module gives way to an
nn.Identity and no other layer changes its shape.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from yolo_slim.channels.groups import FIXED, Block, Group, Trace
from yolo_slim.channels.patterns import inside
from yolo_slim.channels.plan import Plan
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
    return inside(a, b) or inside(b, a)


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


def replay(detector: nn.Module, imgsz: int | tuple[int, int], plan: Plan) -> nn.Module:
    """Apply a plan that was made before.

    Raises:
        SlimError: one of another detector, see `Plan.kept`.
    """
    return cut(*_planned(detector, imgsz, plan))


def survivors(detector: nn.Module, imgsz: int | tuple[int, int], plan: Plan) -> dict[str, np.ndarray]:
    """Who is who after a cut: module name -> which channels of its map here are those of its map there, in order.

    Modules whose maps are not understood are not named.

    Args:
        detector: before the cut.
        imgsz: side, or (height, width), in pixels.
        plan: of it.

    Raises:
        SlimError: one of another detector, see `Plan.kept`.
    """
    _, wiring, kept = _planned(detector, imgsz, plan)
    return {name: np.flatnonzero((slots == FIXED) | kept[slots]) for name, slots in wiring.maps.items()}


def _planned(detector: nn.Module, imgsz: int | tuple[int, int], plan: Plan) -> tuple[nn.Module, Trace, np.ndarray]:
    """The detector without the residual branches that a plan takes out, its trace, and which of its channels stay."""
    wiring = trace(detector, imgsz)
    if gone := plan.branches(wiring):
        detector = drop(detector, gone)
        wiring = trace(detector, imgsz)
    return detector, wiring, plan.without(gone).kept(wiring)
