"""prune.search and prune.rescore: the same budget, and a detector that says more nearly what the original says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import PX, refused, run
from torch import nn

from yolo_slim.channels import Plan, Trace, trace
from yolo_slim.config import Prune, Search, check
from yolo_slim.data.batches import Batches
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence
from yolo_slim.measure.loss import drawn_loss
from yolo_slim.mould import duplicate
from yolo_slim.pruning import refine
from yolo_slim.pruning.choose import choose, judge
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.pruning.search import Found, search

pytest_plugins = ["tiny"]

ASKED: dict[str, Any] = {"target": {"flops": 0.6}, "round_to": 1, "min_channels": 2, "calib_images": 8, "rescore": 1}


class Given:
    """A detector, what is looked at, and its scores."""

    def __init__(self, detector: nn.Module, data: Path) -> None:
        self.detector, self.wiring = detector, trace(detector, PX)
        self.images = Batches(str(data), PX, 8)
        self.evidence = Evidence(images=self.images, drawn=drawn_loss)
        self.chosen = Prune.model_validate(ASKED)
        self.scores = judge(detector, self.wiring, self.chosen, self.evidence)

    def kept(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        return choose(self.detector, self.wiring, self.chosen, self.evidence, scores=scores).kept

    def search(self, scores: Mapping[str, np.ndarray], trials: int, **more: Any) -> Found:
        asked = Search(trials=trials, **more)
        return search(self.detector, self.wiring, scores, self.kept, self.images, asked, seed=0)


@pytest.fixture(scope="module")
def given(loaded: nn.Module, data: Path) -> Given:
    """Of a detector that all tests share: leave it as it is."""
    return Given(loaded, data)


def test_scores_that_misjudge_a_group_are_set_right(given: Given) -> None:
    """A group is called worth next to nothing, and loses all it may: found out as soon as each was tried alone."""
    wrong = dict(given.scores)
    worst = max((g for g in given.wiring.free), key=lambda g: given.scores[g.name].sum() * (g.size > 8))
    wrong[worst.name] = wrong[worst.name] * 1e-9
    assert given.kept(wrong)[worst.channels].sum() < given.kept(given.scores)[worst.channels].sum()
    found = given.search(wrong, len(given.wiring.free) + 1)
    assert found.after < found.before
    assert given.kept(found.scores)[worst.channels].sum() > given.kept(wrong)[worst.channels].sum()


def test_it_never_ends_further_away_and_goes_on_from_each_group_alone(given: Given) -> None:
    groups = len(given.wiring.free)
    ends = [given.search(given.scores, trials) for trials in (1, groups + 1, groups + 5)]
    assert all(found.after <= found.before for found in ends)
    assert ends[2].after <= ends[1].after <= ends[0].after, "the same trials, and then some more"
    assert [found.trials for found in ends[1:]] == [groups + 1, groups + 5]


def test_the_same_trials_come_to_the_same(given: Given) -> None:
    first, second = (given.search(given.scores, 28) for _ in range(2))
    assert (first.before, first.after) == (second.before, second.after)
    assert all(np.array_equal(first.scores[name], second.scores[name]) for name in first.scores)


def test_within_a_group_the_order_stays(given: Given) -> None:
    found = given.search(given.scores, 28)
    for name, worth in given.scores.items():
        some = (worth > 0) & np.isfinite(worth)
        factor = found.scores[name][some] / worth[some]
        np.testing.assert_allclose(factor, factor[:1].repeat(len(factor)), rtol=1e-9)


def test_seconds_end_it(given: Given) -> None:
    found = search(given.detector, given.wiring, given.scores, given.kept, given.images, Search(seconds=1e-9), seed=0)
    assert found.trials == 0 and found.before == found.after


def test_nothing_to_search_ends_it(given: Given) -> None:
    """Whatever the scores, one cut alone meets the budget: no width ever moves."""
    everything = np.ones(given.wiring.n_channels, bool)
    found = search(
        given.detector, given.wiring, given.scores, lambda _: everything, given.images, Search(trials=10**6), seed=0
    )
    assert found.before == found.after == pytest.approx(0, abs=1e-5)


def test_too_few_images(given: Given) -> None:
    with pytest.raises(SlimError, match="3 images at least"):
        search(given.detector, given.wiring, given.scores, given.kept, [torch.rand(2, 3, PX, PX)], Search(trials=9), 0)


def test_the_detector_is_left_alone(given: Given) -> None:
    detector = duplicate(given.detector).train()
    search(detector, given.wiring, given.scores, given.kept, given.images, Search(trials=5), seed=0)
    before = given.detector.state_dict()
    assert detector.training and all(torch.equal(v, before[name]) for name, v in detector.state_dict().items())


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"search": {"trials": 26}}, id="searched"),
        pytest.param({"rescore": 3}, id="scored three times"),
        pytest.param({"rescore": 2, "search": {"trials": 5}}, id="both"),
        pytest.param({"search": {"trials": 5}, "target": None, "ratio": 0.3}, id="a ratio"),
        pytest.param({"search": {"trials": 5}, "criterion": "l1", "solver": "threshold"}, id="by a threshold"),
        pytest.param(
            {"rescore": 2, "depth": {"blocks": 1, "score": "gamma_mean"}, "search": {"trials": 5}},
            id="with a branch that goes",
        ),
    ],
)
def test_the_budget_is_met_and_the_cut_proven(given: Given, more: dict[str, Any]) -> None:
    chosen = Prune.model_validate({**ASKED, **more})
    result = cut_to_plan(given.detector, chosen, PX, given.evidence)
    share = "channels" if chosen.target is None else "flops"
    assert 0.4 < result.cost.achieved[share] <= result.cost.asked[share] + 1e-9
    assert result.difference < 1e-6
    # The same scores as another cut begins with, so that they need not be taken again.
    if more in ({"search": {"trials": 26}}, {"rescore": 3}):
        assert not np.array_equal(result.cost.kept, given.kept(given.scores))


@pytest.mark.parametrize(
    ("more", "times"),
    [
        pytest.param({}, 3, id="obs asks what is lost from here on"),
        pytest.param({"criterion": "l1"}, 1, id="weights are as they are"),
        pytest.param({"scope": "layer", "target": None, "ratio": 0.3}, 1, id="nothing to weigh"),
        pytest.param({"iterations": {"rounds": 2}}, 1, id="every round scores anyway"),
        pytest.param({"rescore": 2}, 2, id="as asked for"),
    ],
)
def test_how_often_channels_are_scored(
    given: Given, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], times: int
) -> None:
    scored: list[int] = []

    def counted(detector: nn.Module, *args: Any) -> dict[str, np.ndarray]:
        scored.append(sum(p.numel() for p in detector.parameters()))
        return judge(detector, *args)

    monkeypatch.setattr(refine, "TIMES", refine.SHIPPED)  # type: ignore[attr-defined]
    monkeypatch.setattr("yolo_slim.pruning.choose.judge", counted)
    monkeypatch.setattr("yolo_slim.pruning.refine.judge", counted)
    cut_to_plan(given.detector, Prune.model_validate({**ASKED, "rescore": None, **more}), PX, given.evidence)
    assert len(scored) == times and scored == sorted(set(scored), reverse=True), "of ever fewer parameters"


def test_what_has_gone_stays_gone(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are taken of what is left: each time of fewer channels, and none of those that went comes back."""
    seen: list[Plan] = []
    original = Plan.of.__func__  # type: ignore[attr-defined]

    def of(cls: type[Plan], *args: Any) -> Plan:
        seen.append(original(cls, *args))
        return seen[-1]

    monkeypatch.setattr(Plan, "of", classmethod(of))
    cut_to_plan(given.detector, Prune.model_validate({**ASKED, "rescore": 3}), PX, given.evidence)
    assert len(seen) == 3
    for earlier, later in pairwise(seen):
        for name, kept in earlier.outputs.items():
            assert set(later.outputs[name]) <= set(kept)


@pytest.mark.parametrize("more", [{"scope": "layer"}, {"solver": "sensitivity"}])
@pytest.mark.parametrize("asked", [{"rescore": 2}, {"search": {"trials": 5}}])
def test_ways_without_scores_to_weigh_are_refused_first(more: dict[str, Any], asked: dict[str, Any]) -> None:
    with pytest.raises(SlimError, match="nothing to weigh"):
        check({"prune": {**asked, **more}}, "here")


@pytest.mark.parametrize("search", [{}, {"trials": 5, "seconds": 5}, {"images": 5}, True])
def test_one_length_is_asked_for(search: object) -> None:
    with pytest.raises(SlimError, match=r"prune\.search"):
        check({"prune": {"search": search}}, "here")


def test_a_stage_says_what_it_found_and_a_longer_search_is_another_plan(
    original: Path, data: Path, tmp_path: Path
) -> None:
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path}", "prune.target.flops=0.7"]
    words += ["prune.round_to=1", "prune.min_channels=2", "prune.rescore=2", "prune.calib_images=6"]
    answer = run("plan", *words, "prune.search.trials=3")
    assert answer.code == 0, answer.err
    assert (
        "scored again at FLOPs x0.8" in answer.out and "searched 3 cuts of the same budget: on 2 images" in answer.out
    )
    file = tmp_path / "slim" / "plan" / "plan.json"
    first = json.loads(file.read_text())
    assert "plan: done before" in run("plan", *words, "prune.search.trials=3").out
    answer = run("plan", *words, "prune.search.trials=28")
    assert "searched 28 cuts" in answer.out and json.loads(file.read_text()) != first


def test_without_images_it_is_refused(original: Path, tmp_path: Path) -> None:
    words = [f"model={original}", f"imgsz={PX}", f"runs={tmp_path}", "prune.target.flops=0.7", "prune.search.trials=3"]
    refused(run("plan", *words), "prune.search", "images")


def test_a_branch_that_a_search_leaves_nothing_goes_whole(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that were searched may empty what the first scores left something of."""

    def found(detector: nn.Module, wiring: Trace, scores: Mapping[str, np.ndarray], *_: Any) -> Found:
        inner = {g.name for g in wiring.free if "model.4.m.0.cv1.conv" in g.producers}
        return Found({name: s * (1e-12 if name in inner else 1) for name, s in scores.items()}, 1.0, 1.0, 1)

    monkeypatch.setattr("yolo_slim.pruning.refine.search", found)
    free = {"min_keep": 0, "min_channels": 0, "search": {"trials": 5}}
    result = cut_to_plan(given.detector, Prune.model_validate({**ASKED, **free}), PX, given.evidence)
    assert result.blocks == ("model.4.m.0",) and result.plan.outputs["model.4.m.0.cv1.conv"] == []
    assert result.cost.achieved["flops"] <= 0.6 + 1e-9 and result.difference < 1e-6
