"""A scan in a sentence and in a picture."""

import numpy as np
import pytest
from drawn import Drawn

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
def test_groups_are_shared_out_over_columns(groups, panels):
    found = Drawn(scan_plot(scan(groups)))
    assert len(found.pictures) == panels
    assert found.said("name") == [f"{i}  (16)" for i in range(groups)]
    assert len(found.said("note")) == 6, "what the colours mean"
    assert all(text.left >= 0 and text.right <= found.width for text in found.texts())


def cells(picture):
    """(shade, what is said) of each."""
    return [(int(r.get("class")[-1]), r[0].text) for r in picture.iter("rect") if r.get("class").startswith("cell")]


def test_the_darker_the_worse():
    found = cells(Drawn(scan_plot(scan())).pictures[0])
    assert [float(said.split("+")[1]) for _, said in found] == pytest.approx(np.outer([0, 0.1, 0.2], [1, 2, 3]).ravel())
    assert found[0] == (0, "model.0.conv, 10% of 16 channels silenced: +0")
    shade = {round(float(said.split("+")[1]), 3): shade for shade, said in found}
    assert shade[0.6] >= shade[0.4] > shade[0.2] > shade[0.1] > shade[0.0] == 0


def test_shades_are_told_with_their_bounds():
    found = Drawn(scan_plot(scan())).said("note")
    assert found[0] == "loss added: less than 0.02" and found[-1].endswith("to 0.6")
    assert Drawn(scan_plot(scan(metric="map50_95", base=0.6))).said("note")[0] == "mAP50-95 lost: less than 0.006"


def test_a_picture_is_written_whole(tmp_path):
    (file,) = draw(scan(50), tmp_path, {"scan.svg": scan_plot})
    assert Drawn(file.read_text(encoding="utf-8")).width > 800 and [p.name for p in tmp_path.iterdir()] == ["scan.svg"]


def test_nothing_scanned_nothing_drawn(tmp_path):
    nothing = {"metric": "loss", "base": 1.0, "groups": []}
    assert scan_plot(nothing) == "" and draw(nothing, tmp_path, {"scan.svg": scan_plot}) == []
