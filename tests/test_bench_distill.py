"""scripts/bench_distill.py: one cut for all rows, nothing made twice, every loss in the table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import script
from training_helpers import PX, draw_shapes, saved, tiny

from yolo_slim import checkpoint
from yolo_slim.distill import LOSSES
from yolo_slim.distill.cwd import Cwd

peers = script("bench_peers")
bench = script("bench_distill")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command line of a run in tmp_path."""
    (tmp_path / "model.pt").write_bytes(b"the model")
    return ["--model", str(tmp_path / "model.pt"), "--data", "cells.yaml", "--runs", str(tmp_path / "runs")]


def test_every_loss_has_a_row_of_its_own() -> None:
    alone = set(bench.RECIPES) - set(bench.SEEDED)
    assert alone == set(LOSSES)
    for name in alone:
        section = bench.Lesson(None, name, 0).section()
        assert {**section.features, **section.outputs} == {name: {}}


def test_every_row_starts_from_the_same_cut(words: list[str]) -> None:
    rows = bench.rows_of(bench.read_arguments(words))
    assert len({row.cut.key for row in rows}) == 1
    assert len({row.folder for row in rows}) == len(rows)
    assert [r.seed for r in rows if r.recipe == "default"] == [0, 1, 2]
    assert [r.seed for r in rows if r.recipe == "cwd"] == [0]


def test_the_table_compares_seed_by_seed_and_says_what_is_missing(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def make(row: bench.Lesson) -> dict:
        made.append(row.key)
        gain = {"plain": 0.0, "default": 0.02}.get(row.recipe, -0.01)
        return {"map50_95": 0.5 + 0.1 * row.seed + gain, "epochs": row.args.epochs}

    monkeypatch.setattr(bench, "make_trained", make)
    chosen = [*words, "--recipes", "plain,default,cwd"]
    bench.main([*chosen, "--seeds", "0", "1"])
    shown = capsys.readouterr().out
    assert "| plain fine-tuning (`plain`) | 0.550 ± 0.071 | – | 2 of 2 |" in shown
    assert "| our default (`default`) | 0.570 ± 0.071 | +2.0 points | 2 of 2 |" in shown
    assert "| `cwd` alone (`cwd`) | 0.490 | -1.0 points | 1 of 1 |" in shown
    assert "Still missing" not in shown
    bench.main([*chosen, "--print"])
    assert "Still missing: plain (seed 2); default (seed 2)" in capsys.readouterr().out
    shutil.move(words[1], f"{words[1]}.away")
    bench.main([*chosen, "--print"])
    assert "| `cwd` alone (`cwd`) | 0.490 |" in capsys.readouterr().out, "what is kept is shown without the detector"
    shutil.move(f"{words[1]}.away", words[1])
    bench.main([*chosen, "--seeds", "0", "1"])
    assert len(made) == len(set(made)) == 5


def test_another_default_is_another_row(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    args = bench.read_arguments(words)
    before = json.dumps(bench.Lesson(args, "default", 0).made_of("trained"))
    monkeypatch.setitem(bench.RECIPES, "default", ("ours", {"outputs": "ld"}))
    assert json.dumps(bench.Lesson(args, "default", 0).made_of("trained")) != before


@pytest.mark.parametrize(
    ("recipe", "changed"),
    [("default", {"channels"}), ("channels", {"channels"}), ("cwd", {"cwd"}), ("plain", set()), ("ultralytics", set())],
)
def test_another_default_of_a_loss_is_another_row_of_those_that_use_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, recipe: str, changed: set[str]
) -> None:
    row = bench.Lesson(bench.read_arguments(words), recipe, 0)
    before = json.dumps(row.made_of("trained"))
    for name in LOSSES:
        with monkeypatch.context() as patch:
            patch.setattr(LOSSES[name], "weight", 123.0)
            assert (json.dumps(row.made_of("trained")) != before) is (name in changed), name
    with monkeypatch.context() as patch:
        patch.setattr(Cwd.__init__, "__kwdefaults__", {"adapter": None, "temperature": 9.0})
        assert (json.dumps(row.made_of("trained")) != before) is (recipe == "cwd")


def test_rows_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = draw_shapes(tmp_path / "data")
    model = saved(tiny(tmp_path), tmp_path / "model.pt")
    words = ["--model", str(model), "--data", data, "--imgsz", str(PX), "--runs", str(tmp_path / "runs")]
    words += ["--seeds", "0", "--epochs", "1", "--flops", "0.8", "--recipes", "default,ultralytics"]
    bench.main(words)
    assert "Still missing" not in capsys.readouterr().out
    for row in bench.rows_of(bench.read_arguments(words)):
        slim = checkpoint.load(row.folder / "trained.pt")
        assert checkpoint.is_slim(slim) and not hasattr(slim, "projector")
