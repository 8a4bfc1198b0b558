"""How far two detectors are apart in what they say, without a label."""

from __future__ import annotations

import math

import pytest
import torch

from yolo_slim.measure.agreement import disagreement
from yolo_slim.measure.loss import Answers

BOX = [20.0, 20.0, 10.0, 10.0]


def said(*scores: list[float], boxes: list[list[float]] | None = None) -> Answers:
    """One image: of each position the scores of its classes, and its box x y w h."""
    boxes = boxes or [BOX] * len(scores)
    return Answers(torch.tensor([scores]).transpose(1, 2), torch.tensor([boxes]).transpose(1, 2))


def kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


CASES = [
    pytest.param(said([0.9, 0.1]), said([0.9, 0.1]), 0.0, 0.0, id="the same"),
    pytest.param(said([0.5]), said([0.9]), kl(0.9, 0.5), 0.0, id="an object that is less sure"),
    pytest.param(said([0.9]), said([0.1]), kl(0.1, 0.9), 0.0, id="an object made up"),
    pytest.param(
        said([0.5, 0.2]), said([0.9, 0.1]), kl(0.9, 0.5) + kl(0.1, 0.2), 0.0, id="classes are variables of their own"
    ),
    pytest.param(
        said([0.5], [0.01]),
        said([0.81], [0.01]),
        0.9 * kl(0.81, 0.5) / (0.9 + 0.1),
        0.0,
        id="a position weighs as the root of its better score",
    ),
    pytest.param(
        said([0.8], boxes=[[25.0, 20.0, 10.0, 10.0]]),
        said([0.8]),
        0.0,
        1 - (50 / 150 - 25 / (15**2 + 10**2)),
        id="a box moved by half of its width: overlap less distance over diagonal",
    ),
    pytest.param(
        said([0.8], [0.4], boxes=[[25.0, 20.0, 10.0, 10.0], BOX]),
        said([0.8], [0.4]),
        0.0,
        (1 - (50 / 150 - 25 / (15**2 + 10**2))) * 0.8 / 1.2,
        id="a box weighs as its score",
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "scores", "boxes"), CASES)
def test_it_is_what_hand_work_says(ours, theirs, scores, boxes):
    found = disagreement(ours, theirs)
    assert [float(each) for each in found] == pytest.approx([scores, boxes], abs=1e-5)


def test_only_the_best_positions_are_compared():
    ours, theirs = said([0.5], [0.001], [0.3]), said([0.9], [0.002], [0.3])
    alone = disagreement(said([0.5], [0.3]), said([0.9], [0.3]))
    assert [float(f) for f in disagreement(ours, theirs, most=2)] == pytest.approx([float(a) for a in alone])


def test_heads_without_boxes_are_compared_by_scores():
    bare = Answers(said([0.5]).scores, None)
    scores, boxes = disagreement(bare, said([0.9]))
    assert float(scores) == pytest.approx(kl(0.9, 0.5), abs=1e-5) and float(boxes) == 0


def test_gradients_go_to_ours_alone():
    ours, theirs = said([0.5], boxes=[[25.0, 20.0, 10.0, 10.0]]), said([0.9])
    for tensor in (*ours, *theirs):
        tensor.requires_grad_(True)
    sum(disagreement(ours, theirs)).backward()
    assert all(t.grad.abs().sum() > 0 for t in ours) and not any(t.grad is not None for t in theirs)
