"""scripts/bench_yolov5.py: its rows are made once, and its tables put each detector beside its original."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import darknet_nets as nets
import pytest
from tiny import PX, script
from yolov5_files import small

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def bench() -> Any:
    return script("bench_yolov5")


def row(params: int, flops: int, epochs: int = 0) -> dict[str, Any]:
    found = {"params": params, "flops": flops, "file_mb": 3.0, "map50": 0.5, "map50_95": 0.3, "map50_95_low": 0.2,
             "map50_95_high": 0.4, "f1_at_25": 0.6, "best_confidence": 0.31, "split": "test"}  # fmt: skip
    return {**found, "epochs": epochs}


def ms(**named: float) -> dict[str, Any]:
    return {key: {"p10": value, "median": value, "p90": value} for key, value in named.items()}


def test_what_is_missing_is_a_line_of_dashes(bench: Any) -> None:
    times = {"torch": ms(original=20.0, pruned=12.0), "onnxruntime": ms(original=10.0, pruned=5.5)}
    kept = {"bccd": {"original": row(2_000_000, 400, 45), "pruned": row(500_000, 200), "ms": times}}
    head, _, whole, cut, *rest = bench.table(kept, "bccd").splitlines()
    assert whole == "| transferred from COCO | 45 | 2.000 | 1.000 | 0.300 | 0.500 | 0.600 | 0.31 | 20.0 | 10.0 |"
    assert cut.endswith("| – | 0.500 | 0.500 | 0.300 | 0.500 | 0.600 | 0.31 | 12.0 | 5.5 |")
    assert len(rest) == 2 and all(line.endswith("| – |" * 1) for line in rest)
    assert len({line.count("|") for line in (head, whole, cut, *rest)}) == 1


def test_speed_is_told_beside_the_whole_net_s(bench: Any) -> None:
    sizes = {
        "original": {"params": 100, "flops": 1000, "file_mb": 4.0},
        "0.5": {"params": 25, "flops": 500, "file_mb": 1.0},
    }
    slow, fast = ms(original=8.0, **{"0.5": 6.0}), ms(original=4.0, **{"0.5": 1.0})
    found = {"imgsz": 320, "rows": sizes, "torch": slow, "onnxruntime": slow, "opencv": fast}
    *_, whole, cut = bench.table({"speed": {"net": found}}, "speed").splitlines()
    assert whole == "| net | 320 | 1.000 | 1.000 | 4.00 | 8.0 | 1.00 | 8.0 | 1.00 | 4.0 | 1.00 |"
    assert cut == "| ... FLOPs ×0.5 | 320 | 0.500 | 0.250 | 1.00 | 6.0 | 0.75 | 6.0 | 0.75 | 1.0 | 0.25 |"


@pytest.fixture
def given(bench: Any, data: Path, tmp_path: Path) -> Callable[..., Any]:
    """The arguments for a tiny detector, and no stage that trains: each answers with its name's length."""
    model = small(tmp_path)
    words = ["--model", model, "--bccd", data, "--coco", data, "--bccd-imgsz", PX, "--coco-imgsz", PX, "--runs",
             tmp_path / "runs", "--rows", tmp_path / "rows.json", "--runs-timed", 2, "--shares", 0.8]  # fmt: skip
    return lambda *more: bench.read_arguments([*map(str, words), *map(str, more)])


def test_a_row_is_made_once_and_kept_at_once(bench: Any, given: Callable[..., Any], monkeypatch: Any) -> None:
    made: list[str] = []

    def stand_in(name: str) -> Callable[..., Any]:
        return lambda config: made.append(name) or SimpleNamespace(metrics=row(len(made), 1))

    for stage in ("original", "prune_stage", "finetune", "train_on", "sparse_train"):
        monkeypatch.setattr(bench, stage, stand_in(stage))
    monkeypatch.setattr(bench, "export", lambda config: None)
    monkeypatch.setattr(bench, "timed", lambda detectors, imgsz, args, runtimes: {})
    monkeypatch.setattr(bench.checkpoint, "load", lambda path: path)
    args, rows = given(), {}
    bench.make_bccd(args, rows)
    assert made == ["original", "prune_stage", "finetune", "train_on"]
    assert rows["bccd"]["finetuned"]["epochs"] == 20
    bench.make_coco(args, rows)
    assert json.loads(args.rows.read_text()) == rows
    assert {*bench.COCO} <= {*rows["coco"]} and rows["coco"]["sparse 0.9 finetuned"]["epochs"] == 2
    before = len(made)
    bench.make_bccd(args, rows)
    bench.make_coco(args, rows)
    assert len(made) == before


def test_nets_are_cut_and_timed(bench: Any, given: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    text = nets.net(PX, PX) + nets.conv(64, 3, 2) + nets.conv(96, 3, 2) + nets.conv(96, 3, 2) + nets.head(classes=4)
    args, rows = given("--darknet", nets.written(tmp_path, text)), {}
    bench.make_speed(args, rows)
    assert {*rows["speed"]} == {"best", "net"}
    assert all(found["rows"]["0.8"]["flops"] <= 0.8 * found["rows"]["original"]["flops"]
               for found in rows["speed"].values())  # fmt: skip
    assert bench.table(rows, "speed").count("\n") == 5
