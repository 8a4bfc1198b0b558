"""The anchor loss: as v7.0 of ultralytics/yolov5 has it on a recorded batch, and by cases worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from yolov5_files import FOLDER, each, of

import yolo_slim
from yolo_slim.formats.yolov5.loss import AnchorLoss
from yolo_slim.measure.loss import detection_loss

PX = 64
HYP = {"box": 0.05, "cls": 0.5 * 3 / 80, "obj": (PX / 640) ** 2, "anchor_t": 4.0}


@pytest.fixture
def detector() -> nn.Module:
    """Levels of 8, 4 and 2 cells a side at 64 px; of level 0, anchors of 10x13, 16x30, 33x23 px."""
    return yolo_slim.load(of("v7.0"))


def batch_of(*boxes: tuple[float, float, float, float], label: int = 0, images: int = 1) -> dict[str, Tensor]:
    """As Ultralytics' data loader gives it: one image after the other, all boxes in the first."""
    return {
        "img": torch.zeros(images, 3, PX, PX),
        "bboxes": torch.tensor(boxes).view(-1, 4),
        "cls": torch.full((len(boxes), 1), float(label)),
        "batch_idx": torch.zeros(len(boxes)),
    }


def empty(outputs: int = 24) -> list[Tensor]:
    return [torch.zeros(1, outputs, n, n) for n in (8, 4, 2)]


def test_a_recorded_batch_costs_what_it_cost_there(detector: nn.Module) -> None:
    with np.load(FOLDER / "loss.npz") as found:
        record = {name: torch.from_numpy(found[name]) for name in found.files}
    detector.hyp = dict(HYP)
    raw = [record[f"raw{i}"].requires_grad_() for i in range(3)]
    batch = {"img": torch.zeros(2, 3, PX, PX), "bboxes": record["boxes"], "cls": record["cls"][:, None],
             "batch_idx": record["batch_idx"]}  # fmt: skip
    loss, parts = AnchorLoss(detector)({"raw": raw}, batch)
    loss.sum().backward()
    assert abs(loss.sum().item() - record["loss"].item()) < 1e-5
    assert torch.allclose(torch.stack(list(parts.values())), record["items"], atol=1e-5, rtol=0)
    assert list(parts) == ["box_loss", "obj_loss", "cls_loss"]
    for i, level in enumerate(raw):
        scale = record[f"grad{i}"].abs().max()
        assert (level.grad - record[f"grad{i}"]).abs().max() < 1e-4 * scale, f"level {i}"


CELLS = {  # centre and size in cells of 8 px -> cells (column, row) of the anchor of 10x13 px, 1.25 x 1.625 cells
    "in the very middle of a cell: no neighbour is nearer": ((3.5, 3.5, 1.25, 1.625), {(3, 3)}),
    "left of the middle, above it: the left and the upper one": ((3.2, 3.3, 1.25, 1.625), {(3, 3), (2, 3), (3, 2)}),
    "right of the middle, below it": ((3.8, 3.9, 1.25, 1.625), {(3, 3), (4, 3), (3, 4)}),
    "in the first cell, left and above: no neighbour there is in the map": ((0.3, 0.2, 1.25, 1.625), {(0, 0)}),
    "in the last cell, right and below: none either": ((7.8, 7.9, 1.25, 1.625), {(7, 7)}),
    "on the corner of the image": ((8.0, 8.0, 1.25, 1.625), {(7, 7), (7, 7)}),
    "at one cell exactly: nearer than a cell to the edge is not enough": ((1.0, 3.7, 1.25, 1.625), {(1, 3), (1, 4)}),
    "four times as wide as the anchor: it belongs to others": ((3.2, 3.3, 5.0, 1.625), set()),
    "a quarter of its height: likewise": ((3.2, 3.3, 1.25, 0.40625), set()),
    "a little less than four times": ((3.2, 3.3, 4.99, 1.625), {(3, 3), (2, 3), (3, 2)}),
}  # fmt: skip


@pytest.mark.parametrize("reason", CELLS)
def test_a_box_belongs_to_cells_and_anchors(detector: nn.Module, reason: str) -> None:
    box, cells = CELLS[reason]
    found = AnchorLoss(detector).matched(0, batch_of(tuple(v / 8 for v in box)), (8, 8))
    mine = found.anchor == 0
    assert {*zip(found.column[mine].tolist(), found.row[mine].tolist(), strict=True)} == cells
    for column, row, (x, y, w, h) in zip(found.column, found.row, found.box.tolist(), strict=True):
        assert (x + column, y + row, w, h) == pytest.approx(box, abs=1e-5)


def test_an_image_of_other_sides_than_square_is_counted_in_its_own_cells(detector: nn.Module) -> None:
    """Shares of the width are of columns: at half of both, column 4 of 8 and row 2 of 4."""
    found = AnchorLoss(detector).matched(0, batch_of((0.53, 0.53, 0.2, 0.4)), (4, 8))
    assert (found.column[0], found.row[0]) == (4, 2)
    assert found.box[0].tolist() == pytest.approx([0.24, 0.12, 1.6, 1.6], abs=1e-5)


def test_without_boxes_objectness_alone_is_paid(detector: nn.Module) -> None:
    """All of it says 0, so 1/2: ln 2 at each place, times balance 4 + 1 + .4 and the gain."""
    detector.hyp = dict(HYP)
    loss, parts = AnchorLoss(detector)({"raw": empty()}, batch_of())
    assert (parts["box_loss"], parts["cls_loss"]) == (0, 0)
    assert parts["obj_loss"] == pytest.approx(5.4 * math.log(2) * HYP["obj"], rel=1e-5)
    assert loss.shape == (3,)


def test_what_says_a_box_as_it_is_pays_nothing_for_it(detector: nn.Module) -> None:
    """A box as large as an anchor is said by w = h = 0, a centre at x cells by logit((x + .5) / 2)."""
    detector.hyp = {**HYP, "anchor_t": 1.001}  # that anchor alone
    width, height = (float(v) / 2 for v in detector.model[-1].anchors[2, 1])  # of 2 cells
    box, raw = (0.6, 0.3, width, height), empty()
    found = AnchorLoss(detector).matched(2, batch_of(box), (2, 2))
    assert set(found.anchor.tolist()) == {1}
    for row, column, (x, y, *_) in zip(found.row, found.column, found.box.tolist(), strict=True):
        raw[2].view(1, 3, 8, 2, 2)[0, 1, :2, row, column] = torch.logit(torch.tensor([(x + 0.5) / 2, (y + 0.5) / 2]))
    _, parts = AnchorLoss(detector)({"raw": raw}, batch_of(box))
    assert parts["box_loss"] == pytest.approx(0, abs=1e-5)


def test_one_class_has_nothing_to_tell_apart(detector: nn.Module) -> None:
    head = detector.model[-1]
    head.nc, head.no = 1, 6
    raw = [torch.zeros(1, 18, n, n) for n in (8, 4, 2)]
    assert AnchorLoss(detector)({"raw": raw}, batch_of((0.5, 0.5, 0.2, 0.2)))[1]["cls_loss"] == 0


GAINS = {
    "as its file was trained": ({"hyp": {"box": 0.02, "obj": 0.7, "cls": 0.1}}, (0.02, 0.7, 0.1)),
    "as a file before v3 calls it": ({"hyp": {"giou": 0.03, "obj": 0.7, "cls": 0.1}}, (0.03, 0.7, 0.1)),
    "the repository's own, of 3 levels, 3 classes and 320 px": ({"hyp": None}, (0.05, 0.25, 0.5 * 3 / 80)),
    "a file with half of them": ({"hyp": {"box": 0.02}}, (0.05, 0.25, 0.5 * 3 / 80)),
    "what is no number": ({"hyp": {"box": float("nan"), "obj": 1.0, "cls": 1.0}}, (0.05, 0.25, 0.5 * 3 / 80)),
    "twice Ultralytics' box and half its cls": (
        {"hyp": {"box": 0.02, "obj": 0.7, "cls": 0.1}, "args": {"box": 15.0, "cls": 0.25}}, (0.04, 0.7, 0.05)),
}  # fmt: skip


@pytest.mark.parametrize("reason", GAINS)
def test_gains(detector: nn.Module, reason: str) -> None:
    values, wanted = GAINS[reason]
    vars(detector).update(values)
    assert tuple(AnchorLoss(detector).gains(320).values()) == pytest.approx(wanted)


@each
def test_a_detector_s_own_loss_can_be_trained(path: Any) -> None:
    """In either mode the same head is heard; every parameter learns."""
    detector = yolo_slim.load(path)
    image = torch.rand(2, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    batch = {**batch_of((0.5, 0.5, 0.2, 0.3), (0.4, 0.6, 0.5, 0.6), (0.5, 0.5, 0.9, 0.9), label=1), "img": image}
    detector.train()
    loss, parts = detector.loss(batch)
    loss.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())
    assert all(value > 0 for value in parts.values())
    detector.eval()
    assert torch.isfinite(detection_loss(detector, batch))
