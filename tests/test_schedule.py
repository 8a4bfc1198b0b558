"""How fast fine-tuning goes: by what was lost, and by how long there is to make up for it; what is given stays."""

from __future__ import annotations

import pytest

from yolo_slim.training.schedule import LEAST, schedule

FULL = 0.002 * 5 / (4 + 3)
"""Ultralytics' own rate for three classes."""


def rate(images: int, epochs: int, lost: float | None, **train) -> float:
    return schedule(images, epochs, train, classes=3, lost=lost)["lr0"] / FULL


@pytest.mark.parametrize(
    ("images", "epochs", "lost", "part"),
    [
        pytest.param(320, 15, 0.0, 1.0, id="three hundred steps: all of it, whatever was lost"),
        pytest.param(320, 100, 0.0, 1.0, id="more steps: no more than all of it"),
        pytest.param(320, 5, 0.0, 1 / 3, id="a third of the steps: a third"),
        pytest.param(320, 5, None, 0.5, id="nothing tells what was lost: half of it"),
        pytest.param(320, 15, None, 1.0, id="nothing tells, but there is time"),
        pytest.param(320, 1, 0.25, 0.5, id="half of what makes it all: half, though there are few steps"),
        pytest.param(320, 1, 0.9, 1.0, id="nearly all is lost: there is nothing to spoil"),
        pytest.param(16, 1, 0.0, LEAST, id="a step or none: it moves at all"),
    ],
)
def test_the_rate(images, epochs, lost, part):
    assert rate(images, epochs, lost) == pytest.approx(part, rel=0.06)  # two digits are kept, warm-up takes no step


@pytest.mark.parametrize("batch", [4, 32])
def test_a_step_is_taken_each_batch(batch):
    found = schedule(320, 5, {"batch": batch}, classes=3, lost=0.0)
    assert found["nbs"] == batch and rate(320, 5, 0.0, batch=batch) == pytest.approx(
        min(1600 / batch / 300, 1), rel=0.06
    )
    assert rate(320, 5, 0.0, batch=4, nbs=64, warmup_epochs=0) == pytest.approx(25 / 300, rel=0.06), (
        "nbs gathers 16 batches"
    )


@pytest.mark.parametrize("epochs", [1, 5, 30, 300])
def test_it_warms_up_over_a_tenth_of_few_epochs(epochs):
    assert schedule(320, epochs, {}, classes=3, lost=0.0)["warmup_epochs"] == pytest.approx(min(epochs / 10, 3))


@pytest.mark.parametrize(
    ("train", "ours"),
    [
        pytest.param({"lr0": 0.01}, {"optimizer", "momentum", "nbs", "warmup_epochs"}, id="a rate"),
        pytest.param({"optimizer": "SGD"}, {"nbs", "warmup_epochs"}, id="an optimizer has a rate of its own"),
        pytest.param({"optimizer": "auto"}, set(), id="Ultralytics' choice in all"),
        pytest.param({"optimizer": "AUTO", "lr0": 0.01}, set(), id="whatever it makes of a rate"),
        pytest.param({"nbs": 64, "warmup_epochs": 1}, {"optimizer", "lr0", "momentum"}, id="steps"),
        pytest.param({"time": 0.5}, set(), id="by the clock: how many steps that is nobody knows"),
        pytest.param({"time": 0.5, "lr0": 0.01}, {"optimizer", "momentum"}, id="a rate by the clock"),
        pytest.param({"batch": -1}, set(), id="as many images as fit into a GPU"),
        pytest.param({"batch": 0.5, "lr0": 0.01}, {"optimizer", "momentum"}, id="a rate, and as many as fit"),
    ],
)
def test_what_is_given_stays(train, ours):
    assert schedule(320, 5, train, classes=3, lost=0.1).keys() == ours


def test_long_trainings_are_ultralytics():
    assert schedule(118_000, 300, {}, classes=80, lost=0.1) == {}
    assert schedule(118_000, 300, {"lr0": 0.01}, classes=80, lost=0.1) == {"optimizer": "AdamW", "momentum": 0.9}
