"""Training a detector of ultralytics/yolov5 in Ultralytics' trainer: killed, resumed, taught."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import PX
from training_helpers import Killed, fit, killed_after
from yolov5_files import small

import yolo_slim
from yolo_slim import SlimError, checkpoint
from yolo_slim.deploy import with_nms
from yolo_slim.formats.families import YOLOV5, family_at
from yolo_slim.heads import bins_of, classes_of, entering, is_of_head, raw
from yolo_slim.training.distill import enrol, losses_between
from yolo_slim.training.teacher import scene_of, view_of
from yolo_slim.training.trainer import SlimTrainer

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("best"))


@pytest.fixture(scope="module")
def slim(best: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pruned = yolo_slim.prune(best, imgsz=PX, ratio=0.4, criterion="l1", min_channels=1, round_to=1)
    return yolo_slim.save(pruned.model, tmp_path_factory.mktemp("slim") / "slim.pt")


def widths(path: Path) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in yolo_slim.load(path).named_parameters()}


def test_a_slim_one_stays_slim_and_one_of_the_repository(slim: Path, data: Path, tmp_path: Path) -> None:
    trainer = fit(SlimTrainer, slim, tmp_path / "run", str(data), epochs=1)
    assert list(trainer.loss_items) == ["box_loss", "obj_loss", "cls_loss"]
    for name in ("last", "best"):
        path = tmp_path / "run" / "weights" / f"{name}.pt"
        assert family_at(path) is YOLOV5 and widths(path) == widths(slim)
    finished = yolo_slim.save(yolo_slim.load(path), tmp_path / "again.pt")
    assert list(checkpoint.read(finished)) == list(checkpoint.read(slim))
    assert checkpoint.read(finished)["model"].yaml["slim"] == checkpoint.read(slim)["model"].yaml["slim"]


def test_a_killed_training_goes_on_as_if_nothing_had_been(best: Path, data: Path, tmp_path: Path) -> None:
    """All images in one batch, as they are: nothing is drawn by lot."""
    as_they_are = dict.fromkeys(("mosaic", "fliplr", "hsv_h", "hsv_s", "hsv_v", "translate", "scale"), 0.0)
    settings = {**as_they_are, "epochs": 2, "batch": 8, "nbs": 8}
    fit(SlimTrainer, best, tmp_path / "whole", str(data), **settings)
    with pytest.raises(Killed):
        fit(killed_after(SlimTrainer, 1), best, tmp_path / "killed", str(data), **settings)
    fit(SlimTrainer, best, tmp_path / "killed", str(data), resume=True, **settings)
    ends = [checkpoint.read(tmp_path / run / "weights" / "last.pt") for run in ("whole", "killed")]
    assert [end["epoch"] for end in ends] == [1, 1]
    for name, tensor in ends[0]["live"].items():
        assert torch.allclose(tensor.float(), ends[1]["live"][name].float(), atol=1e-4), name


# ---------------------------------------------------------------------------------------------------------------------
# Heads


def test_a_head_answers_for_itself(best: Path) -> None:
    detector = yolo_slim.load(best)
    assert (classes_of(detector), bins_of(detector), entering(detector)) == (4, None, ["model.9", "model.6"])
    assert is_of_head(detector, "model.10.m.0") and not is_of_head(detector, "model.1.conv")
    image = torch.rand(1, 3, PX, PX)
    said = raw(detector(image))
    assert [m.shape for m in said["feats"]] == [(1, 32, 8, 8), (1, 48, 4, 4)]
    assert [m.shape for m in said["raw"]] == [(1, 27, 8, 8), (1, 27, 4, 4)]
    detector.train()
    assert raw(detector(image)).keys() == said.keys()


@torch.no_grad()
def test_the_surest_row_is_the_first_detection_under_nms(best: Path) -> None:
    """There, rows are corners, score and class."""
    detector = yolo_slim.load(best)
    for conv in detector.model[-1].m:
        conv.bias.view(3, 9)[:, 4:] += 3  # sure enough to be told
    image = torch.rand(1, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    rows = detector(image)[0][0]
    x, y, w, h, *scores = rows[:, int(rows[4:].amax(0).argmax())].tolist()
    *corners, score, label = with_nms(detector)(image)[0, 0].tolist()
    assert corners == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], abs=1e-3)
    assert (score, label) == (pytest.approx(max(scores)), scores.index(max(scores)))


# ---------------------------------------------------------------------------------------------------------------------
# Teachers

MAPS = ("mimic", "cwd", "pkd", "attention", "channels", "mgd", "fsp")
OF_PREDICTIONS = ("region", "scored", "binary", "box", "ld", "bounded", "background")


def lesson(kin: bool, features: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> dict:
    chosen = {"features": {name: {} for name in features}, "outputs": {name: {} for name in outputs}}
    return {"teachers": ["best.pt"], "kin": [kin], "layers": None, **chosen}


@pytest.mark.parametrize("name", MAPS)
def test_losses_of_maps_teach(best: Path, slim: Path, name: str) -> None:
    """A slim student and the detector that it was cut from; a map that differs costs something, and can be learnt."""
    student = yolo_slim.load(slim).train()
    teachers, pairs, taps = enrol(student, [yolo_slim.load(best)], lesson(True, (name,)), PX, square=True)
    image = torch.rand(2, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    losses = losses_between(pairs, lesson(True, (name,)))
    batch = {"img": image, "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]), "cls": torch.zeros(1, 1),
             "batch_idx": torch.zeros(1)}  # fmt: skip
    if taps:
        taps.open()
    preds = student(image)
    view = view_of(preds, taps.caught() if taps else None)
    costs = losses(view, [teachers[0](image)], scene_of(preds, batch, student.stride))
    assert all(cost > 0 for cost in costs.values())
    sum(costs.values()).backward()
    assert torch.isfinite(student.model[1].conv.weight.grad).all()


@pytest.mark.parametrize("name", OF_PREDICTIONS)
def test_losses_of_predictions_are_refused_by_name(best: Path, slim: Path, name: str) -> None:
    kind = {"features" if name in ("region", "scored") else "outputs": (name,)}
    with pytest.raises(SlimError, match=rf"finetune\.distill: {name}: .* head with anchors"):
        enrol(yolo_slim.load(slim), [yolo_slim.load(best)], lesson(True, **kind), PX, square=True)


def test_a_teacher_of_another_family_teaches_by_its_maps(slim: Path, original: Path, best: Path) -> None:
    """What enters the heads is alike: maps at the same strides."""
    for student, teacher in ((slim, original), (original, best)):
        pupil = yolo_slim.load(student)
        teachers, pairs, _ = enrol(pupil, [yolo_slim.load(teacher)], lesson(False, ("mimic",)), PX, square=True)
        assert len(teachers[0](torch.rand(1, 3, PX, PX)).maps) == 2 and pairs[0].same is None
