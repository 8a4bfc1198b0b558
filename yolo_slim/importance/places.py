"""Where channels are made and where they are read, and a copy of the detector that shows its maps there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from yolo_slim.channels import Group, Trace
from yolo_slim.channels.groups import Ints
from yolo_slim.importance.evidence import Evidence
from yolo_slim.mould import duplicate

Place = Literal["made", "read"]
Touch = Callable[[str, Tensor], "Tensor | None"]


def made(trace: Trace, group: Group) -> dict[str, Ints]:
    """Where a group's channels come to be, before the activation: module -> the channel in each slot of its output.

    A producer's batch norm, or the producer itself where none reads it. Depthwise convolutions hand channels on.
    """
    makers = [trace.convs[name] for name in group.producers if not trace.convs[name].depthwise]
    return {c.norm or c.name: trace.norms[c.norm].channels if c.norm else c.outputs for c in makers}


def read(trace: Trace, group: Group) -> dict[str, Ints]:
    """Where a group's channels are used, behind the activation: consumer -> the channel in each slot of its input."""
    return {name: trace.convs[name].inputs for name in group.consumers}


def touched(detector: nn.Module, trace: Trace, at: Place, touch: Touch) -> tuple[nn.Module, dict[str, Ints]]:
    """A copy, in eval mode and at least fp32, that hands each map (B, C, H, W) at these places to `touch(module, map)`.

    What `touch` returns takes the map's place; None leaves it.

    Returns:
        the copy, and its places: module -> the channel in each slot.
    """
    twin = duplicate(detector).eval().requires_grad_(False)
    if next(twin.parameters()).itemsize < 4:
        twin.float()
    places = {name: s for g in trace.free for name, s in (made if at == "made" else read)(trace, g).items()}
    for name in places:
        module = twin.get_submodule(name)
        if at == "made":
            module.register_forward_hook(lambda m, args, out, name=name: touch(name, out))
        else:
            module.register_forward_pre_hook(lambda m, args, name=name: touch(name, args[0]))
    return twin, places


@torch.no_grad()
def watch(detector: nn.Module, trace: Trace, evidence: Evidence, criterion: str, at: Place, look: Touch) -> None:
    """Show `look(module, map)` every map at these places while the images run through.

    Raises:
        SlimError: there are no images.
    """
    images = evidence.need_images(criterion)
    twin, _ = touched(detector, trace, at, look)
    for batch in images:
        twin(batch.to(next(twin.parameters())))  # its device and precision


def gate_gradients(
    detector: nn.Module, trace: Trace, evidence: Evidence, criterion: str, at: Place
) -> Iterator[Tensor]:
    """Gradients of each image's loss at a gate of one on every channel, a labelled batch at a time.

    All places of one channel share its gate, so a gradient is already summed over them: over the producers of a
    shortcut, over consumers, over the slots of a concatenation. One pass forward and one back a batch.

    Yields:
        (B, n_channels), of the detector's precision, fp32 at least.

    Raises:
        SlimError: there are no labelled batches.
    """
    batches, loss = evidence.need_batches(criterion)
    gate: list[Tensor] = []  # of the batch that is running

    def gated(name: str, values: Tensor) -> Tensor:
        if not gate:
            gate.append(values.new_ones(len(values), trace.n_channels + 1, requires_grad=True))
        return values * gate[0][:, places[name], None, None]  # FIXED finds the last column

    twin, places = touched(detector, trace, at, gated)
    for batch in batches if places else ():
        gate.clear()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(twin, batch), gate)
        yield gradient[:, :-1] * len(gradient)  # the loss is a mean over images
