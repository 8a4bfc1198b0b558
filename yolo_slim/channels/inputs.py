"""What a detector's input is: how many channels an image has that it reads, whatever stands before its convolutions.

A stem may slice the image first (`Focus`: 3 channels in the image, 12 into the first convolution), so no layer tells.
The detector says it itself or, where it does not or is mistaken, it is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_slim.channels.hooks import hooked
from yolo_slim.channels.rules import shape_of
from yolo_slim.channels.surgery import evaluating
from yolo_slim.errors import SlimError
from yolo_slim.mould import Known, duplicate

COMMON = (3, 1, 4)
"""Channels of an image that are tried first, where a detector does not say: colour, grey, colour and something else."""
MOST = 256
"""Channels up to which any number is tried, what a convolution reads aside: hyperspectral cameras have some hundred."""
SIDES = (64, 256, 640)
"""Sides in pixels at which it is tried, besides the one that is asked for: multiples of any stride in use."""

ENOUGH = 128
"""Side in pixels at which what holds at any size is shown: a map at stride 32 still has corners, edges and a middle."""

_KNOWN = Known(500)
"""(structure, size) -> channels of its images, of some hundred: stages ask for those of the same few detectors."""


def image_channels(detector: nn.Module, imgsz: int | tuple[int, int] | None = None) -> int:
    """How many channels the images (B, C, H, W) have that a detector reads.

    What it says of itself (`channels` of its YAML; `ch` in older ones) comes first, then what is common, then any
    other number: the first with which a copy without weights runs. The detector is left alone.

    Args:
        detector: maps an image to anything.
        imgsz: side, or (height, width), in pixels at which it is to run; others are tried as well.

    Raises:
        SlimError: it runs with none, and does not say either.
    """
    return _KNOWN.of(detector, lambda: _tried_channels(detector, imgsz), imgsz)


def _tried_channels(detector: nn.Module, imgsz: int | tuple[int, int] | None) -> int:
    found = furthest(ghost_of(detector), imgsz)
    if found.error is None:
        return found.channels
    if (said := said_channels(detector)) is None:
        raise SlimError(
            f"cannot find out how many channels the images have that this {type(detector).__name__} reads: with "
            f"{found.channels}, it came furthest, and raised {type(found.error).__name__}: {found.error}. Say it in "
            "its YAML (detector.yaml['channels'])"
        ) from found.error
    return said


def small_image(detector: nn.Module, channels: int, hw: tuple[int, int]) -> tuple[int, int, int]:
    """(C, H, W) of an image for what does not depend on its size: at most 128 px a side, if the detector runs there.

    Args:
        detector: left alone.
        channels: of the images that it reads.
        hw: the height and width in pixels that it runs at.
    """
    least = min(hw[0], ENOUGH), min(hw[1], ENOUGH)
    runs = least == hw or _tried(ghost_of(detector), channels, least).error is None
    return channels, *(least if runs else hw)


def said_channels(detector: nn.Module) -> int | None:
    """What a detector's YAML says of its images' channels; None: nothing that could be true."""
    described = getattr(detector, "yaml", None)
    if not isinstance(described, Mapping):
        return None
    said = described.get("channels", described.get("ch"))
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else None


def ghost_of(detector: nn.Module) -> nn.Module:
    """A copy of a detector on the meta device: all of its structure, none of its memory."""
    stand_ins: dict[int, Any] = {}
    for p in detector.parameters():
        stand_ins[id(p)] = nn.Parameter(torch.empty(p.shape, device="meta"), requires_grad=False)
    for b in detector.buffers():
        dtype = torch.float32 if b.is_floating_point() else b.dtype
        stand_ins[id(b)] = torch.empty(b.shape, device="meta", dtype=dtype)
    return duplicate(detector, stand_ins)


class Trial(NamedTuple):
    """How far a ghost came with an image of so many channels."""

    channels: int
    depth: int  # modules that were entered
    error: Exception | None


def furthest(ghost: nn.Module, imgsz: int | tuple[int, int] | None = None) -> Trial:
    """The first trial, of all numbers of channels that are worth one, that runs; none does: the one that came furthest.

    Args:
        ghost: as `ghost_of` makes it.
        imgsz: as `image_channels` takes it.
    """
    asked = [] if imgsz is None else [hw_of(imgsz)]
    sizes = list(dict.fromkeys([*asked, *((side, side) for side in SIDES)]))
    best = None
    for channels, hw in _worth_trying(ghost, sizes):
        trial = _tried(ghost, channels, hw)
        if trial.error is None:
            return trial
        best = trial if best is None or trial.depth > best.depth else best
    assert best is not None, "what is common is always tried"
    return best


def hw_of(imgsz: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image, of which a side alone is a square's."""
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    return height, width


def _worth_trying(detector: nn.Module, sizes: list[tuple[int, int]]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Channels and (height, width), the likeliest first; no stem in use makes fewer of an image's channels."""
    said = said_channels(detector)
    likely = list(dict.fromkeys([*([said] if said else []), *COMMON]))
    yield from product(likely, sizes)
    widths = [m.in_channels for m in detector.modules() if isinstance(m, nn.Conv2d)]
    others = dict.fromkeys([*widths[:MOST], *range(1, min(max(widths, default=0), MOST) + 1)])
    yield from product((n for n in others if n not in likely), sizes[:1])


class Shapes(TorchDispatchMode):
    """Convolutions and the like are not run but looked up: torch takes ten times as long on the meta device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Never compiled: spares the import of torch._dynamo."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = shape_of(func.overloadpacket, args)
        return func(*args, **(kwargs or {})) if out is None else out


def _tried(ghost: nn.Module, channels: int, hw: tuple[int, int]) -> Trial:
    entered = 0

    def count(*_: Any) -> None:
        nonlocal entered
        entered += 1

    counting = (m.register_forward_pre_hook(count) for m in ghost.modules())
    try:
        with hooked(counting), evaluating(ghost), torch.no_grad(), Shapes():
            ghost(torch.empty(1, channels, *hw, device="meta"))
    except Exception as e:  # whatever a layer makes of an image that it was not made for
        return Trial(channels, entered, e)
    return Trial(channels, entered, None)
