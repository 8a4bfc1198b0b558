"""The page of the surveys' methods names what there is: files, settings, rows of benchmarks; nothing is left out."""

from __future__ import annotations

import re

import pytest
from tiny import ROOT, script

from yolo_slim.compress import METHODS
from yolo_slim.distill import LOSSES
from yolo_slim.importance import CRITERIA

PAGE = (ROOT / "docs" / "surveys.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| method", "| ---"))]
ROWS = [pytest.param([c.strip() for c in line.strip("|").split(" | ")], id=line[2:50]) for line in LINES]


@pytest.mark.parametrize("cells", ROWS)
def test_what_a_row_names_is_there(cells: list[str]) -> None:
    method, here, row = cells
    assert method and here and row
    for name in re.findall(r"`((?:\w+/)*\w+\.py)\b", f"{here} {row}"):
        homes = (ROOT, ROOT / "yolo_slim", ROOT / "yolo_slim" / "distill")
        assert any((home / name).is_file() for home in homes), name
    for folder in re.findall(r"`(\w+/(?:\w+/)*)`", here):
        assert (ROOT / "yolo_slim" / folder).is_dir(), folder
    assert row != "–" or "not here" in here or method == "Neurons", "a row of a benchmark, or why there is none"


@pytest.mark.parametrize("cells", ROWS)
def test_rows_of_benchmarks_are_called_so(cells: list[str]) -> None:
    compress, peers, distill, evidence = map(
        script, ("bench_compress", "bench_peers", "bench_distill", "bench_evidence")
    )
    known = {*compress.BY_STRENGTH, *compress.IN_TRAINING, *compress.BY_STEPS, *compress.AS_THEY_ARE}
    for which, told in re.findall(r"([a-z]+): (.*?)(?=; [a-z]+: |$)", cells[2]):
        if which == "compress" and "packed" not in told:
            assert {*told.split("; ")} <= known, told
        elif which in ("peers", "distill"):
            names = re.findall(r"`(\w+)`", told)
            assert {*names} <= {"peers": peers, "distill": distill}[which].RECIPES.keys(), told
        elif which == "evidence":
            assert any(told.split(";")[0] in way for way in evidence.WAYS), told


def test_nothing_that_is_here_is_left_out() -> None:
    named = {*re.findall(r"[`= \[]([a-z_0-9]+)[`:,\]]", PAGE)}
    assert {*METHODS} <= named
    assert {*CRITERIA} <= named
    assert {*LOSSES} - {"channels", "scored"} <= named, "those two are no survey's"
