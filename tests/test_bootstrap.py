"""mAP on other draws of the images: what Ultralytics gives for lists written out, by hand, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils.metrics import ap_per_class

from yolo_slim.measure import bootstrap
from yolo_slim.measure.bootstrap import FEWEST, RESAMPLES, draws, interval, map50_95, replicates
from yolo_slim.measure.matches import Matches, gathered


def some(seed: int, images: int, classes: int, boxes: float, objects: float) -> Matches:
    """Detections with scores of their own, right at more or fewer IoUs, no more of them than there are objects."""
    rng = np.random.default_rng(seed)
    image, target_image = (np.repeat(np.arange(images), rng.poisson(n, images)) for n in (boxes, objects))
    conf = (1 + rng.permutation(len(image))) / (len(image) + 1)
    cls, target_cls = (rng.integers(0, classes, len(where)) for where in (image, target_image))
    tp = (rng.random(len(image)) * conf**0.3)[:, None] > np.linspace(0.1, 0.8, 10)
    for i in range(images):
        for k in range(classes):
            mine = np.flatnonzero((image == i) & (cls == k))
            room = int(((target_image == i) & (target_cls == k)).sum())
            for at in range(10):
                tp[mine[tp[mine, at]][room:], at] = False
    return Matches(tp, conf, cls, image, target_cls, target_image, images)


def written_out(found: Matches, count: np.ndarray) -> float:
    """Ultralytics' own mAP50-95 of lists in which each image stands `count` times."""
    box, target = (
        np.concatenate([np.repeat(np.flatnonzero(of == i), n) for i, n in enumerate(count)]).astype(int)
        for of in (found.image, found.target_image)
    )
    ap = ap_per_class(found.tp[box], found.conf[box], found.cls[box], found.target_cls[target])[5]
    return float(ap.mean()) if len(ap) else np.nan


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 14),
    st.integers(1, 4),
    st.sampled_from([0.5, 3, 12]),
    st.sampled_from([0.3, 1, 5]),
)
def test_a_draw_is_what_ultralytics_gives_for_the_lists_written_out(seed, images, classes, boxes, objects):
    found = some(seed, images, classes, boxes, objects)
    counts = np.hstack([draws(images)[:, :6], np.ones((images, 1), int), np.zeros((images, 1), int)])
    expected = [written_out(found, count) for count in counts.T]
    assert map50_95(found, counts) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_large_split_is_summed_in_blocks_to_the_same(monkeypatch):
    found = some(1, 14, 2, 20, 5)
    whole = map50_95(found, draws(14))
    monkeypatch.setattr(bootstrap, "ROOM", 5 * RESAMPLES)
    assert (map50_95(found, draws(14)) == whole).all()


RIGHT, WRONG = [True] * 10, [False] * 10


@pytest.mark.parametrize(
    ("tp", "image", "count", "expected"),
    [
        pytest.param([RIGHT, RIGHT], [0, 1], [1, 1], 1.0, id="all found"),
        pytest.param([RIGHT, WRONG], [0, 1], [1, 1], 0.5, id="one of two found: half of the recalls"),
        pytest.param([RIGHT, WRONG], [0, 1], [2, 0], 1.0, id="only the image in which all is right"),
        pytest.param([RIGHT, WRONG], [0, 1], [0, 2], 0.0, id="only the one in which nothing is"),
        pytest.param([WRONG, RIGHT], [0, 1], [1, 1], 0.25, id="a wrong box is surer: half the precision at half"),
        pytest.param([WRONG, RIGHT], [0, 1], [3, 1], 0.0625, id="three wrong ones are: a quarter at a quarter"),
        pytest.param([RIGHT, RIGHT], [0, 1], [0, 0], np.nan, id="no object in the draw"),
    ],
)  # fmt: skip
def test_by_hand(tp, image, count, expected):
    found = Matches(
        np.array(tp), np.array([0.9, 0.8]), np.zeros(2, int), np.array(image), np.zeros(2, int), np.arange(2), 2
    )
    assert map50_95(found, np.array(count)[:, None])[0] == pytest.approx(expected, abs=0.006, nan_ok=True)


def test_a_split_is_drawn_the_same_for_every_detector():
    counts = draws(30)
    assert (counts == draws(30)).all() and counts.shape == (30, RESAMPLES)
    assert (counts.sum(0) == 30).all(), "as many images as there are, each time"
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=0.02), "with replacement: one in e is left out"


def test_differences_are_of_pairs():
    """A detector that is worse by the same in every image is so on every draw, however much the draws differ."""
    better = some(3, 40, 1, 8, 4)
    worse = Matches(
        np.delete(better.tp, slice(None, None, 2), 0),
        *(np.delete(of, slice(None, None, 2)) for of in (better.conf, better.cls, better.image)),
        better.target_cls,
        better.target_image,
        40,
    )
    a, b = replicates(better), replicates(worse)
    assert np.std(np.subtract(a, b)) < np.hypot(np.std(a), np.std(b)), "narrower than if they were drawn apart"
    assert np.subtract(a, replicates(better)).tolist() == [0] * len(a)


def test_the_interval_narrows_with_the_root_of_the_number_of_images():
    def width(images: int) -> float:
        low, high = interval(replicates(some(5, images, 1, 6, 3)), 0.3)
        return high - low

    assert 1.4 < width(40) / width(160) < 2.8, "four times the images, half the width"


def test_the_order_in_which_images_were_seen_decides_nothing():
    stats = {
        "tp": [np.ones((2, 10), bool), np.zeros((1, 10), bool), np.zeros((0, 10), bool)],
        "conf": [np.array([0.9, 0.8]), np.array([0.7]), np.zeros(0)],
        "pred_cls": [np.zeros(2), np.ones(1), np.zeros(0)],
        "target_cls": [np.zeros(2), np.zeros(1), np.ones(3)],
    }
    seen = gathered(["b", "c", "a"], stats)
    assert seen.image.tolist() == [1, 1, 2] and seen.target_image.tolist() == [1, 1, 2, 0, 0, 0]
    turned = gathered(["c", "a", "b"], {key: [of[1], of[2], of[0]] for key, of in stats.items()})
    assert map50_95(seen, draws(3)) == pytest.approx(map50_95(turned, draws(3)), nan_ok=True)


@pytest.mark.parametrize(("labelled", "told"), [(FEWEST, True), (FEWEST - 1, False)])
def test_few_images_have_no_interval(labelled, told):
    images = 30  # of which most are background
    target = np.arange(labelled)
    tp = np.arange(images)[:, None] % 2 == np.zeros(10)
    found = Matches(
        tp, np.linspace(0.9, 0.1, images), np.zeros(images, int), np.arange(images), 0 * target, target, images
    )
    drawn = replicates(found)
    assert bool(drawn) == told
    assert (interval(drawn, 0.2) == (None, None)) != told


def test_the_interval_holds_the_value_and_95_percent_of_the_draws():
    drawn = np.linspace(0.4, 0.6, 201).tolist()
    assert interval(drawn, 0.5) == pytest.approx((0.405, 0.595))
    assert interval(drawn, 0.61) == pytest.approx((0.405, 0.61))
