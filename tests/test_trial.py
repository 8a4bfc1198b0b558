"""`sparse_train.mode=auto`: channels are landed where that pays, a cut is tried once, and what was decided holds."""

from __future__ import annotations

import pytest
from tiny import PX, refused, run

from yolo_slim import record
from yolo_slim.config import Complete, read_config
from yolo_slim.errors import SlimError
from yolo_slim.runs.given import complete
from yolo_slim.stages import cut as cut_module
from yolo_slim.stages import trial as stage
from yolo_slim.stages.auto import ENOUGH, settled
from yolo_slim.stages.checks import check_run
from yolo_slim.stages.trial import decided

pytest_plugins = ["tiny"]

CUT = ("prune.ratio=0.3", "prune.min_channels=4", "prune.round_to=1", "prune.calib_images=4")
SHORT = ("sparse_train.epochs=1", "sparse_train.min_steps=0", "sparse_train.train={batch: 4, workers: 0}")


@pytest.fixture
def words(original, data, tmp_path):
    return [f"model={original}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}", *CUT]


def config_of(words, *more: str) -> Complete:
    return complete(read_config(None, [*words, *more]))


def kept(monkeypatch, share: float | None) -> list[int]:
    """Let a cut keep this share of what the original is worth (None: of nothing); counts how often that is measured."""
    asked = []

    def whole(config, detector):
        asked.append(1)
        return cut[-1] / share if share else 0.0

    cut: list[float] = []
    measured = cut_module.measured
    worth = 0.3

    def row(config, weights, split=None):
        cut.append(worth)
        return {**measured(config, weights, split), "map50_95": worth}

    monkeypatch.setattr(cut_module, "measured", row)
    monkeypatch.setattr(stage, "worth_on_val", whole)
    return asked


@pytest.mark.parametrize(
    ("share", "lands"), [(ENOUGH - 0.01, True), (ENOUGH + 0.01, False), (1.1, False), (None, False)]
)
def test_what_a_cut_keeps_decides_once(words, monkeypatch, capsys, share, lands):
    asked = kept(monkeypatch, share)
    for _ in range(2):
        chosen = decided(config_of(words, *SHORT)).sparse_train
        assert (chosen.mode, chosen.epochs) == (("targeted", 1) if lands else ("auto", 0))
        told = " ".join(capsys.readouterr().out.split())
        said = f"keeps {share:.1%} of the original's" if share else "the original finds nothing on val"
        assert said in told and ("are landed first" in told) == lands
    assert len(asked) == 1, "the original, the first time alone"


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


FINETUNE = ("finetune.epochs=1", "finetune.train={batch: 4, workers: 0}", "finetune.distill=null")
QUICK = ("export.formats=[]", "bench=null", "report.latency_runs=1")


def test_the_cut_that_was_tried_is_the_cut(words, tmp_path, monkeypatch):
    kept(monkeypatch, 1.0)
    answer = run("run", *words, *SHORT, *FINETUNE, *QUICK)
    assert answer.code == 0 and "no sparse training" in answer.out, answer
    assert "the cut that was tried is taken" in answer.out, "it is not made twice"
    slim = tmp_path / "slim"
    assert not (slim / "sparse").exists()
    done, tried = (record.read(slim / name) for name in ("pruned", "trial"))
    assert done.details == {k: v for k, v in tried.details.items() if k not in ("original", "kept")}
    assert run("prune", *words, *SHORT).code == 0
    assert record.read(slim / "pruned") == done, "alone, it goes by what was decided"


def test_a_landing_that_was_decided_is_what_prune_follows(words, tmp_path, monkeypatch):
    kept(monkeypatch, 0.5)
    answer = run("sparse-train", *words, *SHORT)
    assert answer.code == 0 and "are landed first" in answer.out, answer
    assert not (tmp_path / "slim" / "pruned").exists(), "a trial is no cut that others go on from"
    answer = run("prune", *words, *SHORT)
    assert answer.code == 0 and "following the plan that sparse training has landed" in answer.out, answer
    done = record.read(tmp_path / "slim" / "pruned")
    refused(run("prune", *words, *SHORT, "prune.ratio=0.2"), "has brought to zero are not those")
    assert record.read(tmp_path / "slim" / "pruned") == done, "what was there stays"


@pytest.mark.parametrize("command", ["prune", "plan", "sensitivity"])
def test_a_landing_that_was_decided_and_not_made_is_asked_for(words, tmp_path, monkeypatch, command):
    kept(monkeypatch, 0.5)
    decided(config_of(words, *SHORT))
    refused(run(command, *words, *SHORT), "to be landed first", "sparse-train", "sparse_train.epochs=0")
    assert run(command, *words, "sparse_train.epochs=0").code == 0


@pytest.mark.parametrize("more", ["prune.depth.blocks=1", "prune.iterations.rounds=2"])
def test_after_a_landing_what_cannot_land_does_without(words, monkeypatch, more):
    kept(monkeypatch, 0.5)
    assert run("sparse-train", *words, *SHORT).code == 0
    config = config_of(words, *SHORT, more)
    check_run(config)
    assert settled(config).sparse_train.epochs == 0 == decided(config).sparse_train.epochs


def test_a_landing_that_was_killed_is_gone_on_with(words, tmp_path, monkeypatch):
    """By solver sensitivity too, whose scan is of the original, whatever is begun in sparse/."""
    kept(monkeypatch, 0.5)
    scan = ("prune.solver=sensitivity", "prune.sensitivity={images: 4, ratios: [0.3, 0.6]}")
    broken = monkeypatch.context()
    with broken as patched:
        patched.setattr(
            "yolo_slim.stages.sparse_train.measured", lambda *args: (_ for _ in ()).throw(SlimError("dead"))
        )
        refused(run("sparse-train", *words, *SHORT, *scan), "dead")
    assert (tmp_path / "slim" / "sparse" / "train").exists()
    answer = run("sparse-train", *words, *SHORT, *scan)
    assert answer.code == 0 and "training was complete" in answer.out, answer


def test_a_sparse_training_of_another_mode_is_what_prune_goes_on_from(words, tmp_path):
    assert run("sparse-train", *words, *SHORT, "sparse_train.mode=uniform").code == 0
    for command in ("plan", "prune"):
        assert run(command, *words, *SHORT).code == 0
    assert "sparse/sparse.pt" in record.read(tmp_path / "slim" / "pruned").inputs
    assert "sparse/sparse.pt" in record.read(tmp_path / "slim" / "plan").inputs


def test_without_data_it_is_told_first(original, tmp_path):
    words = [f"model={original}", f"runs={tmp_path}", f"imgsz={PX}", "prune.ratio=0.3"]
    refused(run("run", *words), "training needs a data set: data=")
    assert not (tmp_path / "slim").exists()
    assert run("prune", *words).code == 0
    refused(run("finetune", *words), "training needs a data set: data=")
    assert not (tmp_path / "slim" / "finetuned").exists()
