"""scripts/kill.py: what it counts as wrong, and a few kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import ROOT, script

from yolo_slim import record

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def kill():
    return script("kill")


def test_a_few_kills_leave_no_wrong_state(tmp_path: Path) -> None:
    """The same command goes on where it was, and prints the table of both."""
    answers = []
    for kills in (1, 2):
        words = [ROOT / "scripts" / "kill.py", "--kills", kills, "--only", "prune", "--out", tmp_path / "kill"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        answers.append(
            subprocess.run(
                [sys.executable, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
        )
    assert [answer.returncode for answer in answers] == [0, 0], answers[-1].stdout + answers[-1].stderr
    rows = [row for trial in json.loads((tmp_path / "kill" / "seed0.json").read_text()) for row in trial]
    assert len(rows) >= 2 and {row["case"] for row in rows} == {"prune"}
    assert answers[-1].stdout.splitlines()[-1].startswith(f"| **all** | {len(rows)} |")
    assert answers[-1].stdout.splitlines()[-1].endswith("| 0 |")


def test_every_stage_is_among_its_cases(kill) -> None:
    from yolo_slim.stages import STAGES

    assert {case.command for case in kill.CASES.values()} == STAGES.keys() - {
        "inspect",
        "convert",
        "pack",
        "unpack",
        "init",
    }
    assert {case.command for case in kill.CASES.values()} == kill.FOLDERS.keys()


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        pytest.param("pruned/kept.json", b'{"a": ', "kept.json", id="half a JSON"),
        pytest.param("pruned/pruned.pt", b"PK", "pruned.pt", id="half a checkpoint"),
        pytest.param("report/widths.svg", b"<svg><g>", "widths.svg has no end", id="half a picture"),
        pytest.param("report/report.html", b"<html>", "report.html has no end", id="half a page"),
        pytest.param("pruned/stage.json", b"{}", "stage.json is damaged", id="no record"),
        pytest.param("pruned/.pruned.pt.part", b"PK", None, id="a temporary file"),
        pytest.param("pruned/tmp0a_bcdef/slim.pt", b"PK", None, id="in a temporary folder"),
    ],
)
def test_what_is_half_written_is_seen(kill, tmp_path: Path, name: str, content: bytes, wrong: str | None) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(content)
    found = list(kill.halves(tmp_path))
    assert len(found) == bool(wrong) and all(wrong in text for text in found)


def test_what_is_left_behind_is_seen(kill, tmp_path: Path) -> None:
    place = kill.Place(tmp_path)
    for name in ("runs/slim/.lock", "runs/slim/export/tmp0a_bcdef/x", "tmp/yolo-slim-1/x", "runs/slim/run.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = {text.removeprefix("left behind: ") for text in kill.left(place)}
    assert found == {
        "runs/slim/.lock",
        "runs/slim/export/tmp0a_bcdef",
        "runs/slim/export/tmp0a_bcdef/x",
        "tmp/yolo-slim-1",
    }


def test_results_are_what_no_clock_decides(kill, tmp_path: Path) -> None:
    folder, place = tmp_path / "runs" / "slim" / "pruned", kill.Place(tmp_path)
    folder.mkdir(parents=True)
    torch.save({}, folder / "pruned.pt")
    sums = {"weights": record.sha256(folder / "pruned.pt")}
    metrics = {"params": 3, "map50": 0.5, "rows": [{"flops": 2, "map50": 0.4, "latency_ms": {"median": 3.0}}]}
    done = record.Record("pruned", {}, {}, {"weights": "pruned.pt"}, sums, metrics, 1.0, record.versions())
    record.write(folder, done)
    steady = {"params": 3, "map50": 0.5, "rows": [{"flops": 2, "map50": 0.4}]}
    assert kill.results(place, trains=False) == {"slim/pruned": steady}
    assert kill.results(place, trains=True) == {"slim/pruned": {"params": 3, "rows": [{"flops": 2}]}}
    assert kill.results(place, trains=True, cuts=True) == {"slim/pruned": {"rows": [{}]}}
    (folder / "pruned.pt").write_bytes(b"other")
    assert kill.results(place, trains=False) == {"slim/pruned": None}
