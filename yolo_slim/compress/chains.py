"""A convolution gives way to several in a row: where that may be, what it costs, how it is done and proved.

The last of the row takes the old one's place before its batch norm and activation, so that what merges the two after
training still finds them side by side; the others stand before it, without bias.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels.groups import Ints, Trace
from yolo_slim.channels.hooks import hooked
from yolo_slim.channels.inputs import Shapes, ghost_of, image_channels, small_image
from yolo_slim.channels.moments import Moments
from yolo_slim.channels.surgery import evaluating, relative_difference
from yolo_slim.compress.factors import Chain, product
from yolo_slim.compress.method import Hold, Plan
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

TOLERANCE = 1e-9
"""Relative, in fp64: the detector behind a layer may hardly hear what is wrong with it."""
WHOLE = (640, 640)
"""Side in pixels of the image for a detector that does not run on a small one."""


def block_of(detector: nn.Module, conv: str) -> str:
    """What a row takes the place of: a block of convolution, batch norm and activation, or the layer alone."""
    parent, _, own = conv.rpartition(".")
    block = detector.get_submodule(parent)
    plain = own == "conv" and {*dict(block.named_children())} == {"conv", "bn", "act"}
    return parent if parent and plain else conv


def obstacle(detector: nn.Module, conv: str) -> str | None:
    """Why no row may take the place of a convolution; None: it may.

    Code that merges layers reads them by their names: a batch norm beside it in a block with other parts, a parent that
    merges its branches. A list holds the layers that predict, one a level (YOLOv5's anchor head), and files are checked
    for that.
    """
    place = block_of(detector, conv)
    parent = detector.get_submodule(place.rpartition(".")[0])
    if place == conv and isinstance(getattr(parent, "bn", None), nn.BatchNorm2d):
        return f"its block ({type(parent).__name__}) reads it by name"
    if place == conv and isinstance(parent, nn.ModuleList):
        return "it is one of a list of layers that are read one by one"
    if parent is not detector and any(
        name.startswith("fuse") and callable(getattr(parent, name)) for name in dir(parent)
    ):
        return f"a {type(parent).__name__} merges it with other layers"
    return None


def names_of(detector: nn.Module, conv: str, count: int) -> list[str]:
    """The names that `count` convolutions have which take the place of one; alone, it keeps its name."""
    place = block_of(detector, conv)
    if count == 1:
        return [conv]
    return [*(f"{place}.{i}" for i in range(count - 1)), f"{place}.{count - 1}{conv.removeprefix(place)}"]


# ---------------------------------------------------------------------------------------------------------------------
# Costs


def sizes(detector: nn.Module, trace: Trace) -> dict[str, list[tuple[int, int]]]:
    """Height and width of what each convolution reads, of every call, at the size of the trace."""
    ghost, found = ghost_of(detector), dict[str, list[tuple[int, int]]]()

    def watch(name: str) -> Any:
        return lambda layer, args: found.setdefault(name, []).append(tuple(args[0].shape[2:]))

    handles = (ghost.get_submodule(name).register_forward_pre_hook(watch(name)) for name in trace.convs)
    with hooked(handles), evaluating(ghost), torch.no_grad(), Shapes():
        ghost(torch.empty(1, trace.image_channels, *trace.imgsz, device="meta"))
    return found


def positions(conv: nn.Conv2d, steps: Sequence[str], seen: Sequence[tuple[int, int]]) -> Ints:
    """(steps,) output positions of each step, summed over the calls with inputs of these sizes."""
    total = np.zeros(len(steps), int)
    for hw in seen:
        now = list(hw)
        for i, step in enumerate(steps):
            now = [_shrunk(conv, d, n) if "hw"[d] in step else n for d, n in enumerate(now)]
            total[i] += now[0] * now[1]
    return total


def _shrunk(conv: nn.Conv2d, d: int, n: int) -> int:
    if isinstance(conv.padding, str):
        pad = conv.dilation[d] * (conv.kernel_size[d] - 1) if conv.padding == "same" else 0
    else:
        pad = 2 * conv.padding[d]
    return (n + pad - conv.dilation[d] * (conv.kernel_size[d] - 1) - 1) // conv.stride[d] + 1


# ---------------------------------------------------------------------------------------------------------------------
# Surgery


def noted(layers: Mapping[str, Mapping[str, Any]], chains: Mapping[str, Chain], detector: nn.Module) -> Plan:
    """A plan of rows: the steps in `layers`, the weights under the names that they will have.

    Args:
        layers: convolution -> what else there is to say of it.
        chains: convolution -> its row.
        detector: that they are in.
    """
    told: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    refit: dict[str, str] = {}
    for conv, chain in chains.items():
        old = detector.get_parameter(f"{conv}.weight")
        names = names_of(detector, conv, len(chain))
        tensors |= {f"{n}.weight": w.to(old.dtype).contiguous() for n, (_, w) in zip(names, chain, strict=True)}
        told[conv] = {**layers[conv], "steps": [step for step, _ in chain]}
        if chain[-1][1].shape[1] == (len(chain[-2][1]) if len(chain) > 1 else old.shape[1]):  # dense: can be refitted
            refit[names[-1]] = conv
    return Plan(told, tensors, refit=refit)


class Rows:
    """What methods have in common that put rows in the place of layers: all but their settings and their plans."""

    changes_layers: ClassVar[bool] = True
    gradual: ClassVar[bool] = False

    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        """See `chained`."""
        return chained(detector, plan)

    def prove(self, detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """See `prove_chains`."""
        return prove_chains(detector, compressed, plan)

    def check(self, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """Nothing: its layers are as any others are."""
        return {}

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        """The last of a row by least squares."""
        return moments.fit(weight)

    def describe(self, plan: Plan) -> dict[str, Any]:
        """Layers replaced and kept, and what is saved of multiply-accumulates and parameters."""
        saved = {key: sum(told[key][0] - told[key][1] for told in plan.layers.values()) for key in ("macs", "params")}
        return {"layers": len(plan.layers), "kept": len(plan.kept), **{f"{key}_saved": n for key, n in saved.items()}}

    def hold(self, plan: Plan) -> Hold | None:
        """Nothing: rows are trained as any layers are."""
        return None


def finite_weight(layer: nn.Conv2d, name: str) -> Tensor:
    """The weights in fp64.

    Raises:
        SlimError: they are not all finite.
    """
    weight = layer.weight.detach().double()
    if not torch.isfinite(weight).all():
        raise SlimError(f"cannot factor {name}: its weights are not all finite. Use an earlier checkpoint")
    return weight


def row_of(detector: nn.Module, conv: str, plan: Plan) -> Chain:
    """What a plan puts in the place of a convolution."""
    steps = plan.layers[conv]["steps"]
    names = names_of(detector, conv, len(steps))
    return [(step, plan.tensors[f"{name}.weight"]) for step, name in zip(steps, names, strict=True)]


def chained(detector: nn.Module, plan: Plan) -> nn.Module:
    """A copy in which each layer of the plan is a row.

    What the detector has noted on a block (Ultralytics: its number and where its input comes from) stands on what takes
    its place too.
    """
    new = duplicate(detector)
    for conv in plan.layers:
        row, place, old = row_of(new, conv, plan), block_of(new, conv), new.get_submodule(conv)
        assert isinstance(old, nn.Conv2d)
        convs, width = [], old.in_channels
        for step, weight in row:
            convs.append(_convolution(old, step, weight, width))
            width = len(weight)
        convs[-1].bias = old.bias
        block = new.get_submodule(place)
        if place != conv:
            block.conv = convs[-1]
        parts = [*convs[:-1], convs[-1] if place == conv else block]
        if parts != [block]:
            _put(new, block, parts)
    return new


def _convolution(old: nn.Conv2d, step: str, weight: Tensor, width: int) -> nn.Conv2d:
    """One of a row, without bias; an axis of which it takes nothing from the old layer keeps its size."""
    kernel, taken = weight.shape[2:], ["hw"[d] in step for d in range(2)]
    pads, strides, dilations = old.padding, old.stride, old.dilation
    if not isinstance(pads, str):
        pads = tuple(p if t else k // 2 for p, t, k in zip(pads, taken, kernel, strict=True))
    new = nn.Conv2d(
        width,
        len(weight),
        (kernel[0], kernel[1]),
        tuple(s if t else 1 for s, t in zip(strides, taken, strict=True)),  # type: ignore[arg-type]
        pads,  # type: ignore[arg-type]
        tuple(d if t else 1 for d, t in zip(dilations, taken, strict=True)),  # type: ignore[arg-type]
        groups=width // weight.shape[1],
        bias=False,
        padding_mode=old.padding_mode,
        device="meta",
    )
    new.weight = nn.Parameter(weight.detach().clone().to(old.weight), old.weight.requires_grad)
    return new.train(old.training)


def _put(detector: nn.Module, block: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Layers in a row in the place of a block, wherever it stands."""
    row = nn.Sequential(*parts) if len(parts) > 1 else parts[0]
    row.training = block.training
    own = {*vars(nn.Conv2d(1, 1, 1, device="meta")), "training"}
    for key, value in vars(block).items():
        if key not in own and not key.startswith("_") and isinstance(value, (int, float, str, list, tuple)):
            setattr(row, key, copy.copy(value))
    holders = [(m, key) for m in detector.modules() for key, child in m._modules.items() if child is block]
    for module, key in holders:
        module._modules[key] = row


@torch.no_grad()
def prove_chains(detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
    """That the new detector gives what the old one does with the product of each row's kernels in the layer's place.

    Returns:
        the relative difference, in fp64 on a random image, a small one.

    Raises:
        SlimError: they differ; nothing may be written then.
    """
    planned = duplicate(detector).double()
    for conv in plan.layers:
        layer, row = planned.get_submodule(conv), row_of(detector, conv, plan)
        assert isinstance(layer, nn.Conv2d)
        kernel = product([(step, weight.to(layer.weight)) for step, weight in row], layer.in_channels)
        layer.weight.copy_(_middle(kernel, layer.weight.shape[2:]))
    size = small_image(detector, image_channels(detector), WHOLE)
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = image.to(next(planned.parameters()).device)
    difference = relative_difference(planned, duplicate(compressed).double(), image)
    if not difference < TOLERANCE:
        raise SlimError(
            f"the new layers do not give what was planned: outputs differ by {difference:.1e} (allowed "
            f"{TOLERANCE:.0e}). Nothing was written. This is a bug in yolo-slim: please report it"
        )
    return {"difference": difference}


def _middle(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Of a kernel with a frame of zeros, what is inside."""
    y, x = ((n - k) // 2 for n, k in zip(kernel.shape[2:], size, strict=True))
    return kernel[:, :, y : y + size[0], x : x + size[1]]
