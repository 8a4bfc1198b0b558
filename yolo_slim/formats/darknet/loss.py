"""The loss of YOLOv3 (Redmon & Farhadi, arXiv:1804.02767, 2.1-2.2), with YOLOv4's losses of boxes (arXiv:2004.10934).

Each truth is given to the anchor whose width and height overlap its own the most, whichever map that belongs to, in the
cell where its centre lies. There the objectness is to be 1, the box the truth's, and the class's probability 1; each
class is a question of its own. Elsewhere the objectness is to be 0, unless the box overlaps a truth well already.

Sums over boxes, as Darknet has them, and means over images. What a cfg says of it is followed: `ignore_thresh`,
`truth_thresh`, `iou_thresh`, `iou_loss`, `iou_normalizer`, `obj_normalizer`, `cls_normalizer`. What it says of
augmentation, label smoothing or focal loss is not: images and labels are Ultralytics'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from ultralytics.utils.metrics import bbox_iou

from yolo_slim.errors import SlimError, shown
from yolo_slim.formats.darknet.modules import DarknetHead
from yolo_slim.formats.darknet.net import read_net
from yolo_slim.formats.darknet.plan import Layer
from yolo_slim.formats.detector import Detector

KINDS = {"mse": {}, "iou": {}, "giou": {"GIoU": True}, "diou": {"DIoU": True}, "ciou": {"CIoU": True}}
"""Losses of boxes: squares of what the map holds (YOLOv3), or 1 less an overlap: its name for Ultralytics."""
LARGEST_EXPONENT = 10.0
"""Of a size against its anchor, e^10 = 22,026: beyond it a gradient says nothing, and soon is no number."""
NEAR = 1e-6
"""Probabilities nearer to 0 or 1 are taken for this near, where a map holds them ready-made (`new_coords`)."""


@dataclass(frozen=True)
class Rules:
    """What a `[yolo]` says of its loss; where it says nothing, what Darknet takes."""

    anchors: list[tuple[float, float]]  # all of them, in pixels
    mask: list[int]  # those of this map
    ignore: float  # an overlap beyond which a box need not be none
    truth: float  # an overlap beyond which it is to be the truth's
    iou: float  # an overlap of sizes beyond which other anchors are given a truth as well
    kind: str  # of KINDS
    box: float
    obj: float
    cls: float

    @classmethod
    def of(cls, layer: Layer) -> Rules:
        """Read them.

        Raises:
            SlimError: a loss or a number that is none.
        """
        said = layer.section
        kind = said.text("iou_loss", "mse")
        if kind not in KINDS:
            said.refuse(f"iou_loss={shown(kind)} is not supported; what is: {', '.join(KINDS)}", "iou_loss")
        return cls(
            anchors=layer.values["anchors"],
            mask=layer.values["mask"],
            ignore=said.number("ignore_thresh", 0.5, least=0, most=2),
            truth=said.number("truth_thresh", 1.0, least=0, most=2),
            iou=said.number("iou_thresh", 1.0, least=0, most=2),
            kind=kind,
            box=said.number("iou_normalizer", 0.75, least=0, most=1e6),
            obj=said.number("obj_normalizer", 1.0, least=0, most=1e6),
            cls=said.number("cls_normalizer", 1.0, least=0, most=1e6),
        )


@dataclass(frozen=True)
class Places:
    """Where truths are given to boxes of a map: P pairs, of which several may be of one box or of one truth."""

    image: Tensor  # [P], as the others
    anchor: Tensor
    row: Tensor
    column: Tensor
    truth: Tensor  # number of the truth

    @property
    def index(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Into what begins with (B, A, H, W)."""
        return self.image, self.anchor, self.row, self.column

    def join(self, other: Places) -> Places:
        """Both."""
        pairs = zip((*self.index, self.truth), (*other.index, other.truth), strict=True)
        return Places(*(torch.cat(pair) for pair in pairs))


class DarknetLoss:
    """Maps and labels to a loss."""

    def __init__(self, detector: Detector) -> None:
        """For a detector of a cfg.

        Args:
            detector: its head decodes, its `yaml` holds what the cfg says of the loss.

        Raises:
            SlimError: the cfg asks for a loss that is not supported.
        """
        self.head = cast(DarknetHead, detector.model[-1])
        try:
            self.rules = [Rules.of(layer) for layer in read_net(detector.yaml["darknet"]["cfg"]).yolos]
        except SlimError as e:
            raise SlimError(f"the detector cannot be trained: its cfg {e}") from e

    def __call__(self, preds: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch.

        Args:
            preds: maps (B, A * (5 + K), H, W), as the head gives them in train mode, or its (boxes, maps) in eval mode.
            batch: `batch_idx` (T,), `cls` (T, 1) and `bboxes` (T, 4), normalised x y w h, of T truths in all.

        Returns:
            the loss times B, as Ultralytics sums it over a batch; box_loss, obj_loss and cls_loss of an image.
        """
        maps = preds[1] if isinstance(preds, tuple) else preds
        device = maps[0].device
        truths = torch.cat([batch["batch_idx"].view(-1, 1), batch["cls"].view(-1, 1), batch["bboxes"]], 1)
        truths = truths.to(device, torch.float32)  # [T, 6]
        truths = truths[(truths[:, 4:] > 0).all(1)]
        first, *others = (self.of_map(i, raw.float(), truths) for i, raw in enumerate(maps))
        sums = sum(others, first)
        items = (sums / len(maps[0])).detach()
        return sums.sum(), dict(zip(("box_loss", "obj_loss", "cls_loss"), items, strict=True))

    def of_map(self, level: int, raw: Tensor, truths: Tensor) -> Tensor:
        """The weighted losses of one map: box, objectness, class, summed over images: (3,)."""
        rules, head = self.rules[level], self.head
        xy, wh, obj, cls = (part.permute(0, 1, 3, 4, 2) for part in head.split(level, raw))  # [B, A, H, W, ...]
        if head.levels[level]["new_coords"]:
            xy, obj, cls = (part.logit(NEAR) for part in (xy, obj, cls))
        size = raw.new_tensor([raw.shape[3], raw.shape[2]] * 2) * head.levels[level]["stride"]
        boxes = truths[:, 2:] * size  # [T, 4], pixels
        places, free = self.given(level, raw, truths[:, 0].long(), boxes)

        target = torch.zeros_like(obj[..., 0])
        target[places.index] = 1
        obj_loss = (cross_entropy(obj[..., 0], target, reduction="none") * (free | target.bool())).sum()

        wanted = torch.zeros_like(cls)
        at = *places.index, truths[places.truth, 1].long()
        wanted[at] = 1
        cls_loss = cross_entropy(cls[target.bool()], wanted[target.bool()], reduction="sum")

        found, sizes = xy[places.index], wh[places.index]
        pick = self.squares if rules.kind == "mse" else self.overlaps
        box_loss = pick(level, found, sizes, places, boxes[places.truth], truths[places.truth, 4:])
        return torch.stack([rules.box * box_loss, rules.obj * obj_loss, rules.cls * cls_loss])

    @torch.no_grad()
    def given(self, level: int, raw: Tensor, image: Tensor, boxes: Tensor) -> tuple[Places, Tensor]:
        """Which boxes of a map are given which truths, and which are to be none: bool (B, A, H, W)."""
        rules, stride = self.rules[level], self.head.levels[level]["stride"]
        b, (h, w) = len(raw), raw.shape[2:]
        overlap = same_centre(boxes[:, 2:], raw.new_tensor(rules.anchors))  # [T, all anchors]
        best = overlap.argmax(1, keepdim=True)
        chosen = (overlap > rules.iou).scatter(1, best, True)[:, rules.mask]  # [T, A]
        truth, anchor = chosen.nonzero(as_tuple=True)
        column, row = (
            (boxes[truth, i] / stride).long().clamp(0, n - 1) for i, n in ((0, w), (1, h))
        )  # a centre on the far edge lies in the last cell
        places = Places(image[truth], anchor, row, column, truth)

        free = torch.ones(b, len(rules.mask), h, w, dtype=torch.bool, device=raw.device)
        rows = self.head.boxes(level, *self.head.split(level, raw)[:2]).movedim(2, 4)  # [B, A, H, W, 4]
        taken = torch.zeros_like(free)
        taken[places.index] = True
        for i in image.unique().tolist():
            own = (image == i).nonzero()[:, 0]
            found = bbox_iou(rows[i][..., None, :], boxes[own])[..., 0].nan_to_num()  # [A, H, W, truths of the image]
            most, which = found.max(3)
            free[i] = most <= rules.ignore
            anchor, row, column = near = ((most > rules.truth) & ~taken[i]).nonzero(as_tuple=True)
            places = places.join(Places(torch.full_like(row, i), anchor, row, column, own[which[near]]))
        return places, free

    def squares(self, level: int, xy: Tensor, wh: Tensor, places: Places, boxes: Tensor, shares: Tensor) -> Tensor:
        """YOLOv3's: gradients are differences of what a map holds, twice as large for small truths.

        Of centres, cross entropy (less that of the truth with itself, so that it ends at 0) has that gradient; of
        sizes, half a square.

        Args:
            level: of the map.
            xy: logits of centres in their cell (P, 2).
            wh: what the map holds of sizes (P, 2).
            places: of these.
            boxes: their truths in pixels (P, 4).
            shares: widths and heights of the truths, of the image's (P, 2).
        """
        at = self.head.levels[level]
        anchors = xy.new_tensor(at["anchors"])[places.anchor]
        cells = torch.stack([places.column, places.row], 1)
        inside = (boxes[:, :2] / at["stride"] - cells).clamp(0, 1)
        inside = (inside + (at["scale_xy"] - 1) / 2) / at["scale_xy"]  # as the sigmoid has to be
        ratio = boxes[:, 2:] / anchors
        wanted = ratio.sqrt() / 2 if at["new_coords"] else ratio.log()
        least = torch.special.entr(inside) + torch.special.entr(1 - inside)
        gaps = cross_entropy(xy, inside, reduction="none") - least + (wh - wanted).square() / 2
        return ((2 - shares.prod(1, keepdim=True)) * gaps).sum()

    def overlaps(self, level: int, xy: Tensor, wh: Tensor, places: Places, boxes: Tensor, shares: Tensor) -> Tensor:
        """YOLOv4's: 1 less the overlap of a box with its truth, of the kind that the cfg names; see `squares`."""
        at = self.head.levels[level]
        anchors = xy.new_tensor(at["anchors"])[places.anchor]
        cells = torch.stack([places.column, places.row], 1)
        centre = (self.head.unbound(level, xy.sigmoid()) + cells) * at["stride"]
        size = anchors * (4 * wh * wh if at["new_coords"] else wh.clamp(max=LARGEST_EXPONENT).exp())
        size = size.clamp(min=NEAR)  # of nothing there is no shape
        found = bbox_iou(torch.cat([centre, size], 1), boxes, xywh=True, **KINDS[self.rules[level].kind])
        return (1 - found).sum()


def same_centre(a: Tensor, b: Tensor) -> Tensor:
    """Overlap (IoU) of boxes around one centre, by their widths and heights: (N, 2), (M, 2) to (N, M)."""
    both = torch.minimum(a[:, None], b[None]).prod(2)
    return both / (a.prod(1)[:, None] + b.prod(1)[None] - both)
