"""examples/: each notebook runs from its first cell to its last, small, and offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import ROOT
from ultralytics.utils import DEFAULT_CFG

SMALL = {"EPOCHS": 1, "TUNING": 1, "IMGSZ": 64, "TRAIN": 8, "CRITERION": "l1"}
"""What the cell that is tagged `parameters` is told instead."""


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda file: file.stem)
def test_it_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DEFAULT_CFG, "plots", False)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads(file.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells), "saved without what it once printed"
    place: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number} of {file.name}", "exec"), place)
        if "parameters" in cell["metadata"].get("tags", []):
            assert place.keys() >= SMALL.keys()
            place |= SMALL
    assert (tmp_path / "cut.pt").exists()
