"""The loss of detectors with anchors, as YOLOv5 trains with: boxes, objectness, classes.

A true box belongs to every anchor that it is at most `anchor_t` times as wide, narrow, tall or low as; of each such
anchor to the cell that its centre lies in, and to the nearest neighbour in x and in y, where that is in the map.

Left out, as the repository has them off by default: focal loss, label smoothing, autobalance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.metrics import bbox_iou

from yolo_slim.formats.detector import Detector
from yolo_slim.formats.yolov5.layers import AnchorDetect

BALANCE = {3: (4.0, 1.0, 0.4)}
"""Levels -> weights of objectness, level by level; with other numbers of them the first of `BALANCE_MORE`."""
BALANCE_MORE = (4.0, 1.0, 0.25, 0.06, 0.02)

GAINS = {"box": 0.05, "obj": 1.0, "cls": 0.5}
"""Of three levels, 80 classes and images of 640 px."""
OTHER_NAMES = {"giou": "box"}
"""What releases before v3 called a gain."""
LIKE_ULTRALYTICS = ("box", "cls")
"""Gains that Ultralytics' training arguments scale: as much as they are above or below Ultralytics' own defaults."""
SHIFTS = ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1))
"""The cell of the centre, and the ones left of it, above, right, below: (x, y) that is subtracted."""


class Matched(NamedTuple):
    """True boxes at one level, each as often as it is to be found: M times in all."""

    image: Tensor  # (M,)
    anchor: Tensor  # (M,)
    row: Tensor  # (M,)
    column: Tensor  # (M,)
    box: Tensor  # (M, 4): centre from the corner of its cell, width and height, in cells
    size: Tensor  # (M, 2): of the anchor, in cells
    label: Tensor  # (M,): class


class AnchorLoss:
    """What a detector has to pay for what it says of a batch.

    Args:
        detector: with a head of `AnchorDetect`'s kind. Gains, `anchor_t` and weights of positives are those that its
            file was trained with (`hyp`, scaled already), else the repository's, scaled to levels, classes and images.
    """

    def __init__(self, detector: Detector) -> None:
        head = cast(AnchorDetect, detector.model[-1])
        self.nc, self.na, self.no, self.nl = head.nc, head.na, head.no, head.nl
        self.anchors = head.anchors.detach().float()  # [nl, na, 2], cells
        hyp = getattr(detector, "hyp", None)
        hyp = {OTHER_NAMES.get(k, k): v for k, v in hyp.items() if _is_gain(v)} if isinstance(hyp, dict) else {}
        self.trained_with = {name: float(hyp[name]) for name in GAINS} if GAINS.keys() <= hyp.keys() else None
        self.anchor_t = float(hyp.get("anchor_t") or 4.0)
        self.weights = {name: torch.tensor(float(hyp.get(f"{name}_pw", 1.0))) for name in ("obj", "cls")}
        args = getattr(detector, "args", None) or {}
        args = args if isinstance(args, Mapping) else vars(args)
        self.scales = {name: args.get(name, DEFAULT_CFG_DICT[name]) / DEFAULT_CFG_DICT[name]
                       for name in LIKE_ULTRALYTICS}  # fmt: skip

    def gains(self, side: int) -> dict[str, float]:
        """What each part is multiplied by, for images of this side in pixels."""
        scaled = {"box": 3 / self.nl, "cls": self.nc / 80 * 3 / self.nl, "obj": (side / 640) ** 2 * 3 / self.nl}
        own = self.trained_with or {name: gain * scaled[name] for name, gain in GAINS.items()}
        return {name: gain * self.scales.get(name, 1.0) for name, gain in own.items()}

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The three parts (3,) times the number of images, and each by its name.

        Args:
            preds: what the detector returned, in either mode.
            batch: of Ultralytics: img (B, C, H, W), batch_idx (N,), cls (N, 1), bboxes (N, 4) as shares of the image.
        """
        raw = (preds[1] if isinstance(preds, tuple) else preds)["raw"]
        box, obj, cls = (raw[0].new_zeros((), dtype=torch.float32) for _ in range(3))
        balance = BALANCE.get(self.nl, BALANCE_MORE)
        with torch.autocast(raw[0].device.type, enabled=False):
            for i, level in enumerate(raw):
                b, _, h, w = level.shape
                said = level.float().view(b, self.na, self.no, h, w).permute(0, 1, 3, 4, 2)  # [B, na, H, W, no]
                true = self.matched(i, batch, (h, w))
                wanted = torch.zeros_like(said[..., 0])  # objectness
                if len(true.image):
                    at = true.image, true.anchor, true.row, true.column
                    found = said[at]  # [M, no]
                    xy = 2 * found[:, :2].sigmoid() - 0.5
                    wh = (2 * found[:, 2:4].sigmoid()) ** 2 * true.size
                    iou = bbox_iou(torch.cat((xy, wh), 1), true.box, xywh=True, CIoU=True).squeeze(-1)
                    box = box + (1 - iou).mean()
                    wanted[at] = iou.detach().clamp(0)
                    if self.nc > 1:
                        classes = nn.functional.one_hot(true.label, self.nc).float()
                        cls = cls + bce(found[:, 5:], classes, pos_weight=self.weights["cls"].to(found.device))
                obj = obj + balance[i] * bce(said[..., 4], wanted, pos_weight=self.weights["obj"].to(said.device))
        gains = self.gains(max(batch["img"].shape[2:]))
        parts = {"box_loss": box * gains["box"], "obj_loss": obj * gains["obj"], "cls_loss": cls * gains["cls"]}
        total = torch.stack(list(parts.values())) * len(batch["img"])
        return total, {name: part.detach() for name, part in parts.items()}

    def matched(self, i: int, batch: Mapping[str, Any], hw: tuple[int, int]) -> Matched:
        """The true boxes of a batch at level i, whose map has `hw` cells.

        Where two fall into one cell and anchor, the objectness of the later one in this order holds: shift after shift,
        anchor after anchor, box after box.
        """
        device = batch["img"].device
        anchors = self.anchors[i].to(device)
        size = torch.tensor((hw[1], hw[0]), device=device)
        boxes = batch["bboxes"].to(device).float() * size.repeat(2)  # [N, 4], cells
        ratio = boxes[None, :, 2:] / anchors[:, None]  # [na, N, 2]
        anchor, which = (torch.maximum(ratio, 1 / ratio).amax(2) < self.anchor_t).nonzero(as_tuple=True)
        centre = boxes[which, :2]
        low, high = ((c % 1 < 0.5) & (c > 1) for c in (centre, size - centre))
        near = torch.cat((torch.ones_like(low[:, :1]), low, high), 1).t()  # [5, M]: as SHIFTS
        shift, of = near.nonzero(as_tuple=True)
        anchor, which, centre = anchor[of], which[of], centre[of]
        away = torch.tensor(SHIFTS, device=device)[shift]
        cell = (centre - 0.5 * away).long()
        cell = torch.minimum(cell.clamp(min=0), size - 1)
        truth = torch.cat((centre - cell, boxes[which, 2:]), 1)
        image, label = (batch[name].to(device).long().view(-1)[which] for name in ("batch_idx", "cls"))
        return Matched(image, anchor, cell[:, 1], cell[:, 0], truth, anchors[anchor], label)


def _is_gain(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1e4
