"""Fine-grained imitation: mimicry where anchors lie near true boxes (Wang et al., CVPR 2019, arXiv:1906.03609).

A detector without anchors gets some here: squares of a few sizes in strides about each cell. Sizes of 2, 4, 8 strides
are 16 to 256 pixels at strides 8 to 32, the range of YOLOv5's anchors. As the authors' threshold is relative to a
box's best anchor, a small box would find some "near" cells on any map: a level on which no size fits is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match
from yolo_slim.distill.positions import TINY
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.distill.workers import over_workers


class Fgfi(nn.Module):
    """1 / (2 M) sum over the M near cells of all levels of the squared error, summed over channels.

    Args:
        adapter: see `Match`; the authors' is 3x3 with ReLU, but maps behind SiLU are negative too.
        normalize: see `Match`.
        share: of a box's largest IoU with an anchor that a near cell's anchor must exceed (psi).
        sizes: sides of the square anchors in strides.
        ratio: sides of box and anchor that differ by this factor do not fit, as in YOLOv5's assignment.
    """

    weight = 0.05  # the authors' 0.01 is of maps as they are
    maps_alone = True

    def __init__(
        self,
        pair: Pair,
        *,
        adapter: bool | None = None,
        normalize: bool = True,
        share: float = 0.5,
        sizes: Sequence[float] = (2.0, 4.0, 8.0),
        ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.match = Match(pair, adapter, normalize)
        self.share, self.sizes, self.ratio = share, tuple(sizes), ratio

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; 0 without true boxes."""
        errors, cells = [], []
        for s, t in self.match(student.maps, teacher.maps):
            near = self.near(scene, len(t), (t.shape[2], t.shape[3]))
            errors.append(((s - t).square().sum(1) * near).sum())
            cells.append(near.sum())
        return torch.stack(errors).sum() / (2 * over_workers(torch.stack(cells).sum()).clamp(min=TINY))

    def near(self, scene: Scene, batch: int, hw: tuple[int, int]) -> Tensor:
        """1 in the cells of a map that are near a true box, 0 elsewhere, (B, H, W)."""
        stride_y, stride_x = (pixels / cells for pixels, cells in zip(scene.size, hw, strict=True))
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]  # (N, 2)
        ious = scene.boxes.new_zeros(len(sides), *hw)
        fits = torch.zeros_like(sides[:, 0], dtype=torch.bool)
        for size in self.sizes:
            anchor = scene.boxes.new_tensor([size * stride_x, size * stride_y])
            across = _overlaps(scene.boxes[:, 0::2], hw[1], stride_x, size)  # (N, W)
            down = _overlaps(scene.boxes[:, 1::2], hw[0], stride_y, size)  # (N, H)
            both = down[:, :, None] * across[:, None]
            ious = torch.maximum(ious, both / (anchor.prod() + sides.prod(1)[:, None, None] - both))
            factor = torch.maximum(sides / anchor, anchor / sides.clamp(min=TINY)).amax(1)
            fits |= factor < self.ratio
        near = above(ious, self.share) & fits[:, None, None]
        union = ious.new_zeros(batch, *hw).index_add_(0, scene.images.long(), near.to(ious))
        return (union > 0).to(ious)


def above(ious: Tensor, share: float) -> Tensor:
    """Where IoUs (N, H, W) are larger than this share of the largest of their box."""
    return ious > share * ious.flatten(1).amax(1)[:, None, None]


def _overlaps(ends: Tensor, cells: int, stride: float, size: float) -> Tensor:
    """Pixels that segments (N, 2) share with anchors about each of a row of cells, (N, cells)."""
    middle = (torch.arange(cells, device=ends.device) + 0.5) * stride
    low, high = middle - size * stride / 2, middle + size * stride / 2
    return (torch.minimum(ends[:, 1:], high) - torch.maximum(ends[:, :1], low)).clamp(min=0)
