"""scripts/bench_budget.py: a row is made once, with the defaults; the table says which of ours `auto` takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny import PX, script

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def bench() -> Any:
    return script("bench_budget")


def row(way: str, epochs: int = 5, seed: int = 0, **more: Any) -> dict[str, Any]:
    alone = way in ("original", "imgsz")
    key = {"data": "bccd", "share": 0.5, "way": way, "epochs": 0 if alone else epochs, "seed": seed, "bf16": True}
    found = {"params": 2_000_000, "flops": 400 if alone else 200, "map50_95": 0.6, "map50_95_low": 0.5,
             "map50_95_high": 0.7, "map50": 0.9, "f1_at_25": 0.75, "best_confidence": 0.4}  # fmt: skip
    return {**key, "imgsz": PX, **found, **more}


def lines(bench: Any, *rows: dict[str, Any]) -> dict[str, list[str]]:
    """Detector -> the cells of its line."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in bench.table(list(rows)).splitlines()[2:]]
    return {line[3]: line for line in cells}


def test_seeds_are_one_line_with_their_spread(bench):
    seeds = [row("cut", seed=0, map50_95=0.58, before=0.55), row("cut", seed=1, map50_95=0.60, before=0.57)]
    found = lines(bench, row("original"), *seeds)["ours, cut first"]
    assert found == ["bccd", "0.500", "5", "ours, cut first", "2.000", "0.560 ± 0.014", "0.590 ± 0.014", "0.500–0.700",
                     "0.750 ± 0.000", "0.40", "2"]  # fmt: skip


@pytest.mark.parametrize("lands", [True, False])
def test_what_auto_takes_is_told(bench, lands):
    found = lines(bench, row("original"), row("cut", before=0.5), row("landing", before=0.5, auto=lands))
    assert ("ours, half of the epochs landing first (`auto`)" in found) == lands
    assert ("ours, cut first (`auto`)" in found) != lands


def test_original_and_smaller_images_have_one_row_for_all_budgets(bench):
    args = bench.read_arguments(["--epochs", "5", "20", "--seeds", "0", "1", "--ways", "imgsz", "longer"])
    keys = [json.dumps(case.key) for case in bench.cases(args)]
    assert len(keys) == 8 and len(set(keys)) == 5


@pytest.mark.parametrize("way", ["cut", "landing", "l1", "longer"])
def test_all_that_is_not_asked_for_is_as_it_is_for_everyone(bench, way):
    words = ["--model", "x.pt", "--data", "x.yaml", "--epochs", "6"]
    case = bench.Case(bench.read_arguments(words), way, 6, 3)
    config = case.config(sparse=2)
    assert (config.sparse_train.epochs, config.finetune.epochs, config.seed) == (2, 4, 3)
    assert config.finetune.distill == "auto" and config.sparse_train.mode == "auto"
    assert config.finetune.train == {} and config.prune.criterion == ("l1" if way == "l1" else None)


def test_a_row_is_made_once_and_kept_at_once(bench, tmp_path, monkeypatch, capsys):
    made: list[str] = []
    words = ["bench_budget.py", "--rows", str(tmp_path / "rows.json"), "--ways", "original", "cut", "tp_magnitude"]

    def stand_in(case: Any) -> dict[str, Any]:
        made.append(case.way)
        if case.way == "tp_magnitude":
            raise bench.SlimError("Torch-Pruning is not installed")
        return {name: value for name, value in row(case.way).items() if name not in case.key}

    monkeypatch.setattr(bench, "MAKE", dict.fromkeys(bench.MAKE, stand_in))
    monkeypatch.setattr("sys.argv", words)
    bench.main()
    assert "tp_magnitude: not available: Torch-Pruning is not installed" in capsys.readouterr().out
    bench.main()
    assert made == ["original", "cut", "tp_magnitude", "tp_magnitude"]
    monkeypatch.setattr("sys.argv", [*words, "--print", "--seeds", "7"])
    bench.main()
    assert len(made) == 4 and len(json.loads((tmp_path / "rows.json").read_text())) == 2
