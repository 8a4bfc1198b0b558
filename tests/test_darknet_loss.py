"""The loss of YOLOv3: cases worked by hand, the gradients that Darknet has, and a net that learns with it."""

from math import atan, log, pi

import numpy as np
import pytest
import torch
from darknet_nets import SMALL, conv, detector, head, image, net, section
from ultralytics.utils.nms import non_max_suppression

from yolo_slim.channels import cut, trace
from yolo_slim.errors import SlimError
from yolo_slim.formats.darknet.loss import DarknetLoss

PX, STRIDE, CELLS = 32, 8, 2 * 16  # 4 x 4 cells, 2 anchors: 4 x 5 and 8 x 6 of 4 x 5, 8 x 6, 10 x 14, 20 x 18
LN2, ln, sq = log(2), log, lambda x: x * x


def criterion(mask="0,1", activation="linear", **said):
    """Of a net with one map of 4 x 4 cells."""
    return DarknetLoss(detector(net() + conv(6, 3, 8) + head(mask, activation=activation, **said)))


def labels(*truths, of=None):
    """Rows of class, x y w h in pixels; all in the first image, or as `of` says."""
    rows = torch.tensor(truths, dtype=torch.float32).view(-1, 5)
    return {"batch_idx": torch.tensor(of or [0.0] * len(rows)), "cls": rows[:, :1], "bboxes": rows[:, 1:] / PX}


def flat(value=0.0, batch=1):
    """A map of one value."""
    return torch.full((batch, 16, 4, 4), value, requires_grad=True)


def entropy(p):
    return -p * log(p) - (1 - p) * log(1 - p)


def small(w, h):
    """How much a truth counts: 2 less its share of the image."""
    return 2 - w * h / PX**2


MIDDLE = (12, 20)  # of the cell in column 1 and row 2


@pytest.mark.parametrize(
    ("said", "truths", "expected"),
    [
        pytest.param({}, [], (0, CELLS * LN2, 0), id="no truth: each box is to be none"),
        pytest.param(
            {},
            [(2, *MIDDLE, 8, 6)],
            (0, CELLS * LN2, 3 * LN2),
            id="a box that is right: objectness and classes are left; the other anchor overlaps by .42",
        ),
        pytest.param(
            {"anchors": "8,6, 8,7"},
            [(2, *MIDDLE, 8, 6)],
            (0, (CELLS - 1) * LN2, 3 * LN2),
            id="the other anchor overlaps by 48 / 56 > .5: it need not be none",
        ),
        pytest.param(
            {"anchors": "8,6, 8,7", "ignore_thresh": 0.9},
            [(2, *MIDDLE, 8, 6)],
            (0, CELLS * LN2, 3 * LN2),
            id="ignore_thresh=.9 > .86: it is to be none",
        ),
        pytest.param(
            {"anchors": "8,6, 8,7", "truth_thresh": 0.8},
            [(2, *MIDDLE, 8, 6)],
            (0.75 * small(8, 6) * sq(ln(6 / 7)) / 2, CELLS * LN2, 6 * LN2),
            id="truth_thresh=.8 < .86: it is to be the truth as well",
        ),
        pytest.param(
            {},
            [(2, *MIDDLE, 16, 6)],
            (0.75 * small(16, 6) * sq(LN2) / 2, CELLS * LN2, 3 * LN2),
            id="twice as wide as its anchor: half the square of ln 2; 48 / 96 is not beyond .5",
        ),
        pytest.param(
            {},
            [(2, *MIDDLE, 20, 18)],
            (0, CELLS * LN2, 0),
            id="the best anchor is of another map: nobody's here",
        ),
        pytest.param(
            {"iou_thresh": 0.4},
            [(2, *MIDDLE, 8, 6)],
            (0.75 * small(8, 6) * (sq(LN2) + sq(ln(1.2))) / 2, CELLS * LN2, 6 * LN2),
            id="iou_thresh=.4 < 20 / 48: both anchors have it",
        ),
        pytest.param(
            {},
            [(2, 14, 20, 8, 6)],
            (0.75 * small(8, 6) * (LN2 - entropy(0.75)), CELLS * LN2, 3 * LN2),
            id="a quarter of a cell aside",
        ),
        pytest.param(
            {"scale_x_y": 2},
            [(2, 14, 20, 8, 6)],
            (0.75 * small(8, 6) * (LN2 - entropy(0.625)), CELLS * LN2, 3 * LN2),
            id="scale_x_y=2: the sigmoid has half the way to go",
        ),
        pytest.param(
            {},
            [(2, *MIDDLE, 8, 6), (0, *MIDDLE, 8, 6)],
            (0, CELLS * LN2, 3 * LN2),
            id="two truths in one place: one box, two classes",
        ),
        pytest.param(
            {},
            [(2, 32, 32, 8, 6)],
            (0.75 * small(8, 6) * 2 * LN2, CELLS * LN2, 3 * LN2),
            id="a centre on the far corner: the last cell's",
        ),
        pytest.param({}, [(2, *MIDDLE, 0, 6)], (0, CELLS * LN2, 0), id="a truth without a width is none"),
        pytest.param(
            {"iou_normalizer": 0.5, "obj_normalizer": 2, "cls_normalizer": 3},
            [(2, *MIDDLE, 16, 6)],
            (0.5 * small(16, 6) * sq(LN2) / 2, 2 * CELLS * LN2, 9 * LN2),
            id="weights",
        ),
        pytest.param({"iou_loss": "iou"}, [(2, *MIDDLE, 16, 6)], (0.75 * 0.5, CELLS * LN2, 3 * LN2), id="iou: 48 / 96"),
        pytest.param(
            {"iou_loss": "giou"},
            [(2, *MIDDLE, 16, 3)],
            (0.75 * (1 - (24 / 72 - (96 - 72) / 96)), CELLS * LN2, 3 * LN2),
            id="giou: 24 / 72, less what is empty of 16 x 6",
        ),
        pytest.param(
            {"iou_loss": "diou", "iou_normalizer": 1},
            [(2, 14, 20, 8, 6)],
            (1 - (36 / 60 - 4 / (100 + 36)), CELLS * LN2, 3 * LN2),
            id="diou: 36 / 60, less 2^2 of 10^2 + 6^2",
        ),
        pytest.param(
            {"iou_loss": "ciou", "iou_normalizer": 0.07},
            [(2, *MIDDLE, 16, 6)],
            (
                0.07 * (1 - (0.5 - (v := 4 / pi**2 * sq(atan(16 / 6) - atan(8 / 6))) ** 2 / (0.5 + v))),
                CELLS * LN2,
                3 * LN2,
            ),
            id="ciou: 1 / 2, less what the shapes differ",
        ),
    ],
)
def test_cases_by_hand(said, truths, expected):
    """A map of zeros: boxes of the anchors' sizes in the middle of their cells, probabilities of 1 / 2."""
    total, items = criterion(**said)([flat().detach()], labels(*truths))
    assert list(items) == ["box_loss", "obj_loss", "cls_loss"]
    assert [float(v) for v in items.values()] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert float(total) == pytest.approx(sum(expected), rel=1e-5)


def test_new_coordinates_by_hand():
    """Maps of 1 / 2: as maps of zeros are elsewhere; a size of twice the anchor's is sqrt(2) / 2."""
    loss = criterion(activation="logistic", new_coords=1)
    _, items = loss([flat(0.5)], labels((2, *MIDDLE, 16, 6)))
    box = 0.75 * small(16, 6) * sq(0.5 - 2**0.5 / 2) / 2
    assert [float(v) for v in items.values()] == pytest.approx([box, CELLS * LN2, 3 * LN2], rel=1e-5)


def test_each_truth_has_one_anchor_of_all_maps():
    """It is nobody's on the maps of other anchors."""
    text = net() + conv(6, 3, 8) + head("2,3") + section("route", layers=0) + head("0,1")
    loss = DarknetLoss(detector(text))
    _, items = loss([flat(), flat()], labels((2, *MIDDLE, 8, 6), (1, *MIDDLE, 20, 18), (1, 4, 4, 4, 5)))
    assert float(items["cls_loss"]) == pytest.approx(9 * LN2)
    assert float(items["box_loss"]) == pytest.approx(0, abs=1e-5)


def test_of_a_batch_the_mean_is_shown_and_the_sum_returned():
    loss = criterion()
    truth = (2, *MIDDLE, 16, 6)
    one, items = loss([flat().detach()], labels(truth))
    two, both = loss([flat(batch=2).detach()], labels(truth, truth, of=[0.0, 1.0]))
    assert float(two) == pytest.approx(2 * float(one))
    assert {k: float(v) for k, v in both.items()} == pytest.approx({k: float(v) for k, v in items.items()})
    _, second = loss([flat(batch=2)], labels(truth, of=[1.0]))
    assert float(second["cls_loss"]) == pytest.approx(1.5 * LN2)


def test_gradients_are_differences():
    """Of YOLOv3: sigmoid less truth, and half as much less for each; 2 - w h for boxes."""
    raw = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = criterion(iou_normalizer=1, ignore_thresh=1)
    loss([raw], labels((2, 14, 20, 16, 6)))[0].backward()
    value, grad = (x.detach().view(2, 8, 4, 4)[1, :, 2, 1] for x in (raw, raw.grad))
    scale = small(16, 6)
    wanted = torch.cat(
        [
            scale * (value[:2].sigmoid() - torch.tensor([0.75, 0.5])),
            scale * (value[2:4] - torch.tensor([LN2, 0.0])),
            value[4:5].sigmoid() - 1,
            value[5:].sigmoid() - torch.tensor([0.0, 0.0, 1.0]),
        ]
    )
    assert torch.allclose(grad, wanted, atol=1e-5)
    elsewhere = raw.grad.view(2, 8, 4, 4).clone()
    elsewhere[1, :, 2, 1] = 0
    elsewhere[:, 4] -= raw.detach().view(2, 8, 4, 4)[:, 4].sigmoid()
    elsewhere[1, 4, 2, 1] = 0
    assert elsewhere.abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["mse", "iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("new", [0, 1])
@pytest.mark.parametrize("value", [0.0, 1.0, -80.0, 80.0])
def test_gradients_are_finite(kind, new, value):
    """Whatever a map comes to, and where there are no truths."""
    said = {"activation": "logistic", "new_coords": 1} if new else {}
    loss = criterion(iou_loss=kind, **said)
    for truths in ([], [(2, 14, 20, 16, 6), (0, 1, 1, 1, 1), (1, 32, 32, 32, 32)]):
        raw = flat(value) if not new else flat(float(torch.tensor(value).sigmoid()))
        total, _ = loss([raw], labels(*truths))
        total.backward()
        assert torch.isfinite(total) and torch.isfinite(raw.grad).all()


def test_maps_in_half_precision():
    raw = torch.full((1, 16, 4, 4), 12.0, dtype=torch.float16, requires_grad=True)
    total, _ = criterion(iou_loss="ciou")([raw], labels((2, *MIDDLE, 8, 6)))
    total.backward()
    assert total.dtype == torch.float32 and torch.isfinite(raw.grad).all()


def test_a_loss_that_is_not_known_is_refused():
    with pytest.raises(SlimError, match=r"cannot be trained.*line \d+, \[yolo\].*iou_loss='eiou'.*ciou"):
        criterion(iou_loss="eiou")


# ---- training ----


def test_validation_sees_the_same_loss():
    """In eval mode the head gives (boxes, maps): Ultralytics hands both to the criterion."""
    model = detector(SMALL)
    batch = {"img": image(model), **labels((2, *MIDDLE, 8, 6))}
    with torch.no_grad():
        boxes, maps = model(batch["img"])
        total, items = model.loss(batch, (boxes, maps))
        assert torch.equal(model.loss(batch, maps)[0], total) and list(items) == ["box_loss", "obj_loss", "cls_loss"]


@pytest.mark.parametrize("kind", ["mse", "ciou"])
def test_a_slim_net_learns_an_image_by_heart(kind):
    """Cut to half, it finds what it was shown, where it was shown it."""
    text = net() + conv(16, 3, 2) + conv(16, 3, 2) + conv(32, 3, 2) + conv(32, 3)
    model = detector(text + head("0,1") + section("route", layers=3) + head("2,3", iou_loss=kind))
    found = trace(model, PX)
    kept = np.ones(found.n_channels, bool)
    for group in found.free:
        kept[group.channels[::2]] = False
    slim = cut(model, found, kept).train()
    batch = {"img": image(model), **labels((2, 14, 20, 8, 6), (0, 20, 9, 18, 17))}
    optimizer = torch.optim.Adam(slim.parameters(), 0.01)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        total, _ = slim(batch)
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < 0.02 * losses[0]
    for norm in (m for m in slim.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        slim(batch["img"])
        (rows,) = non_max_suppression(slim.eval()(batch["img"]), conf_thres=0.25)
    rows = rows[rows[:, 5].argsort()]
    assert rows[:, 5].tolist() == [0, 2] and rows[:, 4].min() > 0.5
    assert (rows[:, :4] - torch.tensor([[11, 0.5, 29, 17.5], [10, 17, 18, 23]])).abs().max() < 2
