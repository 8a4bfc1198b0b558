"""Losses of predictions by hand: published numbers, and small ones that can be checked with a pencil."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from distill_helpers import logit, pair, saying, scene, view
from torchvision.ops import complete_box_iou_loss

from yolo_slim.distill import LOSSES, Scene, View
from yolo_slim.distill.bounded import bounded
from yolo_slim.distill.box import complete_iou
from yolo_slim.distill.darkrank import unlikelihood
from yolo_slim.distill.positions import corners, distances, edges, levels, truth_at
from yolo_slim.distill.soften import divergence
from yolo_slim.distill.together import joined

SURE = 30.0  # a logit of probability 1 in fp32
HERE = scene(size=(8, 8), strides=(8,))  # one position, x = y = 4
ROW = scene(size=(8, 32), strides=(8,))  # four positions, x = 4, 12, 20, 28


def cost(name: str, student: View, teacher: View, where: Scene = ROW, **options) -> float:
    return LOSSES[name](pair(student, teacher), **options)(student, teacher, where).item()


# ---- classes ----


def entropy(p: float) -> float:
    return -(p * math.log(p) + (1 - p) * math.log(1 - p))


def test_divergence_at_a_temperature():
    """T^2 KL, not divided by the number of classes."""
    student = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = divergence(student, torch.tensor([2.0, 0.0]), 2.0, 0)
    loss.backward()
    assert loss.item() == pytest.approx(1.029613, abs=1e-6)
    assert student.grad.tolist() == pytest.approx([-0.707036, 0.707036], abs=1e-6)


def test_binary_distillation_at_a_temperature():
    """s = .5, t = 2, T = 2: the cross-entropy times 4 is 2.572699, its gradient T (sigmoid(.25) - sigmoid(1))."""
    student, teacher = saying([[0.5]]), saying([[2.0]])
    student.scores.requires_grad_()
    loss = LOSSES["binary"](pair(student, teacher), temperature=2.0)(student, teacher, HERE)
    loss.backward()
    assert loss.item() == pytest.approx(2.572699 - 4 * entropy(1 / (1 + math.exp(-1))), abs=2e-6)
    assert student.scores.grad.item() == pytest.approx(-0.337764, abs=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([[3.0], [3.0]], [[-3.0], [-3.0]], 5.430889 / 2),  # a shift of all, which a softmax does not see
        ([[0.0], [-3.0]], [[0.0], [-3.0]], 0),
        ([[0.0, 0.0]], [[SURE, 0.0]], (1 * math.log(2) + 0.5 * 0) / 1.5),  # probabilities 1 and 1/2 weigh so
        ([[0.0], [0.0]], [[SURE], [-SURE]], math.log(2)),  # the mean over classes, not the sum
        ([[0.0, 9.0]], [[SURE, -1e4]], math.log(2)),  # where the teacher sees nothing, nothing is said
    ],
)
def test_binary_distillation(student, teacher, expected):
    where = scene(size=(8, 8 * len(student[0])), strides=(8,))
    assert cost("binary", saying(student), saying(teacher), where) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1 * 2 + 1.5 * 3) / 2.5),  # an object, and background that weighs more
        ({"background": 1.0}, 2.5),
        ({"threshold": 0.0}, 2.5),  # no background
    ],
)
def test_background_weighs_more(options, expected):
    """Teacher: certainly an object, certainly none; the student is wrong by 2 and by 3 nats."""
    wrong = [[-math.log(math.exp(2) - 1), math.log(math.exp(3) - 1)]]
    found = cost("background", saying(wrong), saying([[SURE, -SURE]]), scene(size=(8, 16), strides=(8,)), **options)
    assert found == pytest.approx(expected, rel=1e-5)


# ---- boxes ----


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.0, 0, 0, 0], 1.5),  # any of four bins
        ([0.0, 0, SURE, 0], 2),
        ([0.0, -SURE, -SURE, 0], 1.5),
        ([-2.5], -2.5),  # one bin: the distance itself
    ],
)
def test_distances(logits, expected):
    boxes = torch.tensor(logits).repeat(4)[None, :, None]
    assert distances(View([], boxes, torch.zeros(1, 1, 1))).flatten().tolist() == pytest.approx([expected] * 4)


def test_corners():
    """Left 1, top 2, right 3, bottom 4 strides from (4, 4); a side less than nothing is none."""
    assert corners(saying([[0.0]], [[1], [2], [3], [4]]), HERE).tolist() == [[[-4, -12, 28, 36]]]
    assert corners(saying([[0.0]], [[0], [0], [-1], [1]]), HERE).tolist() == [[[4, 4, 4, 12]]]


SHAPES = 4 / math.pi**2 * (math.atan(2) - math.atan(1 / 2)) ** 2


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ([1, 1, 1, 1], [1, 1, 1, 1], 1),
        ([1, 1, 1, 1], [2, 2, 2, 2], 4 / 16),  # the same middle, the same shape
        ([0, 1, 2, 1], [2, 1, 0, 1], 0 - 4 / (16 + 4)),  # side by side, middles 2 apart
        ([0, 0, 0, 0], [0, 0, 0, 0], 1),  # no boxes at all agree
        ([2, 1, 2, 1], [1, 2, 1, 2], 1 / 3 - SHAPES**2 / (2 / 3 + SHAPES)),  # 2 to 1 beside 1 to 2
    ],
)
def test_complete_iou(one, two, expected):
    found = complete_iou(*(torch.tensor(d, dtype=torch.float32)[None, :, None] for d in (one, two)))
    assert found.item() == pytest.approx(expected, abs=1e-4)


def test_complete_iou_is_that_of_corners():
    """Value and gradient, against torchvision's of the corners."""
    one, two = torch.rand(2, 1, 4, 50, generator=torch.Generator().manual_seed(0)) * 5 + 0.1
    one.requires_grad_()
    (1 - complete_iou(one, two)).sum().backward()
    found, one.grad = one.grad, None
    xyxy = [torch.cat([-d[0, :2], d[0, 2:]]).T for d in (one, two)]
    wanted = complete_box_iou_loss(*xyxy, reduction="none")
    wanted.sum().backward()
    assert torch.allclose(1 - complete_iou(one, two)[0], wanted, atol=1e-5)
    assert torch.allclose(found, one.grad, atol=1e-4)


def test_boxes_weigh_as_the_teacher_is_sure():
    """IoU 1/4 and 1 at positions of probability 3/4 and 1/2."""
    student = saying([[0.0, 0.0]], torch.ones(4, 2))
    teacher = saying([[logit(0.75), logit(0.5)]], [[2, 1]] * 4)
    assert cost("box", student, teacher) == pytest.approx(0.75 * 0.75 / 1.25)


PEAK = torch.tensor([2.0, 0, 0, 0])


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        (4, 0.3994),  # the sum over bins; their mean would be .0998
        (1, 0.3994 / 4),  # the mean over edges
        (0, 0),
    ],
)
def test_localization_distillation(edges, expected):
    boxes = torch.cat([PEAK] * edges + [torch.zeros(4)] * (4 - edges))[:, None]
    student, teacher = saying([[0.0]], torch.zeros(16, 1)), saying([[0.0]], boxes)
    assert cost("ld", student, teacher, HERE, temperature=10.0) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("valuable", "sure", "expected"),
    [
        (0.0, [SURE, -1e4], 1.0),  # the position that the teacher is sure of
        (0.5, [SURE, -1e4], 1.0),  # the other one is in no box, and the first has had its say
        (0.5, [-1e4, SURE], 0.5),  # the first is in a box that the teacher did not see
        (2.0, [0.0, -1e4], 3.0),
    ],
)
def test_the_valuable_region(valuable, sure, expected):
    """Positions x = 4 in a box and x = 12 in none; only at the first do distributions differ."""
    where = scene((1, 1, 7, 7), size=(8, 16), strides=(8,))
    differ = torch.stack([PEAK.repeat(4), torch.zeros(16)], 1)
    student, teacher = saying([[0.0, 0.0]], torch.zeros(16, 2)), saying([sure], differ)
    found = cost("ld", student, teacher, where, temperature=10.0, valuable=valuable)
    assert found == pytest.approx(0.3994 * expected, rel=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher", "margin", "expected"),
    [(4, 1, 0, 4), (0.9, 1, 0, 0), (0.9, 1, 0.2, 0.9), (0.5, 1, 0.2, 0)],
)
def test_bounded(student, teacher, margin, expected):
    assert bounded(torch.tensor(student), torch.tensor(teacher), margin).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ([], 0),
        ([(-4, -4, 12, 12)], 4),  # 1 stride from x = 4 to each side: four edges are 1 off; x = 12 is on the border
        ([(-4, -4, 20, 12)], (1 + 1 + 0 + 1 + 0 + 1 + 1 + 1) / 2),  # x = 4: 1, 1, 2, 1 strides; x = 12: 2, 1, 1, 1
        ([(-12, -12, 20, 20)], 0),  # 2, 2, 2, 2 and 3, 2, 1, 2: the student is nearer than the teacher
    ],
)
def test_regression_bounded_by_the_teacher(truth, expected):
    """The student says 2 strides, the teacher 1, at the first two positions of a row."""
    where = scene(*truth, size=(8, 16), strides=(8,))
    student, teacher = (saying(torch.zeros(1, 2), torch.full((4, 2), d)) for d in (2.0, 1.0))
    assert cost("bounded", student, teacher, where) == pytest.approx(expected)


def test_regression_weighs_as_the_teacher_is_sure():
    """Errors 4 and 9 at positions of probability 3/4 and 1/4, and one that is in no box."""
    where = scene((-4, -4, 12, 12), (4, -4, 20, 12), size=(8, 24), strides=(8,))
    student = saying([[0.0] * 3], [[2, 2.5, 9]] * 4)
    teacher = saying([[logit(0.75), logit(0.25), SURE]], [[1, 1, 9]] * 4)
    assert cost("bounded", student, teacher, where) == pytest.approx(0.75 * 4 + 0.25 * 9)


def test_truth_at_positions():
    """The smallest box counts, each in its own image; borders are outside."""
    where = scene((0, 0, 16, 8), (0, 2, 10, 6), (12, 0, 32, 8), size=(8, 32), strides=(8,), images=[0, 0, 1])
    inside, away = truth_at(where, 3)
    assert inside.tolist() == [[True, True, False, False], [False, False, True, True], [False] * 4]
    assert (away[0, :, :2] * 8).T.tolist() == [[4, 2, 6, 2], [12, 4, 4, 4]]
    assert (away[1, :, 2:] * 8).T.tolist() == [[8, 4, 12, 4], [16, 4, 4, 4]]


@pytest.mark.parametrize(("bins", "asked"), [(1, True), (3, False), (4, True)])
def test_objects_that_bins_cannot_describe_are_asked_for_elsewhere(bins, asked):
    """A truth of 2.5 strides: three bins end at 2."""
    where = scene((-16, -16, 24, 24), size=(8, 8), strides=(8,))
    student = saying([[0.0]], torch.zeros(4 * bins, 1))
    teacher = saying([[0.0]], torch.tensor([0.0] * (bins - 1) + [2.5 if bins == 1 else SURE]).repeat(4)[:, None])
    assert (cost("bounded", student, teacher, where) > 0) is asked


def test_levels():
    found = levels(scene(size=(64, 96), strides=(8, 16, 32)))
    assert [(level.stride, level.hw) for level in found] == [(8, (8, 12)), (16, (4, 6)), (32, (2, 3))]
    assert [level.part for level in found] == [slice(0, 96), slice(96, 120), slice(120, 126)]


# ---- several teachers ----


def test_teachers_say_the_mean_of_their_probabilities():
    """Not of their logits, which would say .3333."""
    said = joined([saying([[logit(p)]]) for p in (0.2, 0.6)])
    assert said.scores.sigmoid().item() == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("bins", [1, 4])
def test_the_surer_teacher_has_more_say_in_a_box(bins):
    """Distances 1 and 3, said with probabilities .2 and .6: (.2 * 1 + .6 * 3) / .8; as bins, a quarter and three."""
    there = [torch.full((4, 1), d) if bins == 1 else bin_of(int(d)) for d in (1.0, 3.0)]
    said = joined([saying([[logit(p)]], boxes) for p, boxes in zip((0.2, 0.6), there, strict=True)])
    assert distances(said).flatten().tolist() == pytest.approx([2.5] * 4, abs=1e-4)
    if bins > 1:
        assert edges(said).softmax(2)[0, 0, :, 0].tolist() == pytest.approx([0, 0.25, 0, 0.75], abs=1e-4)


def bin_of(distance: int) -> torch.Tensor:
    """Logits of four edges that are surely this far away, (16, 1)."""
    return SURE * torch.eye(4)[distance].repeat(4)[:, None]


# ---- order ----


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (4, 1.305544),
        (1, 1.305544 - math.log(1 + math.exp(-1.5))),  # who is first, of all three
    ],
)
def test_unlikelihood_of_an_order(length, expected):
    """Scores (-1, -2, -.5), the teacher's order 0, 2, 1."""
    student, teacher = torch.tensor([[-1.0, -2.0, -0.5]]), torch.tensor([[3.0, 1.0, 2.0]])
    assert unlikelihood(student, teacher, length).tolist() == pytest.approx([expected], rel=1e-5)


def objects(*embeddings: list[float]) -> tuple[View, Scene]:
    """Objects side by side on one map, each of one feature all over, far enough apart for pooling to see one alone."""
    features = torch.tensor(embeddings).T.repeat_interleave(4, 1)[None, :, None].expand(-1, -1, 4, -1)  # (1, C, 4, 4n)
    n = len(embeddings)
    where = scene(*((32 * i + 12, 12, 32 * i + 20, 20) for i in range(n)), size=(32, 32 * n), strides=(8,))
    return View([features], torch.zeros(1, 4, 16 * n), torch.zeros(1, 1, 16 * n)), where


def test_ranking_by_hand():
    """Squared distances of unit vectors at 0, 60 and 180 degrees: 1, 4 and 3 between them."""
    at = [[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in (0, 60, 180)]
    student, where = objects(*at)
    near, far, middle = -3 * 1**3, -3 * 2**3, -3 * 3**1.5
    lost = [math.log(1 + math.exp(b - a)) for a, b in ((near, far), (near, middle), (middle, far))]
    assert cost("darkrank", student, student, where) == pytest.approx(sum(lost) / 3, rel=1e-3)
    turned = replace(student, maps=[student.maps[0].flip(3)])  # at 180, 60, 0: the one at 60 sees the wrong one near
    lost = [math.log(1 + math.exp(b - a)) for a, b in ((middle, far), (middle, near), (near, far))]
    assert cost("darkrank", turned, student, where) == pytest.approx(sum(lost) / 3, rel=1e-3)


@pytest.mark.parametrize("n", [1, 2])
def test_two_objects_have_one_order(n: int):
    student, where = objects(*torch.eye(2)[:n].tolist())
    teacher = replace(student, maps=[torch.ones(1, 2, 4, 4 * n)])
    assert cost("darkrank", student, teacher, where) == 0


def test_outputs_look_at_no_maps():
    where = scene((8, 8, 40, 40))
    student, teacher = (view(i, where) for i in range(2))
    blind = [replace(v, maps=[torch.full_like(m, math.nan) for m in v.maps]) for v in (student, teacher)]
    for name in ("binary", "background", "box", "ld", "bounded"):
        assert cost(name, *blind, where) == cost(name, student, teacher, where)
