"""Layers of the YOLOv5 repository that Ultralytics has none like, under the names of parts that its files give them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import C3, BottleneckCSP, Detect


class CrossConv(nn.Module):
    """A convolution along rows, one along columns, and around both a shortcut where `add` says so."""

    cv1: nn.Module
    cv2: nn.Module
    add: bool

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class CrossCSP(BottleneckCSP):
    """The first C3, of v2 and v3: as BottleneckCSP, of cross convolutions."""


class C3SPP(C3):
    """C3 with spatial pyramids inside."""


class Contract(nn.Module):
    """Squares of `gain` x `gain` pixels become channels; the place in the square comes first, then the channel."""

    gain: int

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * gain^2, H / gain, W / gain)."""
        squares = nn.functional.pixel_unshuffle(x, self.gain)
        return squares.unflatten(1, (x.shape[1], self.gain**2)).transpose(1, 2).flatten(1, 2)


class Expand(nn.Module):
    """Contract, undone."""

    gain: int

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C / gain^2, H * gain, W * gain)."""
        places = x.unflatten(1, (self.gain**2, x.shape[1] // self.gain**2)).transpose(1, 2).flatten(1, 2)
        return nn.functional.pixel_shuffle(places, self.gain)


class AnchorDetect(Detect):
    """The head with anchors: one convolution a level, which says of each anchor in each cell x, y, w, h, obj, classes.

    It is a Detect to Ultralytics' exporter, which sets `export`, `xyxy` and `dynamic`; of Detect's parts it has none.

    Attributes:
        nc, no, nl, na: classes, outputs of an anchor (5 + nc), levels, anchors of a cell.
        m: of each level the convolution.
        anchors: (nl, na, 2), width and height in cells of the level.
        anchor_grid: (nl, 1, na, 1, 1, 2), the same in pixels: a buffer in files before v6, which goes before `anchors`.
        stride: (nl,), pixels.
    """

    na: int
    m: nn.ModuleList
    f: list[int]
    cv2: Any = None  # branches of other heads
    cv3: Any = None

    @property
    def anchors(self) -> Tensor:
        """The buffer, which a value of Detect's class would hide."""
        return cast(Tensor, nn.Module.__getattr__(self, "anchors"))

    @anchors.setter
    def anchors(self, value: Tensor) -> None:
        """It stays a buffer."""
        self._buffers["anchors"] = value

    @property
    def end2end(self) -> bool:
        """It always needs non-maximum suppression."""
        return False

    @end2end.setter
    def end2end(self, value: bool) -> None:
        """There is no other way."""

    def fuse(self) -> None:
        """Nothing is left out for inference."""

    def sizes(self) -> list[Tensor]:
        """Anchors in pixels, per level (na, 2), as its release decodes with them."""
        grid = self._buffers.get("anchor_grid")
        if grid is not None:
            return list(grid.view(self.nl, self.na, 2))
        return [level * stride for level, stride in zip(self.anchors, self.stride, strict=True)]

    def forward(self, x: list[Tensor]) -> Any:
        """What enters, per level (B, C, H, W) -> boxes xywh in pixels and obj * cls, (B, 4 + K, N), and what was said.

        In training what was said alone: `raw`, per level (B, na * no, H, W), and `feats`, what entered.
        """
        said = {"raw": [conv(level) for conv, level in zip(self.m, x, strict=True)], "feats": x}
        if self.training:
            return said
        rows = self.decoded(said["raw"])
        return rows if self.export else (rows, said)

    def decoded(self, raw: list[Tensor]) -> Tensor:
        """Rows (B, 4 + K, N): level after level, in each anchor after anchor, row after row."""
        per_level = zip(raw, self.sizes(), self.stride, strict=True)
        parts, corners, strides, anchors = zip(*(self._level(*level) for level in per_level), strict=True)
        s = torch.cat(parts, 2).sigmoid()  # [B, 5 + K, N]
        xy = (2 * s[:, :2] - 0.5 + torch.cat(corners, 1)) * torch.cat(strides, 1)
        wh = (2 * s[:, 2:4]) ** 2 * torch.cat(anchors, 1)
        boxes = torch.cat((xy - wh / 2, xy + wh / 2) if self.xyxy else (xy, wh), 1)
        return torch.cat((boxes, s[:, 4:5] * s[:, 5:]), 1)

    def _level(self, raw: Tensor, anchors: Tensor, stride: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of one level, N = na * H * W: what it says (B, no, N), and of each row its cell, stride, anchor, (2, N)."""
        b, _, h, w = raw.shape
        said = raw.view(b, self.na, self.no, h * w).transpose(1, 2).flatten(2)
        y, x = (torch.arange(n, device=raw.device, dtype=raw.dtype) for n in (h, w))
        cells = torch.stack((x.expand(h, w), y[:, None].expand(h, w))).view(2, 1, h * w)
        cells = cells.expand(2, self.na, h * w).flatten(1)
        strides = (torch.zeros_like(cells[:1]) + stride).to(raw.dtype)
        return said, cells, strides, anchors.to(raw.dtype).t()[..., None].expand(2, self.na, h * w).flatten(1)
