"""Views and scenes for the losses of distillation: random ones, and ones with given numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolo_slim.distill import Pair, Scene, View


def scene(
    *truth: Sequence[float], size: tuple[int, int] = (64, 64), strides: Sequence[int] = (8, 16), images: Sequence = ()
) -> Scene:
    """Positions of these strides, and true boxes (x1, y1, x2, y2) of class 0, all in image 0 unless `images` says."""
    points, of = [], []
    for stride in strides:
        y, x = torch.meshgrid(*(torch.arange(pixels // stride) + 0.5 for pixels in size), indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1) * stride)
        of.append(torch.full((x.numel(),), float(stride)))
    boxes = torch.tensor(truth, dtype=torch.float32).reshape(-1, 4)
    where = torch.tensor(images or [0] * len(boxes), dtype=torch.long)
    return Scene(torch.cat(points), torch.cat(of), boxes, torch.zeros(len(boxes)), where, size)


def view(
    seed: int, where: Scene, *, batch: int = 2, widths: Sequence[int] = (3, 5), classes: int = 3, bins: int = 4
) -> View:
    """Random maps on the grids of the scene, and random predictions that say something here and there."""
    draw = torch.Generator().manual_seed(seed)
    strides = where.strides.unique().int().tolist()
    maps = [
        torch.randn(batch, width, where.size[0] // stride, where.size[1] // stride, generator=draw)
        for width, stride in zip(widths, strides, strict=True)
    ]
    a = len(where.points)
    boxes, scores = (torch.randn(batch, c, a, generator=draw) for c in (4 * bins, classes))
    return View(maps, 2 * boxes if bins > 1 else boxes.abs() + 0.5, 2 * scores - 2)


def pair(student: View, teacher: View, same: Sequence[Tensor] | None = None) -> Pair:
    """What losses must know of these two."""
    return Pair(
        [m.shape[1] for m in student.maps],
        [m.shape[1] for m in teacher.maps],
        same,
        student.scores.shape[1],
        student.boxes.shape[1] // 4,
        teacher.scores.shape[1],
        teacher.boxes.shape[1] // 4,
    )


def itself(a: View) -> Pair:
    """A detector beside one of the same channels."""
    return pair(a, a, [torch.arange(m.shape[1]) for m in a.maps])


def looking(*maps: Tensor, sure: float = 0.0) -> View:
    """A view of given maps; one class, of this logit at each of the first map's positions."""
    batch, _, height, width = maps[0].shape
    return View(maps, torch.zeros(batch, 4, height * width), torch.full((batch, 1, height * width), sure))


def saying(scores: Tensor | Sequence, boxes: Tensor | Sequence | None = None) -> View:
    """A view of one image with given logits (K, A) and distances (4 * bins, A); its one map is nothing."""
    scores = torch.as_tensor(scores, dtype=torch.float32)[None]
    boxes = torch.zeros(1, 4, scores.shape[2]) if boxes is None else torch.as_tensor(boxes, dtype=torch.float32)[None]
    return View([torch.zeros(1, 1, 1, scores.shape[2])], boxes, scores)


def logit(p: float) -> float:
    """The logit of a probability."""
    return float(torch.tensor(p).double().logit())
