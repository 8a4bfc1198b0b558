"""Checkpoints of every release of ultralytics/yolov5 give the answers that their own code gave."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny import PX, refused, run
from torch import nn
from yolov5_files import FUSED, WHOLE, each, of, spoilt, wanted

import yolo_slim
from yolo_slim import checkpoint
from yolo_slim.formats.families import FAMILIES, ULTRALYTICS, YOLOV5, family_at
from yolo_slim.formats.yolov5.layers import Contract, Expand


def test_there_is_one_of_each_release_whose_format_differs() -> None:
    releases = ["master", "v2.0", "v3.0", "v3.1", "v4.0", "v5.0", "v6.0", "v6.2", "v7.0"]
    assert [path.stem.removeprefix("yolov5_") for path in WHOLE] == releases


@each
def test_a_release_s_own_answers_come_out(path: Path) -> None:
    image, rows = wanted(path)
    with torch.no_grad():
        found, _ = yolo_slim.load(path)(image)
    assert (found[:, :4] - rows[:, :4]).abs().max() < 1e-3  # pixels
    assert (found[:, 4:] - rows[:, 4:]).abs().max() < 1e-6


@each
def test_norms_and_names_are_those_of_the_file(path: Path) -> None:
    detector = yolo_slim.load(path)
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    assert detector.names == {0: "RBC", 1: "WBC", 2: "Platelets"}
    assert detector.task == "detect" and not detector.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in detector.parameters())


def test_a_release_s_activation_is_kept() -> None:
    kinds = {"v2.0": nn.LeakyReLU, "v3.1": nn.Hardswish, "v7.0": nn.SiLU}
    for release, kind in kinds.items():
        assert any(type(m) is kind for m in yolo_slim.load(of(release)).modules()), release


def test_no_code_of_the_repository_is_imported() -> None:
    yolo_slim.load(of("v7.0"))
    assert not {"models", "models.yolo", "models.common"} & sys.modules.keys()


def test_a_fused_one_is_refused_as_such() -> None:
    refused(run("inspect", FUSED), FUSED, "is fused", "best.pt")


def test_a_file_is_told_by_what_it_holds_and_not_by_its_name(tmp_path: Path) -> None:
    other = tmp_path / "yolov8n.pt"
    other.write_bytes(of("v6.0").read_bytes())
    assert family_at(other) is YOLOV5
    assert family_at(of("v6.0").parents[1] / "v8-8.2.0-final.pt") is ULTRALYTICS
    assert FAMILIES[-1] is ULTRALYTICS


@pytest.mark.parametrize("reverse", [False, True], ids=["as they are", "the other way round"])
def test_boxes_are_decoded_by_the_buffer_of_anchors_in_pixels(tmp_path: Path, reverse: bool) -> None:
    """Before v6 a file holds them twice; in v3's reversed heads the two differ, and those in pixels are meant."""

    def spoil(detector: nn.Module) -> None:
        head = detector.model[-1]
        if reverse:
            head._buffers["anchors"] = head._buffers["anchors"].flip(0)

    image, rows = wanted(of("v3.0"))
    with torch.no_grad():
        found, _ = yolo_slim.load(spoilt(of("v3.0"), tmp_path / "mine.pt", spoil))(image)
    assert (found - rows).abs().max() < 1e-3


def test_the_average_goes_before_the_weights_and_may_come_with_its_updates(tmp_path: Path) -> None:
    """Files of an unfinished training hold both; for a while between v4 and v5, the average came as a pair."""

    def zero(detector: nn.Module) -> None:
        nn.init.zeros_(detector.model[0].conv.weight)

    average = checkpoint.read(of("v7.0"))["model"]
    for ema in (average, (average, 100)):
        mine = spoilt(of("v7.0"), tmp_path / "mine.pt", zero, ema=ema)
        assert yolo_slim.load(mine).model[0].conv.weight.any()


def test_the_size_it_was_trained_at_is_known_where_the_file_tells(tmp_path: Path) -> None:
    options = {"imgsz": 416, "batch_size": 16}
    assert yolo_slim.load(spoilt(of("v7.0"), tmp_path / "mine.pt", opt=options)).args["imgsz"] == 416
    assert yolo_slim.load(of("v2.0")).args["imgsz"] == 640


def test_contract_and_expand_move_pixels_as_the_repository_does() -> None:
    """Worked out by hand: channels of a square's first pixel come before those of its second."""
    contract, expand = Contract(), Expand()
    contract.gain = expand.gain = 2
    x = torch.arange(8.0).view(1, 2, 2, 2)  # channel 0 is [[0, 1], [2, 3]], channel 1 [[4, 5], [6, 7]]
    assert contract(x).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(expand(contract(x)), x)


@each
def test_inspect_tells_of_it(path: Path) -> None:
    answer = run("inspect", path, f"imgsz={PX}")
    assert (answer.code, answer.err) == (0, "")
    assert "convolutions in" in answer.out
