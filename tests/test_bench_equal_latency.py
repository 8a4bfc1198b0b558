"""scripts/bench_equal_latency.py: the search meets the latency that was measured, and the rows hold what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import script
from training_helpers import PX, draw_shapes, saved, tiny

import yolo_slim
from yolo_slim import SlimError, checkpoint
from yolo_slim.measure import cost
from yolo_slim.timing.beside import Comparator, Comparison
from yolo_slim.timing.layers import random_widths

peers, bench = script("bench_peers"), script("bench_equal_latency")


@given(st.floats(0.31, 0.99), st.sampled_from([0.0, 0.3]))
def test_the_search_comes_as_close_as_its_steps(wanted: float, reach: float) -> None:
    def cut_at(asked: float) -> float:
        if asked < reach:
            raise SlimError("out of reach")
        return asked**0.5  # half of the FLOPs is not half of the time

    found = bench.bisected(cut_at, wanted, lambda slim: slim)
    assert abs(found - wanted**2) <= 0.5**bench.STEPS or found == pytest.approx(reach, abs=0.5**bench.STEPS)


def test_a_latency_out_of_reach_is_told() -> None:
    def cut_at(asked: float) -> float:
        raise SlimError("out of reach")

    with pytest.raises(SlimError, match=r"no cut comes near ×0\.200"):
        bench.bisected(cut_at, 0.2, lambda slim: slim)


def test_a_row_is_no_rival_of_its_own() -> None:
    said = peers.verdict("latency", {"latency": [0.5], "flops": [0.4], "smaller": [0.45], "original": [0.6]})
    assert "`flops` (+0.100)" in said and "`smaller` (+0.050)" in said and "(+0.000)" not in said


def test_only_the_row_by_latency_weighs_time_and_rows_know_what_they_are_made_of(tmp_path: Path) -> None:
    (tmp_path / "any.pt").touch()
    words = ["--model", str(tmp_path / "any.pt"), "--smaller", str(tmp_path / "any.pt"), "--data", "any.yaml"]
    rows = bench.rows_of(bench.read_arguments([*words, "--seeds", "0"]))
    made = {row.recipe: row.made_of("cut")["prune"] for row in rows}
    assert (made["latency"]["solver"], made["flops"]["solver"]) == ("knapsack", "threshold")
    assert made["latency"]["criterion"] == "obs" and made["latency"]["round_to"] == 8


def test_rows_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data, detector, model = draw_shapes(tmp_path / "data"), tiny(tmp_path), tmp_path / "tiny.yaml"  # trained first
    smaller = yolo_slim.prune(detector, imgsz=PX, target={"flops": 0.6}, criterion="random", round_to=8).model
    whole = cost(detector, PX).macs

    monkeypatch.setattr(Comparator, "one", lambda by, slim: Comparison((1.0, 0.1), cost(slim, PX).macs / whole))
    monkeypatch.setattr(bench, "STEPS", 4)
    monkeypatch.setattr("yolo_slim.timing.layers.random_widths", lambda wiring, _: random_widths(wiring, 4))
    words = ["--model", str(model), "--smaller", str(saved(smaller, tmp_path / "smaller.pt")), "--data", data]
    words += ["--imgsz", str(PX), "--runs", str(tmp_path / "runs"), "--seeds", "0", "--epochs", "1"]
    words += ["--runtime", "torch", "--timed-threads", "1", "--original-epochs", "1"]
    bench.main(words)
    shown = capsys.readouterr().out
    assert "Still missing" not in shown and "not available" not in shown
    assert "`latency` is" in shown and "`latency` (" not in shown, "a row is no rival of its own"
    wanted = cost(smaller, PX).macs / whole
    kept = peers.read_rows(bench.read_arguments(words))
    for row in bench.rows_of(bench.read_arguments(words)):
        begun = peers.found(kept, row, "cut")
        assert begun["latency"] == pytest.approx(1.0 if row.recipe == "original" else wanted, abs=0.15), row.recipe
        if row.recipe in ("latency", "flops"):
            assert checkpoint.is_slim(checkpoint.load(row.folder / "trained.pt"))


def test_what_cannot_be_trained_is_said_below_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "yolov5n.yaml", "--data", str(tmp_path / "nope.yaml"), "--runs", str(tmp_path)]
    bench.main([*words, "--smaller", str(tmp_path / "none.yaml")])
    shown = capsys.readouterr().out
    assert "Still missing: original" in shown and "yolov5n: not available: " in shown and "nope.yaml" in shown
