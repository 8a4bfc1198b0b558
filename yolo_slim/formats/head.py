"""A detector's layers in their order, and the head that they lead to."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import DFL, Detect, v10Detect

from yolo_slim.channels.inputs import image_channels, said_channels
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector, Head
from yolo_slim.formats.guard import Counting
from yolo_slim.formats.plain import are_whole, is_whole
from yolo_slim.mould import Known

HEADS = (Detect, v10Detect)
PX = 256
"""Side of the image that a detector is tried with; Ultralytics finds strides with one of that size."""
MOST_CLASSES = 100_000
LONGEST_NAME = 1000


def check_head(detector: Detector) -> None:
    """Refuse layers out of order, a head of another kind, and classes, strides or names that are not the head's.

    Raises:
        SlimError: the layer or the entry, what was expected and what came.
    """
    check_places(detector)
    head = detector.model[-1]
    if type(head) not in HEADS:
        raise SlimError(f"ends in a {type(head).__name__}: expected the head of a detector, Detect")
    _check_classes(detector, head)
    _check_levels(detector, head)
    _check_boxes(head)


def check_places(detector: Detector) -> None:
    """Refuse a detector without layers, with layers out of order, or that keeps outputs of layers that it has not.

    Raises:
        SlimError: the layer or the entry, what was expected and what came.
    """
    layers = held(detector, "model")
    if not isinstance(layers, nn.Sequential) or not len(layers):
        raise SlimError("is no sound detector: it has no layers under `model`")
    for i, layer in enumerate(layers):
        _check_place(i, layer)
    if not are_whole(saved := getattr(detector, "save", None), 0, len(layers) - 1):
        raise SlimError(f"is no sound detector: `save` is {saved!r:.80}, expected numbers of its {len(layers)} layers")


def _check_place(i: int, layer: nn.Module) -> None:
    """`i` and `f`: which layer it is, and from which ones it takes its input."""
    number, sources = (getattr(layer, name, None) for name in ("i", "f"))
    listed = sources if isinstance(sources, (list, tuple)) else [sources]
    if number != i or not listed or not are_whole(listed, -max(i, 1), max(i - 1, -1)):
        raise SlimError(f"is no sound detector: model.{i} says it is layer {number!r:.20}, from {sources!r:.40}")


def held(module: nn.Module, name: str) -> Any:
    """Whatever a module has under a name; None: nothing."""
    return getattr(module, name, None)


def _check_classes(detector: Detector, head: Head) -> None:
    nc, reg_max, outputs = (held(head, name) for name in ("nc", "reg_max", "no"))
    if not is_whole(nc, 1, MOST_CLASSES) or not is_whole(reg_max, 1, 1024) or outputs != nc + 4 * reg_max:
        said = f"nc {nc!r:.20}, reg_max {reg_max!r:.20}, no {outputs!r:.20}"
        raise SlimError(f"is no sound detector: its head has {said}")
    check_names(detector, nc)


def check_names(detector: Detector, nc: int) -> None:
    """Number the names of a detector's classes, where they are a list.

    Raises:
        SlimError: they are not one text for each of `nc` classes.
    """
    names = held(detector, "names")
    if isinstance(names, (list, tuple)):
        names = detector.names = dict(enumerate(names))
    fits = type(names) is dict and names.keys() == set(range(nc))
    if not fits or not all(type(name) is str and len(name) <= LONGEST_NAME for name in names.values()):
        raise SlimError(f"is no sound detector: `names` is {names!r:.80}, expected one text for each of {nc} classes")


def _check_levels(detector: Detector, head: Head) -> None:
    levels = held(head, "nl")
    sources = head.f if isinstance(head.f, (list, tuple)) else [head.f]
    parts = [getattr(head, name, None) for name in ("cv2", "cv3")]
    sizes = [len(part) if isinstance(part, nn.ModuleList) else None for part in parts]
    if not is_whole(levels, 1, 16) or {len(sources), *sizes} != {levels}:
        said = f"nl {levels!r:.20}, {len(sources)} inputs and {sizes} branches"
        raise SlimError(f"is no sound detector: its head has {said}")
    for name, module in (("the detector", detector), ("its head", head)):
        if not are_strides(stride := getattr(module, "stride", None), levels):
            raise SlimError(f"is no sound detector: `stride` of {name} is {stride!r:.80}, expected {levels} of pixels")


def _check_boxes(head: Head) -> None:
    """How boxes are read off, and how many: as the head was made, not as it was left in the middle of an export."""
    dfl = getattr(head, "dfl", None)
    sizes = [getattr(dfl, "c1", None), head.reg_max, getattr(getattr(dfl, "conv", None), "in_channels", None)]
    sums = isinstance(dfl, DFL) and all(is_whole(n, 1, 1024) for n in sizes) and len({*sizes}) == 1
    if not (sums or (head.reg_max == 1 and isinstance(dfl, nn.Identity))):
        raise SlimError(
            f"is no sound detector: its head has reg_max {head.reg_max}, and a dfl that does not sum as many"
        )
    if not is_whole(head.max_det, 1, 1_000_000):
        raise SlimError(f"is no sound detector: its head has max_det {head.max_det!r:.40}")
    for name in ("agnostic_nms", "legacy", "xyxy"):
        if type(getattr(head, name)) is not bool:
            raise SlimError(
                f"is no sound detector: its head has {name} {getattr(head, name)!r:.40}, expected yes or no"
            )
    head.export, head.dynamic, head.format, head.shape = False, False, None, None  # shape: anchors are made anew


def are_strides(stride: Any, levels: int) -> bool:
    """Whether these are pixels, one number a level."""
    if not isinstance(stride, torch.Tensor) or stride.is_complex() or stride.shape != (levels,):
        return False
    return bool(torch.isfinite(stride).all() and (stride >= 1).all() and (stride <= 1024).all())


_KNOWN = Known(1_000)
"""Structure -> the strides that it has, of some hundred: numbers of weights say nothing of them."""


def check_run(detector: Detector) -> None:
    """Run the detector once on the meta device: everything in it fits together, and its strides are as it says.

    Raises:
        SlimError: where it stops, or what comes out of it.
    """
    head = detector.model[-1]
    found = _KNOWN.of(detector, lambda: _strides(detector, head))
    for said in (head.stride, detector.stride):
        if not torch.allclose(said.float(), torch.tensor(found)):
            raise SlimError(f"says its strides are {said.tolist()}, and they are {found}")


def _strides(detector: Detector, head: Head) -> list[float]:
    named = (detector.named_parameters(remove_duplicate=False), detector.named_buffers(remove_duplicate=False))
    state = {name: _ghost(tensor) for tensors in named for name, tensor in tensors}
    modes = {module: module.training for module in detector.modules()}
    detector.eval()
    head.training = True  # raw outputs: nothing is decoded
    try:
        with torch.no_grad(), Counting():
            try:
                out = _ghost_run(detector, state, said_channels(detector) or 3)
            except Exception:  # it says nothing, or something else than what it reads
                out = _ghost_run(detector, state, image_channels(detector, PX))
            return [PX / level.shape[-2] for level in _levels(out)]
    except SlimError:
        raise
    except Exception as e:
        raise SlimError(f"does not run at {PX} px: {type(e).__name__}: {str(e).partition(chr(10))[0]:.200}") from e
    finally:
        for module, training in modes.items():
            module.training = training


def _ghost_run(detector: Detector, state: dict[str, torch.Tensor], channels: int) -> Any:
    return torch.func.functional_call(detector, state, (torch.empty(1, channels, PX, PX, device="meta"),))


def _ghost(tensor: torch.Tensor) -> torch.Tensor:
    """The same shape on the meta device, in fp32."""
    return torch.empty_like(tensor, dtype=torch.float32 if tensor.is_floating_point() else None, device="meta")


def _levels(out: Any) -> list[torch.Tensor]:
    out = out.get("one2many", out) if isinstance(out, dict) else out
    return out["feats"]
