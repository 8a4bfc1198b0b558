"""The few modules that a Darknet detector has besides torch's and Ultralytics': a pickle of one names these.

Layer i of `model` is Darknet's layer i; its `[yolo]` layers hand their maps to the head, which follows last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_slim.formats.detector import Detector, Layers


class Sum(nn.Module):
    """`[shortcut]`: the sum of its inputs, each (B, C, H, W)."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        total = maps[0]
        for other in maps[1:]:
            total = total + other
        return total


class Part(nn.Module):
    """`[route]` with groups=: part number `part` of the channels of a map (B, C, H, W)."""

    def __init__(self, groups: int, part: int) -> None:
        super().__init__()
        self.groups, self.part = groups, part

    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(self.groups, 1)[self.part]

    def extra_repr(self) -> str:
        return f"groups={self.groups}, part={self.part}"


class EdgePool(nn.MaxPool2d):
    """`[maxpool]` with one row and one column more of padding behind than before.

    The last row and column are repeated: their maximum is theirs, as it is beside Darknet's minus infinity, and to
    repeat them moves no channels, so that a trace goes through.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x[:, :, -1:]], 2)
        return super().forward(torch.cat([x, x[:, :, :, -1:]], 3))


class DarknetHead(Detect):
    """All `[yolo]` layers: raw maps to boxes in pixels of the image.

    In train mode it gives the maps as they come, (B, A * (5 + K), H, W) each; in eval mode (boxes, maps), boxes alone
    while exported, with boxes (B, 4 + K, N): x y w h (or x y x y), and for each class objectness times probability.
    """

    i: int
    f: list[int]
    cv2: Any
    cv3: Any

    def __init__(self, nc: int, levels: Sequence[dict[str, Any]]) -> None:
        """A head.

        Args:
            nc: classes.
            levels: for each map its `anchors` (a list of width, height in pixels of the image), its `stride` in
                pixels, `scale_xy` (how far beyond its cell a centre may lie) and `new_coords` (whether the maps are
                numbers in [0, 1] already, and sizes are squares: Scaled-YOLOv4).
        """
        super(Detect, self).__init__()  # none of Detect's own layers
        self.nc, self.nl, self.no = nc, len(levels), 5 + nc
        self.reg_max = 1
        self.cv2 = self.cv3 = None
        self.levels = [dict(level) for level in levels]
        self.stride = torch.tensor([float(level["stride"]) for level in levels])

    @property
    def end2end(self) -> bool:
        """Never: boxes are for NMS. Ultralytics sets it on every head that it trains, validates or exports."""
        return False

    @end2end.setter
    def end2end(self, value: object) -> None:
        pass

    def forward(self, maps: list[Tensor]) -> Any:
        if self.training:
            return maps
        boxes = torch.cat([self.decoded(i, x) for i, x in enumerate(maps)], 2)
        return boxes if self.export else (boxes, maps)

    def decoded(self, level: int, raw: Tensor) -> Tensor:
        """Boxes and scores (B, 4 + K, A * H * W) of one map (B, A * (5 + K), H, W).

        As in YOLOv3 (arXiv:1804.02767, 2.1), with centres stretched by scale_xy around the middle of their cell
        (YOLOv4, arXiv:2004.10934, 3.4).
        """
        if raw.dtype in (torch.float16, torch.bfloat16):  # exp is soon beyond them
            raw = raw.float()
        xy, wh, obj, cls = self.split(level, raw)
        box = self.boxes(level, xy, wh)
        if not self.levels[level]["new_coords"]:
            obj, cls = obj.sigmoid(), cls.sigmoid()
        if self.xyxy:
            centre, half = box[:, :, :2], box[:, :, 2:] / 2
            box = torch.cat([centre - half, centre + half], 2)
        rows = torch.cat([box, obj * cls], 2)  # [B, A, 4 + K, H, W]
        return rows.permute(0, 2, 1, 3, 4).flatten(2)

    def boxes(self, level: int, xy: Tensor, wh: Tensor) -> Tensor:
        """Boxes x y w h in pixels (B, A, 4, H, W) of what a map holds of centres and sizes, (B, A, 2, H, W) each."""
        if not self.levels[level]["new_coords"]:
            xy = xy.sigmoid()
        centre = (self.unbound(level, xy) + self.cells(xy)) * self.levels[level]["stride"]
        return torch.cat([centre, self.sizes(level, wh)], 2)

    def split(self, level: int, raw: Tensor) -> list[Tensor]:
        """A map (B, A * (5 + K), H, W) as xy, wh (B, A, 2, H, W), objectness (..., 1, ...), classes (..., K, ...)."""
        b, _, h, w = raw.shape
        rows = raw.view(b, len(self.levels[level]["anchors"]), self.no, h, w)
        return [rows[:, :, :2], rows[:, :, 2:4], rows[:, :, 4:5], rows[:, :, 5:]]

    def unbound(self, level: int, xy: Tensor) -> Tensor:
        """Centres in their cell, from [0, 1] to as far as scale_xy lets them."""
        scale = self.levels[level]["scale_xy"]
        return xy if scale == 1 else xy * scale - (scale - 1) / 2

    def sizes(self, level: int, wh: Tensor) -> Tensor:
        """Widths and heights in pixels, (B, A, 2, H, W)."""
        anchors = torch.tensor(self.levels[level]["anchors"], dtype=wh.dtype, device=wh.device)[None, :, :, None, None]
        return anchors * (4 * wh * wh if self.levels[level]["new_coords"] else wh.exp())

    @staticmethod
    def cells(xy: Tensor) -> Tensor:
        """Column and row of each cell of (..., H, W): (1, 1, 2, H, W)."""
        h, w = xy.shape[-2:]
        rows = torch.arange(h, dtype=xy.dtype, device=xy.device)[:, None].expand(h, w)
        columns = torch.arange(w, dtype=xy.dtype, device=xy.device)[None].expand(h, w)
        return torch.stack([columns, rows])[None, None]


class DarknetModel(Detector):
    """A detector of a Darknet cfg. `yaml` holds all that is needed to write it as one again."""

    def __init__(self, layers: Sequence[nn.Module], head: DarknetHead, yaml: dict[str, Any], names: dict[int, str]):
        """A detector in eval mode.

        Args:
            layers: one a section, each with `f`, the number of the layer it reads, or a list of them; -1: the last.
            head: with the numbers of its maps as `f`.
            yaml: plain values: `darknet` (`cfg`, the text; `header`, of the weights), `nc`, `channels`.
            names: class -> its name.
        """
        super(DetectionModel, self).__init__()  # nothing is built from a YAML
        for i, layer in enumerate([*layers, head]):
            vars(layer).update(i=i, type=type(layer).__name__, np=sum(p.numel() for p in layer.parameters()))
        self.model = Layers(*layers, head)
        sources = [f for layer in self.model for f in (layer.f if isinstance(layer.f, list) else [layer.f])]
        self.save = sorted({f for f in sources if f != -1})
        self.yaml, self.names, self.nc, self.stride = yaml, names, head.nc, head.stride
        self.inplace, self.task, self.criterion = True, "detect", None
        self.args = dict(DEFAULT_CFG_DICT)
        self.eval()

    def init_criterion(self) -> Any:
        """The loss of YOLOv3."""
        from yolo_slim.formats.darknet.loss import DarknetLoss  # which knows the head

        return DarknetLoss(self)
