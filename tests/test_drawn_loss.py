"""A loss that needs no labels: its gradients are those of targets drawn from what the detector says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import PX, run
from torch import Tensor, nn

from yolo_slim import checkpoint, prune
from yolo_slim.channels import trace
from yolo_slim.importance import Evidence, score
from yolo_slim.measure.loss import drawn_loss

pytest_plugins = ["tiny"]


def seed(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


class Saying(nn.Module):
    """Says these rows (B, 4 + K, A) of any image; the last layer knows how many classes there are."""

    def __init__(self, boxes: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.boxes, self.logits = nn.Parameter(boxes), nn.Parameter(logits)
        head = nn.Identity()
        head.nc = logits.shape[1]
        self.model = nn.ModuleList([head])

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.boxes, self.logits.sigmoid()], 1)


def drawn_gradients(said: Saying, times: int) -> tuple[np.ndarray, np.ndarray]:
    draw, found = seed(), []
    for _ in range(times):
        loss = drawn_loss(said, torch.zeros(len(said.boxes), 3, 4, 4), draw)
        found.append([g.numpy() for g in torch.autograd.grad(loss, [said.logits, said.boxes])])
    logits, boxes = (np.stack(each) for each in zip(*found, strict=True))
    return logits, boxes


@pytest.mark.parametrize(
    ("p", "weight"),
    [
        pytest.param(0.5, 0.5**0.5, id="the least sure"),
        pytest.param(0.9, 0.9**0.5, id="sure"),
        pytest.param(0.01, 0.1, id="hardly any"),
    ],
)
def test_squares_of_gradients_are_fisher_information(p: float, weight: float) -> None:
    """Of a Bernoulli with logit z it is p (1 - p): here times the squared weight of the position, its best score."""
    logits, boxes = drawn_gradients(Saying(torch.ones(1, 4, 1), torch.full((1, 1, 1), p).logit()), 4000)
    expected = weight**2 * p * (1 - p)
    assert np.square(logits).mean() == pytest.approx(expected, rel=0.15 if p > 0.1 else 0.4)
    assert abs(logits.mean()) < 0.1 * expected**0.5, "they lead nowhere: the detector is where it says it is"
    assert np.square(boxes).mean((0, 1, 3)) == pytest.approx(25 * p**1.5, rel=0.1), "5 sqrt(p^1.5) in units of a size"


def test_a_box_counts_in_units_of_its_size() -> None:
    boxes = torch.tensor([[[50.0, 50.0], [50.0, 50.0], [10.0, 100.0], [20.0, 20.0]]])  # two boxes: 10 x 20, 100 x 20
    _, found = drawn_gradients(Saying(boxes, torch.full((1, 1, 2), 2.0)), 3000)
    rms = np.sqrt(np.square(found).mean(0))[0]  # [4, A]
    assert rms[0, 0] / rms[0, 1] == pytest.approx(10, rel=0.1) == rms[2, 0] / rms[2, 1]
    assert rms[1, 0] / rms[1, 1] == pytest.approx(1, rel=0.1)


def test_the_same_draw_is_the_same_loss(detector: nn.Module) -> None:
    images = torch.rand(2, 3, PX, PX)
    losses = [float(drawn_loss(detector, images, seed(n))) for n in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", ["yolov5n", "yolov10n", "yolo26n"])
def test_any_head_of_ultralytics_can_be_asked(name: str) -> None:
    """Those that keep their best detections alone are asked for what they say before."""
    net = checkpoint.build(f"{name}.yaml", classes=3)
    loss = drawn_loss(net, torch.rand(1, 3, PX, PX), seed())
    gradients = torch.autograd.grad(loss, [net.model[0].conv.weight])
    assert torch.isfinite(loss) and gradients[0].abs().max() > 0


def test_obs_reads_no_label(detector: nn.Module) -> None:
    images = [torch.rand(2, 3, PX, PX)]
    found = score(detector, trace(detector, PX), "obs", evidence=Evidence(images=images, drawn=drawn_loss))
    again = score(detector, trace(detector, PX), "obs", evidence=Evidence(images=images, drawn=drawn_loss))
    assert all(np.array_equal(found[name], again[name]) for name in found)
    finite = [s for s in found.values() if np.isfinite(s).all()]
    assert len(finite) > 5 and all((s >= 0).all() and s.max() > 0 for s in finite)


def test_no_label_of_the_training_images_is_read(original: Path, data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(data.parent, bare)
    shutil.rmtree(bare / "labels" / "train")
    kept = []
    for folder in (data.parent, bare):
        settings = [f"imgsz={PX}", f"runs={tmp_path / 'runs'}", f"name={folder.name}", "prune.calib_images=4"]
        budget = ["prune.target.flops=0.7", "prune.round_to=4", "prune.min_channels=4"]
        answer = run("prune", f"model={original}", f"data={folder / data.name}", *settings, *budget)
        assert answer.code == 0, answer
        kept.append((tmp_path / "runs" / folder.name / "plan" / "plan.json").read_text())
    assert kept[0] == kept[1] and "model.0.conv" in kept[0]


def test_in_python_pictures_are_enough(original: Path) -> None:
    pictures = torch.rand(4, 3, PX, PX)
    asked = {"imgsz": PX, "calibration": pictures, "target": {"flops": 0.7}, "round_to": 4}
    default, named = prune(original, **asked), prune(original, criterion="obs", solver="knapsack", **asked)
    assert default.kept == named.kept and default.cost.achieved["flops"] <= 0.7
    assert default.kept != prune(original, criterion="l1", **asked).kept
