"""`sparse_train.mode=auto`: channels are landed where that pays, a cut is tried once, and what was decided holds."""

from __future__ import annotations

import json

import pytest
from tiny import PX, run

from yolo_slim import record
from yolo_slim.config import Complete, read_config
from yolo_slim.runs.given import complete
from yolo_slim.stages import trial as stage
from yolo_slim.stages.trial import ENOUGH, decided, settled

pytest_plugins = ["tiny"]

CUT = ("prune.ratio=0.3", "prune.min_channels=4", "prune.round_to=1", "prune.calib_images=4")
SHORT = ("sparse_train.epochs=1", "sparse_train.min_steps=0", "sparse_train.train={batch: 4, workers: 0}")


@pytest.fixture
def words(original, data, tmp_path):
    return [f"model={original}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}", *CUT]


def config_of(words, *more: str) -> Complete:
    return complete(read_config(None, [*words, *more]))


def kept(monkeypatch, share: float) -> list[int]:
    """Let a cut keep this share of what the original is worth; counts how often they are measured."""
    worth, asked = iter((0.5, 0.5 * share)), []
    monkeypatch.setattr(stage, "accuracy", lambda *args: asked.append(1) or {"map50_95": next(worth)})
    return asked


@pytest.mark.parametrize(("share", "lands"), [(ENOUGH - 0.01, True), (ENOUGH + 0.01, False), (1.1, False)])
def test_what_a_cut_keeps_decides_once(words, monkeypatch, capsys, share, lands):
    asked = kept(monkeypatch, share)
    for _ in range(2):
        chosen = decided(config_of(words, *SHORT)).sparse_train
        assert (chosen.mode, chosen.epochs) == (("targeted", 1) if lands else ("auto", 0))
        told = capsys.readouterr().out
        assert f"keeps {share:.0%} of the original's" in told and ("are landed" in told) == lands
    assert len(asked) == 2, "the original and its cut, the first time alone"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        pytest.param(["sparse_train.epochs=1"], "a landing needs", id="too few steps"),
        pytest.param([*SHORT, "prune.depth.blocks=1"], "prune.depth", id="branches, which do not land"),
        pytest.param([*SHORT, "prune.iterations.rounds=2"], "prune.iterations.rounds", id="rounds"),
    ],
)
def test_where_it_cannot_land_nothing_is_tried(words, tmp_path, capsys, more, reason):
    assert decided(config_of(words, *more)).sparse_train.epochs == 0
    assert reason in capsys.readouterr().out.replace("\n", " ")
    assert not (tmp_path / "slim").exists()


def test_where_nothing_is_labelled_nothing_is_tried(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stage, "val_labelled", lambda config: False)
    assert decided(config_of(words, *SHORT)).sparse_train.epochs == 0
    assert "no image of val has a label" in capsys.readouterr().out and not (tmp_path / "slim").exists()


@pytest.mark.parametrize("mode", ["targeted", "uniform", "soft", "polarization"])
def test_a_mode_that_is_asked_for_is_taken(words, mode):
    config = config_of(words, *SHORT, f"sparse_train.mode={mode}")
    assert decided(config) is config and settled(config) is config


def test_the_cut_that_was_tried_is_the_cut(words, tmp_path, monkeypatch):
    kept(monkeypatch, 1.0)
    run_words = (*words, *SHORT, "finetune.epochs=1", "finetune.train={batch: 4, workers: 0}", "finetune.distill=null")
    answer = run("run", *run_words, "export.formats=[]", "bench=null", "report.latency_runs=1")
    assert answer.code == 0 and "no sparse training" in answer.out, answer
    assert "pruned: done before" in answer.out, "it is not made twice"
    assert not (tmp_path / "slim" / "sparse").exists()
    done = record.read(tmp_path / "slim" / "pruned")
    assert run("prune", *words, *SHORT).code == 0
    assert record.read(tmp_path / "slim" / "pruned") == done, "alone, it goes by what was decided"


def test_a_landing_that_was_decided_is_what_prune_follows(words, tmp_path, monkeypatch):
    kept(monkeypatch, 0.5)
    answer = run("sparse-train", *words, *SHORT)
    assert answer.code == 0 and "are landed before they are cut" in answer.out, answer
    answer = run("prune", *words, *SHORT)
    assert answer.code == 0 and "following the plan that sparse training has landed" in answer.out, answer
    said = json.loads((tmp_path / "slim" / "trial" / "stage.json").read_text())["details"]
    assert said == {"original": 0.5, "cut": 0.25, "kept": 0.5}


def test_a_sparse_training_of_another_mode_is_what_prune_goes_on_from(words, tmp_path):
    assert run("sparse-train", *words, *SHORT, "sparse_train.mode=uniform").code == 0
    assert run("prune", *words, *SHORT).code == 0
    assert "sparse/sparse.pt" in record.read(tmp_path / "slim" / "pruned").inputs
