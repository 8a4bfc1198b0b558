"""`yolo_slim.prune` as a user calls it: costs of one's own, a data set, a criterion of one's own, mistakes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from test_importance import OWN
from tiny import PX, run

from yolo_slim import SlimError, prune, trace

pytest_plugins = ["tiny"]

SMALL = {"criterion": "l1", "round_to": 1, "min_channels": 2}


def energy(detector, dear="model.3.conv"):
    """A table in which a channel of one group costs a hundred times as much as any other."""
    groups = trace(detector, PX).groups
    return {"energy": {g.name: np.arange(g.size + 1.0) * (100 if g.name == dear else 1) for g in groups}}


@pytest.mark.parametrize("solver", ["threshold", "knapsack"])
def test_a_cost_of_ones_own_is_a_target(loaded, solver):
    tables = energy(loaded)
    found = prune(loaded, imgsz=PX, tables=tables, target={"energy": 0.5, "flops": 0.9}, solver=solver, **SMALL).cost
    assert found.asked == {"energy": 0.5, "flops": 0.9}
    assert found.achieved["energy"] <= 0.5 and found.achieved["flops"] <= 0.9
    kept = {g.name: int(found.kept[g.channels].sum()) for g in trace(loaded, PX).groups}
    table = tables["energy"]
    spent, whole = sum(table[name][k] for name, k in kept.items()), sum(costs[-1] for costs in table.values())
    assert found.achieved["energy"] == pytest.approx(spent / whole)
    assert found.looser["energy"] > 0.5 or found.looser["flops"] > 0.9


def test_a_knapsack_spends_where_it_is_cheap(loaded):
    """The dear group loses, where a budget of FLOPs has it keep."""
    (dear,) = [g for g in trace(loaded, PX).groups if g.name == "model.3.conv"]
    by = {
        name: prune(loaded, imgsz=PX, tables=energy(loaded), target={name: 0.5}, solver="knapsack", **SMALL)
        for name in ("energy", "flops")
    }
    left = {name: len(pruned.kept[dear.name]) for name, pruned in by.items()}
    assert left["energy"] < left["flops"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"target": {"energi": 0.5}}, r"energi is neither.*flops.*tables \(energy\)", id="no such table"),
        pytest.param({"target": {"energy": 1.5}}, r"target\.energy: expected the share.*got 1\.5", id="a wrong share"),
        pytest.param({"target": {"energy": True}}, "expected the share to keep.*got True", id="no number"),
        pytest.param({"target": {"energy": 0.5}, "ratio": 0.3}, "choose one", id="and a ratio"),
        pytest.param(
            {"target": {"energy": 0.5, "flops": 7}}, r"prune\.target\.flops: .*got 7", id="a wrong one beside"
        ),
        pytest.param({"target": 0.5}, r"prune\.target: ", id="no target at all"),
    ],
)
def test_targets_are_checked_against_the_tables(loaded, settings, said):
    with pytest.raises(SlimError, match=said):
        prune(loaded, imgsz=PX, tables=energy(loaded), **settings)


def test_a_data_set_lets_every_criterion_look(loaded, data):
    """The loss for Taylor and for a branch's worth, images for least squares."""
    depth = {"blocks": 1, "score": "delta_loss"}
    given = SMALL | {"criterion": "taylor", "calib_images": 4}
    pruned = prune(loaded, imgsz=PX, data=str(data), target={"flops": 0.7}, depth=depth, **given)
    assert len(pruned.blocks) == 1 and pruned.cost.achieved["flops"] <= 0.7


def test_mistakes_are_told_as_on_the_command_line(loaded, tmp_path):
    with pytest.raises(SlimError) as told:
        prune(loaded, imgsz=PX, target={"flosp": 0.3}, min_keep=2)
    lines = str(told.value).splitlines()
    assert any(line.startswith("  prune.target.flosp: ") and "flops" in line for line in lines), lines
    assert any(line.startswith("  prune.min_keep: ") and line.endswith("got 2") for line in lines)
    assert "pydantic" not in str(told.value)
    with pytest.raises(SlimError, match="cannot use the data set"):
        prune(loaded, imgsz=PX, data=str(tmp_path / "no.yaml"), ratio=0.3, criterion="taylor")


def test_a_criterion_of_ones_own_on_the_command_line(original, tmp_path, monkeypatch):
    """Named by its module; another version of that file is another cut."""
    file = tmp_path / "my_criterion.py"
    file.write_text(OWN)
    monkeypatch.chdir(tmp_path)
    words = [f"model={original}", f"imgsz={PX}", "sparse_train.epochs=0", "prune.ratio=0.3"]
    words.append("prune.criterion=my_criterion:shift")
    try:
        first = run("prune", *words)
        assert first.code == 0, first
        assert "pruned: done before" in run("prune", *words).out
        file.write_text(f"{OWN}# otherwise\n")
        assert "my_criterion.py is another" in run("prune", *words).out
    finally:
        sys.modules.pop("my_criterion", None)
