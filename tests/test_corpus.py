"""Every real checkpoint of tests/corpus loads, is inspected and pruned: benign files refused, 0."""

from pathlib import Path

import pytest
import torch
from tiny import PX, ROOT, run

import yolo_slim

CORPUS = sorted((ROOT / "tests" / "corpus").glob("*.pt"))
each = pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)


def test_the_corpus_is_the_one_its_readme_lists() -> None:
    told = (ROOT / "tests" / "corpus" / "README.md").read_text(encoding="utf-8")
    assert {line.split("`")[1] for line in told.splitlines() if line.startswith("| `")} == {p.name for p in CORPUS}


@each
def test_a_real_checkpoint_loads_and_sees_finite_numbers(path: Path) -> None:
    detector = yolo_slim.load(path)
    with torch.no_grad():
        boxes = detector(torch.rand(1, 3, PX, PX))[0]
    assert boxes.shape[:2] == (1, 4 + 4) and torch.isfinite(boxes).all()


@each
def test_a_real_checkpoint_is_inspected(path: Path) -> None:
    answer = run("inspect", path, f"imgsz={PX}")
    assert (answer.code, answer.err) == (0, "")


@each
def test_a_real_checkpoint_is_pruned(path: Path, tmp_path: Path) -> None:
    """Without data, by l1: a slim detector that loads again."""
    before = yolo_slim.cost(yolo_slim.load(path), PX)
    answer = run("prune", f"model={path}", f"runs={tmp_path}", f"imgsz={PX}", "prune.ratio=0.3", "prune.criterion=l1",
                 "prune.min_channels=1", "prune.round_to=1")  # fmt: skip
    assert answer.code == 0, answer.err
    slim = yolo_slim.load(tmp_path / "slim" / "pruned" / "pruned.pt")
    assert yolo_slim.cost(slim, PX).params < before.params


@pytest.mark.parametrize("name", ["slim-once", "slim-twice"])
def test_the_card_of_a_slim_one_is_read(name: str) -> None:
    answer = run("inspect", ROOT / "tests" / "corpus" / f"{name}.pt", f"imgsz={PX}")
    assert "Made from" in answer.out and "pruned" in answer.out and "Plan: " in answer.out
