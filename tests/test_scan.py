"""A scan in a sentence and in a picture."""

import numpy as np
import pytest
from matplotlib.image import imread

from yolo_slim.report import draw, scan_plot, scan_summary
from yolo_slim.report.scan import harm


def scan(groups=3, metric="loss", base=2.0, step=0.1):
    """Group i gets worse by i * step a ratio."""
    sign = 1 if metric == "loss" else -1
    ratios = (0.1, 0.5, 0.9)
    each = [
        [{"ratio": r, "removed": 1, "value": base + sign * i * step * (n + 1)} for n, r in enumerate(ratios)]
        for i in range(groups)
    ]
    named = [{"group": f"model.{i}.conv", "channels": 16, "rows": rows} for i, rows in enumerate(each)]
    return {"metric": metric, "base": base, "groups": named}


def test_it_is_said_which_group_matters_most():
    assert scan_summary(scan()) == (
        "without 50% of one group alone, 1 of 3 groups cost less than 1% of the loss (2.000); the dearest is model.2 "
        "(+0.400)"
    )


def test_map_is_lost_where_loss_is_added():
    said = scan_summary(scan(metric="map50_95", base=0.6))
    assert "of the mAP50-95 (0.600)" in said and "(−0.400)" in said


@pytest.mark.parametrize("metric", ["loss", "map50_95"])
def test_harm_counts_up_from_zero(metric):
    assert harm(scan(metric=metric)) == pytest.approx(np.outer([0, 0.1, 0.2], [1, 2, 3]))
    better = scan(metric=metric, step=-0.1)
    assert (harm(better) == 0).all()


def test_no_number_is_the_worst_there_is():
    broken = scan()
    broken["groups"][1]["rows"][2]["value"] = float("nan")
    assert harm(broken)[1, 2] == harm(broken).max() > 100


@pytest.mark.parametrize(("groups", "panels"), [(1, 1), (40, 1), (41, 2), (90, 3)])
def test_groups_are_shared_out_over_rows(groups, panels):
    figure = scan_plot(scan(groups))
    assert len(figure.axes) == panels + 1  # the last: what the colours mean
    labels = [tick.get_text() for axes in figure.axes[:-1] for tick in axes.get_xticklabels()]
    assert labels == [f"{i}  (16)" for i in range(groups)]


def test_the_darker_the_worse():
    image = scan_plot(scan()).axes[0].collections[0]
    assert np.asarray(image.get_array()).reshape(3, 3) == pytest.approx(np.outer([1, 2, 3], [0, 0.1, 0.2]))
    assert image.norm(0.4) > image.norm(0.2) > image.norm(0.02) > 0


def test_a_picture_is_written_whole(tmp_path):
    (file,) = draw(scan(), tmp_path, {"scan.png": scan_plot})
    assert imread(file).shape[1] > 1000 and [p.name for p in tmp_path.iterdir()] == ["scan.png"]


def test_nothing_scanned_nothing_drawn():
    assert scan_plot({"metric": "loss", "base": 1.0, "groups": []}) is None
