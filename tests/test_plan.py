"""A plan: what stays, by name, and what it is made of and into. (Contradictory and foreign ones: test_surgery.py.)"""

import json
from pathlib import Path

import numpy as np
import pytest
from networks import Line

from yolo_slim import SlimError
from yolo_slim.channels import Plan, trace
from yolo_slim.pruning.plan import read_plan


def line() -> tuple:
    found = trace(Line(1, 3, 5, 1), 1)
    kept = np.ones(found.n_channels, bool)
    kept[found.groups[1].channels[:2]] = False
    return found, kept


def test_a_plan_says_how_many_each_group_keeps():
    found, kept = line()
    assert found.widths(kept).tolist() == [3, 3, 1]
    plan = Plan.of(found, kept)
    assert plan.outputs == {"1": [2, 3, 4]} and (plan.kept(found) == kept).all()
    assert plan.every(found) == {"0": [0, 1, 2], "1": [2, 3, 4], "2": [0]}


def test_it_knows_in_which_order_channels_go():
    found, kept = line()
    name, other = found.groups[1].name, found.groups[0].name
    plan = Plan.of(found, kept, {g.name: np.array([5.0, 4, 3, 2, 1])[: g.size] for g in found.groups})
    assert plan.order == {name: [1, 0]}
    scores = plan.scores(found)
    assert scores[name][1] < scores[name][0] and not scores[other].any()


WRITTEN = {"0": [0, 2], "1": []}


@pytest.mark.parametrize(
    ("content", "order"),
    [
        pytest.param(WRITTEN, {}, id="1: kept.json and plan.json of 0.1"),
        pytest.param({"format": 2, "outputs": WRITTEN, "order": {"0": [1]}}, {"0": [1]}, id="2"),
    ],
)
def test_every_version_is_read(tmp_path: Path, content: dict, order: dict):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(content))
    plan = read_plan(file)
    assert plan == Plan(WRITTEN, order) and Plan.of_json(json.loads(json.dumps(plan.as_json))) == plan


def test_a_layer_may_be_called_format():
    assert Plan.of_json({"format": [1, 2]}).outputs == {"format": [1, 2]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param('{"format": 3, "outputs": {}}', r"plan\.json holds a plan of format 3.*update", id="a newer one"),
        pytest.param('{"format": 2, "outputs": {"0": [1, "2"]}, "order": {}}', "expected names", id="text"),
        pytest.param('{"format": 2, "outputs": {}}', "expected names", id="half of it"),
        pytest.param('{"0": 1}', "expected names", id="a number"),
        pytest.param("[1]", "holds no plan", id="a list"),
        pytest.param("{", "holds no plan", id="half a file"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, said: str):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(SlimError, match=said):
        read_plan(tmp_path / "plan.json")
