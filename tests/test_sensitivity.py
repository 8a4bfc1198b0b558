"""Curves of a scan: straight between what was measured, never falling, and an order of removal from them."""

import numpy as np
import pytest

from yolo_slim.channels import Curve


@pytest.mark.parametrize(
    ("ratios", "worse", "at", "expected"),
    [
        pytest.param((0.2, 0.4), (0.1, 0.3), 0.3, 0.2, id="between two ratios"),
        pytest.param((0.2, 0.4), (0.1, 0.3), 0.1, 0.05, id="from zero to the first"),
        pytest.param((0.2, 0.4), (0.1, 0.3), 0.4, 0.3, id="at a ratio"),
        pytest.param((0.2, 0.4, 0.6), (0.3, 0.1, 0.5), 0.4, 0.3, id="a dip does not count"),
        pytest.param((0.5,), (-0.2,), 0.4, 0.0, id="better than whole is as good as whole"),
        pytest.param((0.5,), (0.2,), 1.0, 0.4, id="past the last: on at the mean slope"),
        pytest.param((0.5,), (0.0,), 0.9, 0.0, id="past the last of a flat one"),
        pytest.param((0.4, 0.5), (0.1, float("nan")), 0.4, 0.1, id="no number later on"),
        pytest.param((0.5,), (0.2,), 0.0, 0.0, id="nothing removed, nothing lost"),
        pytest.param((0.0, 0.5), (0.0, 0.2), 0.25, 0.1, id="ratio 0 scanned as well"),
    ],
)
def test_a_curve(ratios, worse, at, expected):
    assert Curve(ratios, worse).at(np.array([at]))[0] == pytest.approx(expected)


def test_no_number_is_worse_than_any_number():
    answers = Curve((0.4, 0.5, 0.6), (9.0, float("inf"), float("nan"))).at(np.linspace(0, 1, 11))
    assert (np.diff(answers) >= 0).all() and np.isfinite(answers).all() and answers[5] > 1e9
