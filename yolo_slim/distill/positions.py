"""What a detector says at each position: how sure it is, which box it means; and what it should have said there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolo_slim.distill.view import Scene, View
from yolo_slim.distill.workers import over_workers

TINY = 1e-6
"""Weights that sum to less than this are none."""


@dataclass(frozen=True)
class Level:
    """The positions of one stride."""

    stride: float
    part: slice
    """Of the A positions."""
    hw: tuple[int, int]


def levels(scene: Scene) -> list[Level]:
    """The grids that the positions of a scene are made of."""
    strides, counts = torch.unique_consecutive(scene.strides, return_counts=True)
    found, start = [], 0
    for stride, count in zip(strides.tolist(), counts.tolist(), strict=True):
        rows = math.ceil(scene.size[0] / stride)
        found.append(Level(stride, slice(start, start + count), (rows, count // rows)))
        start += count
    return found


def confidence(view: View) -> Tensor:
    """Probability of the likeliest class at each position, (B, A)."""
    return view.scores.sigmoid().amax(1)


def confidence_on(hw: tuple[int, int], view: View, scene: Scene) -> Tensor:
    """The same on a map's grid, (B, 1, H, W): from the level of the nearest stride, the surest of a cell."""
    stride = scene.size[0] / hw[0]
    nearest = min(levels(scene), key=lambda level: abs(math.log(level.stride / stride)))
    grid = confidence(view)[:, nearest.part].unflatten(1, nearest.hw)[:, None]
    return grid if nearest.hw == hw else nn.functional.adaptive_max_pool2d(grid, hw)


def distances(view: View) -> Tensor:
    """Distances left, top, right, bottom in strides, (B, 4, A): the means of their distributions over bins."""
    bins = edges(view)  # (B, 4, bins, A)
    if bins.shape[2] == 1:
        return bins[:, :, 0]
    values = torch.arange(bins.shape[2], device=bins.device, dtype=bins.dtype)
    return (bins.softmax(2) * values[:, None]).sum(2)


def edges(view: View) -> Tensor:
    """Logits of the four distances, (B, 4, bins, A)."""
    return view.boxes.unflatten(1, (4, -1))


def corners(view: View, scene: Scene) -> Tensor:
    """The boxes that a detector means, (B, A, 4) xyxy in pixels; where sides are negative, empty ones."""
    left_top, right_bottom = (distances(view).mT * scene.strides[:, None]).chunk(2, -1)
    low = scene.points - left_top
    return torch.cat([low, torch.maximum(scene.points + right_bottom, low)], -1)


def truth_at(scene: Scene, batch: int) -> tuple[Tensor, Tensor]:
    """Which positions lie in a true box, (B, A), and their distances to its sides in strides, (B, 4, A).

    Where boxes lie over one another the smallest counts, as in FCOS (arXiv:1904.01355, 3.1).
    """
    sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
    by_area = sides.prod(1).argsort()
    boxes, images = scene.boxes[by_area], scene.images[by_area].long()
    x, y = scene.points.T
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)  # each (N, 1)
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # (N, A)
    nobody = len(boxes)
    ranks = torch.where(inside, torch.arange(nobody, device=inside.device)[:, None], nobody)
    first = torch.full((batch, len(x)), nobody, device=inside.device)
    first = first.scatter_reduce(0, images[:, None].expand_as(ranks), ranks, "amin")
    chosen = torch.cat([boxes, boxes.new_zeros(1, 4)])[first]  # (B, A, 4)
    away = torch.cat([scene.points - chosen[..., :2], chosen[..., 2:] - scene.points], -1)
    return first < nobody, (away / scene.strides[:, None]).mT


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """A scalar; 0, with a graph, where nothing has weight."""
    return (values * weights).sum() / over_workers(weights.sum()).clamp(min=TINY)
