"""The door for detectors with anchors: what of them is not as their releases leave it is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from yolo_slim.errors import SlimError
from yolo_slim.formats.door import check_slim
from yolo_slim.formats.head import MOST_CLASSES, are_strides, check_names, check_places, check_run, held
from yolo_slim.formats.layers import check_layers
from yolo_slim.formats.modules import check_modules
from yolo_slim.formats.plain import check_plain, is_whole
from yolo_slim.formats.strangers import FUSED
from yolo_slim.formats.yolov5.layers import AnchorDetect
from yolo_slim.formats.yolov5.model import AnchorModel

SINCE: dict[type[nn.Module], dict[str, Any]] = {
    nn.Upsample: {"recompute_scale_factor": None},
    nn.MultiheadAttention: {"batch_first": False},
}
"""What torch's layers have come to say since these files were first written, and what was true of them then."""


def check_detector(detector: AnchorModel) -> None:
    """Refuse a detector that is not what it seems; its numbers are looked at apart.

    Raises:
        SlimError: the place in it, what was expected and what came.
    """
    check_modules(detector)
    _check_source(vars(detector).get("source"))
    _check_yaml(getattr(detector, "yaml", None))
    for module in detector.modules():
        for name, value in SINCE.get(type(module), {}).items():
            vars(module).setdefault(name, value)
    check_layers(detector)
    check_places(detector)
    head = detector.model[-1]
    if type(head) is not AnchorDetect:
        raise SlimError(f"ends in a {type(head).__name__}: expected the head of a detector, Detect")
    _check_head(head)
    check_names(detector, head.nc)
    for name, module in (("the detector", detector), ("its head", head)):
        if not are_strides(stride := getattr(module, "stride", None), head.nl):
            raise SlimError(f"is no sound detector: `stride` of {name} is {stride!r:.80}, expected {head.nl} of pixels")
    if not any(isinstance(m, nn.BatchNorm2d) for m in detector.modules()):
        raise SlimError(FUSED)
    _as_made(head)
    for module in detector.modules():
        if isinstance(module, nn.Upsample) and module.recompute_scale_factor:
            module.recompute_scale_factor = None  # torch's reading of files that do not say: the same, but for export
    check_run(detector)


def _check_source(source: Any) -> None:
    """What `read` leaves in the detector, and our own training writes into its checkpoints."""
    if source is None:
        return
    fits = isinstance(source, dict) and source.keys() == {"entries", "listed"} and isinstance(source["entries"], dict)
    if not fits or type(source["listed"]) is not bool or not all(type(key) is str for key in source["entries"]):
        raise SlimError(f"is no sound detector: `source` is {source!r:.60}, expected what its file held")


def _check_yaml(description: Any) -> None:
    """It is kept, and never built from."""
    if not isinstance(description, dict):
        raise SlimError(f"is no sound detector: `yaml` is a {type(description).__name__}, expected a dict")
    for part in ("backbone", "head"):
        if not isinstance(description.get(part), list):
            told = f"{description.get(part)!r:.40}"
            raise SlimError(f"is no sound detector: `yaml.{part}` is {told}, expected its layers")
    check_plain(description, "yaml")
    if "slim" in description:
        check_slim(description["slim"])


def _check_head(head: AnchorDetect) -> None:
    """Levels, anchors and the convolutions that say what is at them."""
    nc, no, nl, na = (held(head, name) for name in ("nc", "no", "nl", "na"))
    whole = is_whole(nc, 1, MOST_CLASSES) and is_whole(nl, 1, 16) and is_whole(na, 1, 64)
    if not whole or no != nc + 5:
        said = f"nc {nc!r:.20}, no {no!r:.20}, nl {nl!r:.20}, na {na!r:.20}"
        raise SlimError(f"is no sound detector: its head has {said}")
    convs = getattr(head, "m", None)
    if not isinstance(convs, nn.ModuleList):
        raise SlimError(
            "has a head without convolutions of its own: it is of v1.0 of ultralytics/yolov5, which is not read. Train "
            "with v2.0 or later"
        )
    sources = head.f if isinstance(head.f, (list, tuple)) else [head.f]
    if {len(sources), len(convs)} != {nl}:
        said = f"nl {nl}, {len(sources)} inputs and {len(convs)} convolutions"
        raise SlimError(f"is no sound detector: its head has {said}")
    for i, conv in enumerate(convs):
        if type(conv) is not nn.Conv2d or conv.out_channels != na * no or conv.groups != 1:
            raise SlimError(f"is no sound detector: its head has {conv!r:.60} at level {i}, expected {na * no} outputs")
    for name, shape in (("anchors", (nl, na, 2)), ("anchor_grid", (nl, 1, na, 1, 1, 2))):
        _check_anchors(head._buffers, name, shape)


def _check_anchors(buffers: dict[str, Any], name: str, shape: tuple[int, ...]) -> None:
    found: Any = buffers.get(name)
    if found is None and name not in buffers and name != "anchors":
        return  # since v6, pixels are worked out
    fits = isinstance(found, torch.Tensor) and tuple(found.shape) == shape and found.is_floating_point()
    if not fits or not bool((torch.isfinite(found) & (found > 0)).all()):
        told = tuple(found.shape) if isinstance(found, torch.Tensor) else found
        raise SlimError(f"is no sound detector: `{name}` of its head is {told!r:.60}, expected sizes {shape} above 0")


def _as_made(head: AnchorDetect) -> None:
    """Without what an export or another run has left in it."""
    state = vars(head)
    for name in ("export", "dynamic", "format", "shape", "xyxy", "max_det", "agnostic_nms", "legacy", "strides"):
        state.pop(name, None)
