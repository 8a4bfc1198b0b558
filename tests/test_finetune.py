"""The stage around distillation: what is wrong with a lesson shows before training, what decides it is recorded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_slim import SlimError
from yolo_slim.config import Distill, check
from yolo_slim.stages import finetune as stage
from yolo_slim.stages.finetune import pictures


def draw(folder: Path, *names: str, side: int = 16) -> Path:
    """Black pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((side, side, 3), np.uint8))
    return folder


# ---- folders of pictures ----


def add(folder: Path) -> None:
    draw(folder / "deeper", "c.png")


def rename(folder: Path) -> None:
    (folder / "a.png").rename(folder / "z.png")


def redraw(folder: Path) -> None:
    draw(folder, "a.png", side=640)


def label(folder: Path) -> None:
    for name in ("a.txt", "a.npy", "labels.cache"):  # Ultralytics writes such beside its own images
        (folder / name).write_text("0 0.5 0.5 0.1 0.1")


@pytest.mark.parametrize(
    ("change", "other"),
    [(add, True), (rename, True), (redraw, True), (label, False), (lambda folder: None, False)],
)
@pytest.mark.parametrize("key", ["extra_images", "teacher_images"])
def test_pictures_that_change_undo_the_stage(tmp_path, key, change, other):
    chosen = Distill(**{key: str(draw(tmp_path / "more", "a.png", "b.png"))})
    before = pictures(chosen)
    change(tmp_path / "more")
    assert before.keys() == {f"{key}_sum"} and (pictures(chosen) != before) is other


def test_pictures_are_among_the_settings_of_the_stage(tmp_path, monkeypatch):
    folder = draw(tmp_path / "more", "a.png")
    config = check({"model": "best.pt", "finetune": {"distill": {"extra_images": str(folder)}}})
    seen = []
    monkeypatch.setattr(stage, "teachers_of", lambda config: [tmp_path / "teacher.pt"])
    monkeypatch.setattr(stage, "run_stage", lambda config, name, settings, inputs, work: seen.append(settings))
    stage.tune(config, "finetuned", tmp_path / "start.pt", 1)
    add(folder)
    stage.tune(config, "finetuned", tmp_path / "start.pt", 1)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("key", ["extra_images", "teacher_images"])
def test_a_folder_that_is_not_there_or_empty(tmp_path, key):
    with pytest.raises(SlimError, match=f"finetune.distill.{key}: no folder .*none"):
        pictures(Distill(**{key: str(tmp_path / "none")}))
    with pytest.raises(SlimError, match=f"finetune.distill.{key}: expected pictures .*jpg.* in .*, found none"):
        pictures(Distill(**{key: str(tmp_path)}))


# ---- settings that do not go together ----


@pytest.mark.parametrize(
    ("finetune", "prune", "said"),
    [
        ({"epochs": 3, "distill": {"stop_before": 3}}, {}, "stop_before=3 leaves no epoch .*finetune.epochs=3"),
        ({"epochs": 3, "distill": {"ramp_epochs": 3.5}}, {}, "ramp_epochs=3.5 never ends: finetune.epochs=3; .* 3 at"),
        (
            {"epochs": 3, "distill": {"ramp_epochs": 2, "stop_before": 2}},
            {},
            "the last 2 without a teacher; expected 1",
        ),
        (
            {"epochs": 9, "distill": {"stop_before": 5}},
            {"iterations": {"rounds": 2, "epochs": 5}},
            "leaves no epoch with a teacher: prune.iterations.epochs=5",
        ),
        (
            {"distill": {"extra_images": "more"}, "train": {"rect": True}},
            {},
            "images of one shape: leave out train.rect",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(finetune, prune, said):
    with pytest.raises(SlimError, match=said):
        check({"model": "best.pt", "finetune": finetune, "prune": prune})


def test_what_does_go_together():
    check({"model": "best.pt", "finetune": {"epochs": 3, "distill": {"ramp_epochs": 2, "stop_before": 1}}})
    check({"model": "best.pt", "finetune": {"epochs": 3, "distill": {"ramp_epochs": 3}}})
