"""Second moments of what layers read on some images, as far as memory goes: what makes an error in a weight count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from yolo_slim.channels.moments import look
from yolo_slim.errors import SlimError

MEMORY = 1 << 30
"""Bytes that all second moments may take: layers with larger ones are factored by their weights alone."""

POINTS = 64
"""Output positions drawn in each image for each layer."""

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "patch": lambda x: x.flatten(1)[None],
    "columns": lambda x: x.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)[None],
    "channels": lambda x: x.permute(0, 2, 3, 1).flatten(0, 2)[None],
    "windows": lambda x: x.flatten(2).transpose(0, 1),
}
"""Kind -> of patches (N, Ci, kh, kw), the samples (blocks, n, a) whose mean squares are taken: of whole patches, of
their columns (Ci kh), of single positions (Ci), and of each channel's window apart (kh kw)."""


def second_moments(
    detector: nn.Module,
    kinds: Mapping[str, Iterable[str]],
    images: Iterable[Tensor],
    *,
    seed: int,
    memory: int = MEMORY,
) -> dict[tuple[str, str], Tensor]:
    """(layer, kind) -> E[x x'] (a, a) in fp64, of windows (Ci, a, a); without those too large or never read.

    Args:
        detector: runs in eval mode; left alone.
        kinds: convolution -> the `KINDS` that are wanted.
        images: batches (B, C, H, W), read once; none: nothing is found.
        seed: of the positions.
        memory: bytes to hold at most; the smallest come first.

    Raises:
        SlimError: a layer reads what is not finite.
    """
    held = within(detector, kinds, memory)
    sums: dict[tuple[str, str], Tensor] = {}
    counts: dict[tuple[str, str], int] = {}

    def see(name: str, x: Tensor) -> None:
        x = x.float().unflatten(1, detector.get_parameter(f"{name}.weight").shape[1:])
        for kind in held[name]:
            samples = KINDS[kind](x)
            sums[name, kind] = sums.get((name, kind), 0) + (samples.transpose(1, 2) @ samples).double()
            counts[name, kind] = counts.get((name, kind), 0) + samples.shape[1]

    look(detector, held, images, see, points=POINTS, seed=seed)
    for (name, _), total in sums.items():
        if not torch.isfinite(total).all():
            raise SlimError(f"what {name} reads is not finite. Are the images in [0, 1], and all weights finite?")
    found = {key: total / counts[key] for key, total in sums.items()}
    return {(name, kind): total if kind == "windows" else total[0] for (name, kind), total in found.items()}


def within(detector: nn.Module, kinds: Mapping[str, Iterable[str]], memory: int) -> dict[str, list[str]]:
    """Layer -> the kinds that are held, the smallest first, as long as there is memory."""
    sizes = []
    for name, some in kinds.items():
        shape = detector.get_parameter(f"{name}.weight").shape[1:]
        for kind in some:
            blocks, _, width = KINDS[kind](torch.empty(1, *shape, device="meta")).shape
            sizes.append((8 * blocks * width**2, name, kind))
    held: dict[str, list[str]] = {}
    for size, name, kind in sorted(sizes):
        memory -= size
        if memory < 0:
            break
        held.setdefault(name, []).append(kind)
    return held
