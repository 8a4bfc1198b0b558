"""Features of boxes: the same cut out of every map, whatever its stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolo_slim.distill.positions import confidence, corners
from yolo_slim.distill.view import Scene, View

SIDE = 7
"""Cells of a pooled box along each side."""
IDEAL = 4
"""Strides along the side of a box that its level fits best: 32, 64, 128 pixels at strides 8, 16, 32."""
MOST = 300
"""Positions of an image that may become boxes of its teacher."""


def true_rois(scene: Scene) -> Tensor:
    """(N, 5): image, x1, y1, x2, y2 in pixels."""
    return torch.cat([scene.images[:, None].to(scene.boxes), scene.boxes], 1)


@torch.no_grad()
def confident_rois(view: View, scene: Scene, threshold: float, overlap: float) -> Tensor:
    """What a detector finds with more than this probability, (M, 5): image, x1, y1, x2, y2 in pixels.

    Args:
        overlap: IoU beyond which of two boxes of a class in an image the surer one stays.
    """
    from torchvision.ops import batched_nms  # only now: it imports torch's compiler, in 1.5 s

    sure, at = confidence(view).topk(min(MOST, len(scene.points)), dim=1)  # (B, M)
    image, rank = (sure > threshold).nonzero(as_tuple=True)
    place = at[image, rank]
    boxes = corners(view, scene)[image, place]
    classes = view.scores.argmax(1)[image, place]
    kept = batched_nms(boxes, sure[image, rank], image * view.scores.shape[1] + classes, overlap)
    return torch.cat([image[kept, None].to(boxes), boxes[kept]], 1)


def home(rois: Tensor, maps: Sequence[Tensor], scene: Scene) -> Tensor:
    """The map on which each box belongs, (M,): the one on which its side is nearest to IDEAL cells."""
    strides = rois.new_tensor([scene.size[0] / m.shape[2] for m in maps])
    sides = (rois[:, 3:] - rois[:, 1:3]).clamp(min=1).prod(1).sqrt()
    return (sides[:, None] / (IDEAL * strides)).log().abs().argmin(1)


def pool(features: Tensor, rois: Tensor, scene: Scene) -> Tensor:
    """What a map (B, C, H, W) holds of each box, (M, C, SIDE, SIDE)."""
    from torchvision.ops import roi_align  # only now, see above

    scale = features.shape[2] / scene.size[0]
    return roi_align(features, rois, SIDE, scale, sampling_ratio=2, aligned=True)
