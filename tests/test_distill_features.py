"""Losses of maps by hand: published numbers, and small ones that can be checked with a pencil."""

from __future__ import annotations

import math

import pytest
import torch
from distill_helpers import itself, logit, looking, pair, saying, scene, view
from torch import Tensor, nn
from torchvision.ops import box_iou

from yolo_slim.distill import LOSSES, Pair, View
from yolo_slim.distill.attention import attention
from yolo_slim.distill.fgfi import Fgfi, above
from yolo_slim.distill.fsp import flow
from yolo_slim.distill.match import Match, spread
from yolo_slim.distill.positions import confidence_on
from yolo_slim.distill.rois import confident_rois, home, pool

ROW = scene(size=(8, 32), strides=(8,))  # four positions side by side
ONE = torch.tensor([[[[1.0, 2], [0, 1]], [[1, 0], [2, 1]]]])
TWO = torch.tensor([[[[2.0, 2], [0, 0]], [[0, 0], [1, 1]]]])


def point(*values: float) -> Tensor:
    """One image, one position: (1, C, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)


def row(*channels: list[float]) -> Tensor:
    """One image, one row of positions: (1, C, 1, W)."""
    return torch.tensor(channels, dtype=torch.float32)[None, :, None]


def cost(name: str, student: View, teacher: View, where=ROW, **options) -> float:
    """Of maps that are compared as they are."""
    return LOSSES[name](itself(student), **options)(student, teacher, where).item()


# ---- mimicry ----


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([point(0, 2, 3)], [point(1, 2, 3)], 1 / 3),  # FitNets' half squared norm would be 1/2; the mean of squares
        ([point(0, 2, 3), point(5)], [point(1, 2, 3), point(5)], 1 / 6),  # the mean over levels, whatever their size
        ([point(0, 2, 3).expand(4, 3, 8, 8)], [point(1, 2, 3).expand(4, 3, 8, 8)], 1 / 3),  # over images, positions
    ],
)
def test_mimicry(student, teacher, expected):
    assert cost("mimic", looking(*student), looking(*teacher)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ([0, 2], 0),  # the same
        ([1, 1], 1),  # the teacher's mean everywhere: all of its variance is missing
        ([2, 0], 4),  # the opposite
    ],
)
def test_channels_cost_a_share_of_the_teachers_variance(student, expected):
    assert cost("channels", looking(row(student)), looking(row([0, 2]))) == pytest.approx(expected)


def test_a_channel_is_compared_with_itself():
    """The teacher's channels 2 and 0, in the order that the student has them."""
    student, teacher = looking(point(3, 1)), looking(point(1, 2, 3))
    known = pair(student, teacher, [torch.tensor([2, 0])])
    assert LOSSES["channels"](known)(student, teacher, ROW).item() == 0
    assert LOSSES["mimic"](known)(student, teacher, ROW).item() == 0


def test_the_adapter_stands_between_the_widths():
    match = Match(Pair([2], [3], None, 1, 1), adapter=None, normalize=False)
    with torch.no_grad():
        match.adapters[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]])[..., None, None])
    ((student, teacher),) = match([point(1, 2)], [point(1, 2, 6)])
    assert student.flatten().tolist() == [1, 2, 3] and teacher.flatten().tolist() == [1, 2, 6]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 3.0], 1.0),
        ([0.0, 0.0, 0.0, 8.0], math.sqrt(12)),  # the biased one: 64 / 4 - 2^2
        ([5.0, 5.0], 1.0),  # a constant is left as it is
        ([0.0, 0.0], 1.0),
    ],
)
def test_spread(values, expected):
    assert spread(torch.tensor(values)).item() == pytest.approx(expected)


# ---- where objects are ----


@pytest.mark.parametrize(
    ("truth", "sure", "expected"),
    [
        ([(8, 8, 40, 40)], [], 0.25),  # 1 / (2 * 1) * (1 / 2) * 1
        ([(8, 8, 40, 40), (16, 8, 48, 40)], [], 0.25),  # a mean over boxes
        ([], [10], 0.25),  # the teacher's box is one too
        ([], [], 0),
    ],
)
def test_region(truth, sure, expected):
    where = scene(*truth, strides=(8,))
    scores = torch.full((1, 64), -9.0)
    scores[:, sure] = 9.0
    said = saying(scores, torch.ones(4, 64))
    student, teacher = (View([point(*f).expand(1, 2, 8, 8)], said.boxes, said.scores) for f in ((2, 0), (1, 0)))
    assert cost("region", student, teacher, where, normalize=False) == pytest.approx(expected)


def test_a_region_is_the_boxs_alone():
    """The map is wrong in its right half; the box lies in the left one, the other one half and half."""
    wrong = torch.zeros(1, 1, 8, 8)
    wrong[..., 4:] = 1
    student, teacher = looking(wrong, sure=-9), looking(torch.zeros(1, 1, 8, 8), sure=-9)
    costs = [
        cost("region", student, teacher, scene(box, strides=(8,)), normalize=False)
        for box in [(0, 0, 24, 64), (8, 8, 56, 56), (40, 0, 64, 64)]
    ]
    assert costs[0] == 0 and costs[2] == pytest.approx(0.5) and 0.15 < costs[1] < 0.35


def test_pooling_reads_a_map_where_its_cells_are():
    """Cells that hold their own middle, in strides of 8: a box of 16 to 40 pixels has its own at 3.5."""
    middles = (torch.arange(8.0) + 0.5).expand(1, 1, 8, 8)
    found = pool(middles, torch.tensor([[0, 16.0, 8, 40, 56]]), scene())
    assert found.mean().item() == pytest.approx(3.5) and found.mT.mean(3)[0, 0, 0].item() == pytest.approx(2 + 3 / 14)


@pytest.mark.parametrize(
    ("side", "level"),
    [
        (1, 0),
        (32, 0),  # 4 strides of 8
        (45, 0),
        (46, 1),  # the geometric mean of 32 and 64 is 45.25
        (64, 1),
        (90, 1),
        (91, 2),
        (600, 2),
    ],
)
def test_the_home_of_a_box(side, level):
    maps = [torch.zeros(1, 1, 640 // s, 640 // s) for s in (8, 16, 32)]
    rois = torch.tensor([[0, 10, 20, 10 + side, 20 + side]]).float()
    assert home(rois, maps, scene(size=(640, 640))).tolist() == [level]


def test_the_teachers_boxes():
    """Four positions at x = 4, 12, 20, 28, y = 4: two of one object, one of another class, one unsure."""
    sure, unsure = logit(0.9), logit(0.2)
    scores = [[sure, logit(0.8), unsure, unsure], [unsure, unsure, unsure, logit(0.5)]]
    left, right = [0.5, 1.5, 1, 2.5], [2.5, 1.5, 1, 0.5]
    found = confident_rois(saying(scores, [left, [0.5] * 4, right, [0.5] * 4]), ROW, 0.3, 0.5)
    assert found.tolist() == [[0, 0, 0, 24, 8], [0, 8, 0, 32, 8]]  # the surer of the twins, and the other class
    assert len(confident_rois(saying(scores, [left, [0.5] * 4, right, [0.5] * 4]), ROW, 0.1, 1.0)) == 4
    assert len(confident_rois(saying(scores), ROW, 1.0, 0.5)) == 0


def test_near_cells_by_their_best_anchor():
    assert above(torch.tensor([[[0.8, 0.5, 0.3, 0.41]]]), 0.5).tolist() == [[[True, True, False, True]]]
    assert not above(torch.zeros(2, 1, 4), 0.5).any()  # a box that no anchor meets


def test_fine_grained_imitation():
    """Two near cells with squared errors 4 and 2, summed over channels; the error in a cell far away is none."""
    student, teacher = looking(row([2, 1, 0, 7], [0, 1, 0, 7])), looking(torch.zeros(1, 2, 1, 4))
    where = scene((0, 0, 16, 8), size=(8, 32), strides=(8,))
    assert cost("fgfi", student, teacher, where, normalize=False, sizes=[1.0]) == pytest.approx(6 / (2 * 2))


def test_near_cells_are_those_of_the_ious():
    """Against IoUs of all anchors, written out."""
    ends = torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(3)) * 60
    boxes = torch.cat([ends.amin(1), ends.amax(1) + 4], 1)
    where = scene(*boxes.tolist(), strides=(8,), images=[0, 1, 0, 1, 0, 0])
    sizes = (2.0, 4.0)
    found = Fgfi(Pair([1], [1], None, 1, 1), sizes=sizes, ratio=1e6).near(where, 2, (8, 8))
    ious = torch.stack(
        [box_iou(boxes, torch.cat([where.points - 4 * s, where.points + 4 * s], 1)) for s in sizes]
    ).amax(0)
    wanted = torch.zeros(2, 64)
    for image, near in zip(where.images, ious > 0.5 * ious.amax(1, keepdim=True), strict=True):
        wanted[image][near] = 1
    assert 0 < wanted.mean() < 1 and torch.equal(found.flatten(1), wanted)


@pytest.mark.parametrize(
    ("hw", "lit"),
    [
        ((32, 32), True),  # stride 8: anchors from 16 px
        ((8, 8), False),  # stride 32: 64 px is more than 4 times 10
    ],
)
def test_a_level_on_which_no_anchor_fits_is_skipped(hw, lit):
    where = scene((100, 100, 110, 110), size=(256, 256))
    assert bool(Fgfi(Pair([1], [1], None, 1, 1)).near(where, 1, hw).any()) is lit


def test_errors_weigh_as_the_teacher_is_sure():
    """Squared errors 4 and 0 at positions of probability 3/4 and 1/4; the mean over two channels is 2 and 0."""
    student, teacher = row([2, 0], [0, 0]), torch.zeros(1, 2, 1, 2)
    scores = torch.tensor([[[logit(0.75), logit(0.25)]]])
    views = [View([m], torch.zeros(1, 4, 2), scores) for m in (student, teacher)]
    where = scene(size=(8, 16), strides=(8,))
    assert cost("scored", *views, where, normalize=False) == pytest.approx(0.75 * 2)


@pytest.mark.parametrize(
    ("hw", "expected"),
    [
        ((1, 4), [0.1, 0.9, 0.2, 0.3]),  # a level of the detector
        ((1, 2), [0.9, 0.3]),  # a coarser map: the surest of each cell
        ((2, 4), [0.1, 0.9, 0.2, 0.3] * 2),  # a finer one
    ],
)
def test_confidence_on_a_map(hw, expected):
    """The likeliest class counts."""
    teacher = saying([[logit(p) for p in ps] for ps in ([0.1, 0.9, 0.1, 0.3], [0.01, 0.2, 0.2, 0.3])])
    assert confidence_on(hw, teacher, ROW).flatten().tolist() == pytest.approx(expected)


def test_confidence_is_of_the_nearest_stride():
    where = scene(size=(32, 32), strides=(8, 16))
    teacher = saying([[logit(0.1)] * 16 + [logit(0.6)] * 4])
    found = {hw: confidence_on((hw, hw), teacher, where).unique().tolist() for hw in (8, 4, 2, 1)}
    assert found == {n: pytest.approx([p]) for n, p in {8: 0.1, 4: 0.1, 2: 0.6, 1: 0.6}.items()}


# ---- relations ----


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.1536798), (4.0, 0.1844940)])
def test_channel_wise_distributions(temperature, expected):
    assert cost("cwd", looking(ONE), looking(TWO), temperature=temperature) == pytest.approx(expected, rel=1e-5)


def test_correlation_of_the_oracle():
    """12 numbers a channel; with the unbiased deviation it would be 11/12 of it, .80995."""
    torch.manual_seed(1)
    torch.randn(1, 4, 7, 7, dtype=torch.float64), torch.randn(3, 4, 3, 3, dtype=torch.float64)
    torch.rand(3, 3, 3, dtype=torch.float64)
    student, teacher = (torch.randn(1, 2, 3, 4, dtype=torch.float64) for _ in range(2))
    assert cost("pkd", looking(student), looking(teacher)) == pytest.approx(0.8835801, rel=1e-6)


def test_correlation():
    """1 - r of each channel over all images and positions."""
    student, teacher = torch.randn(2, 2, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    rs = [
        torch.corrcoef(torch.stack([student[:, c].flatten(), teacher[:, c].flatten()]))[0, 1].item() for c in range(2)
    ]
    assert cost("pkd", looking(student), looking(teacher)) == pytest.approx(1 - sum(rs) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([1, 2, 3, 4], [2, 4, 6, 8], 0),
        ([1, 2, 3, 4], [4, 3, 2, 1], 2),
        ([0, 0, 1, 1], [0, 1, 0, 1], 1),
        ([5, 5, 5, 5], [0, 1, 0, 1], 1),  # a channel that says nothing
        ([0, 1, 0, 1], [5, 5, 5, 5], 0),  # from nothing, nothing is to be learned
        ([5, 5, 5, 5], [7, 7, 7, 7], 0),
    ],
)
def test_correlation_of_one_channel(student, teacher, expected):
    assert cost("pkd", looking(row(student)), looking(row(teacher))) == pytest.approx(expected, abs=1e-6)


def test_attention():
    assert cost("attention", looking(ONE), looking(TWO)) == pytest.approx(0.0932554, rel=1e-5)
    assert attention(TWO).norm(dim=1).tolist() == pytest.approx([1])


def test_attention_of_any_widths():
    """Without common channels, all of the teacher's are looked at; the same energy in one or in two channels."""
    student, teacher = looking(row([1, 2])), looking(row([1, 2], [-1, -2]))
    assert LOSSES["attention"](pair(student, teacher))(student, teacher, ROW).item() == pytest.approx(0, abs=1e-9)


def test_flow():
    assert flow(ONE, TWO).tolist() == [[[1.5, 0.25], [0.5, 0.75]]]


def test_flow_between_strides_is_that_of_the_largest():
    fine = torch.tensor([[[[1.0, 2, 0, 0], [3, 0, 0, 5]]]])  # 2 x 2 cells at a time: 3, 5
    assert flow(fine, row([10, 1])).tolist() == [[[(3 * 10 + 5 * 1) / 2]]]
    assert flow(row([10, 1]), fine).tolist() == [[[(3 * 10 + 5 * 1) / 2]]]


def test_flows_are_of_neighbours():
    """Of maps 1, 2, 3: 1 * 2 and 2 * 3, beside 1 * 2 and 2 * 5: squared differences 0 and 16."""
    student, teacher = (looking(point(1), point(2), point(last)) for last in (3, 5))
    assert cost("fsp", student, teacher, normalize=False) == pytest.approx(16 / 2)


# ---- generation ----


class Spy(nn.Module):
    """A generator that returns what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x


@pytest.mark.parametrize(
    ("masked", "seen", "expected"),
    [
        (1.0, 0.0, 9.0),  # nothing to start from
        (0.0, 1.0, 4.0),
        (0.65, 0.35, 0.65 * 9 + 0.35 * 4),
    ],
)
def test_generation_from_what_is_left(masked, seen, expected):
    student, teacher = (looking(torch.full((4, 2, 80, 80), v)) for v in (1.0, 3.0))
    loss = LOSSES["mgd"](itself(student), masked=masked, normalize=False)
    loss.generators[0] = Spy()
    torch.manual_seed(0)
    value = loss(student, teacher, scene(size=(640, 640), strides=(8,))).item()
    shown = loss.generators[0].seen
    assert torch.equal(shown[:, 0], shown[:, 1])  # whole positions go
    assert shown.mean().item() == pytest.approx(seen, abs=0.01)  # 25,600 draws: 3 deviations are .009
    assert value == pytest.approx(expected, abs=0.05)


def test_other_positions_in_each_batch():
    student = view(0, scene(strides=(8,)), widths=(2,))
    loss = LOSSES["mgd"](itself(student))
    spy = loss.generators[0] = Spy()
    masks = []
    for _ in range(2):
        loss(student, student, scene(strides=(8,)))
        masks.append(spy.seen == 0)
    assert not torch.equal(*masks)
