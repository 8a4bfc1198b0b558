"""scripts/bench_evidence.py: its rows are made once, and its table tells shares of the original's mAP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import PX, script

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def bench() -> Any:
    return script("bench_evidence")


def row(share: float, way: str, map50_95: float) -> dict[str, Any]:
    of = {"data": "d", "model": "m.pt", "imgsz": 64, "split": "val", "share": share, "way": way}
    doubt = {"map50_95_low": map50_95 - 0.1, "map50_95_high": map50_95 + 0.1}
    return {**of, "map50_95": map50_95, **doubt, "map50": 0.5, "f1_at_25": 0.4, "best_confidence": 0.3}


def test_the_table_tells_shares_of_the_original(bench: Any) -> None:
    text = bench.table(
        [row(1.0, "original", 0.4), {**row(0.5, "L1", 0.1), "flops": 0.49, "params": 0.3, "seconds": 61.7}]
    )
    head, _, whole, cut = text.splitlines()
    assert len({line.count("|") for line in (head, whole, cut)}) == 1
    assert whole == "| d | 1.000 | original | 1.000 | 0.400 | 0.300–0.500 | 100% | 0.500 | 0.400 | 0.30 |  |"
    assert cut == "| d | 0.490 | L1 | 0.300 | 0.100 | 0.000–0.200 | 25% | 0.500 | 0.400 | 0.30 | 62 |"


def test_rows_are_made_once(bench: Any, original: Path, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    words = ["--model", original, "--data", data, "--imgsz", PX, "--shares", 0.8, "--images", 4, "--rows", file]
    args = bench.read_arguments([*map(str, words), "--only", "obs, scored once", "L1"])
    bench.make(args, [])
    rows = json.loads(file.read_text())
    assert [r["way"] for r in rows] == ["original", "obs, scored once", "L1"]
    assert all(r["flops"] <= 0.8 for r in rows[1:])
    again = list(rows)
    bench.make(args, again)
    assert again == rows
