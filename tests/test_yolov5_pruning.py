"""The law on every release of ultralytics/yolov5: masked equals cut, the cut one is wired as planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import random_plan
from tiny import PX
from torch import nn
from yolov5_files import each, of

import yolo_slim
from yolo_slim import checkpoint
from yolo_slim.channels import cut, masked, relative_difference, trace
from yolo_slim.channels.groups import same_wiring
from yolo_slim.errors import SlimError

TIGHT = 1e-5
ROUGH = {"ratio": 0.4, "criterion": "l1", "min_channels": 1, "round_to": 1}


@each
def test_masked_equals_cut_and_the_empty_plan_changes_nothing(path: Path) -> None:
    detector = yolo_slim.load(path)
    found, image = trace(detector, PX), torch.rand(1, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    assert relative_difference(detector, cut(detector, found, np.ones(found.n_channels, bool)), image) == 0
    for seed in range(2):
        kept = random_plan(found, np.random.default_rng(seed))
        slim = cut(detector, found, kept)
        assert relative_difference(masked(detector, found, kept), slim, image) < TIGHT, f"plan {seed}"
        assert relative_difference(detector, slim, image) > 100 * TIGHT, f"plan {seed} proves nothing"
        assert same_wiring(found, kept, trace(slim, PX)), f"plan {seed}"


@each
def test_most_is_free_and_what_the_head_says_stays(path: Path) -> None:
    """Of the widths only those of the head must stay."""
    found = trace(yolo_slim.load(path), PX)
    held = [name for group in found.groups if group.reason for name in group.producers]
    assert {name.rpartition(".")[0] for name in held} <= {"model.24.m"}
    said = [conv for name, conv in found.convs.items() if name.startswith("model.24.m.")]
    assert [len(conv.outputs) for conv in said] == [3 * (5 + 3)] * 3
    assert found.image_channels == 3  # Focus: 12 enter its convolution


@pytest.mark.parametrize("release", ["v2.0", "v3.1", "v6.0", "master"])
def test_a_slim_one_is_written_read_and_pruned_again(release: str, tmp_path: Path) -> None:
    detector = yolo_slim.load(of(release))
    first = yolo_slim.prune(detector, imgsz=PX, **ROUGH)
    slim = yolo_slim.load(yolo_slim.save(first.model, tmp_path / "slim.pt"))
    assert checkpoint.is_slim(slim) and not checkpoint.is_slim(detector)
    second = yolo_slim.prune(slim, imgsz=PX, **ROUGH)
    again = yolo_slim.load(yolo_slim.save(second.model, tmp_path / "again.pt"))
    assert again.yaml["slim"]["cuts"] == [first.narrower, second.narrower]
    sizes = [sum(p.numel() for p in each.parameters()) for each in (detector, slim, again)]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.5 * sizes[0]


def test_eps_survives_the_cut(tmp_path: Path) -> None:
    """An eps of 1e-5 instead of the file's is worth hundreds of pixels."""
    slim = yolo_slim.prune(of("v6.0"), imgsz=PX, **ROUGH).model
    norms = [m for m in slim.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}


def test_least_squares_and_scores_from_images_work(tmp_path: Path) -> None:
    images = torch.rand(4, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    found = yolo_slim.prune(of("v7.0"), imgsz=PX, calibration=images, reconstruct="lstsq", **ROUGH)
    assert found.difference < TIGHT


def test_what_the_repository_cannot_hold_is_not_written(tmp_path: Path) -> None:
    detector = yolo_slim.load(of("v7.0"))
    detector.model[0].act = type("Mish2", (nn.SiLU,), {"__module__": "mine"})()
    with pytest.raises(SlimError, match=r"cannot hold a mine\.Mish2"):
        yolo_slim.save(detector, tmp_path / "slim.pt")
    assert not (tmp_path / "slim.pt").exists()
