"""--dry-run: what would be done is told, and nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import PX, contents, refused, run

from yolo_slim.console import duration

pytest_plugins = ["tiny"]

QUICK = ("prune.calib_images=4", "prune.ratio=0.3", "prune.criterion=l1", "export.formats=[]", "bench=null")


@pytest.fixture
def words(original: Path, data: Path, tmp_path: Path) -> list[str]:
    return [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", *QUICK]


def listed(out: str) -> list[str]:
    """The stages that are told, in order."""
    rows = out.partition("what would be done")[2].partition("\nAbout ")[0].splitlines()[2:]
    return [row.split()[0] for row in rows if row[1:2].strip()]


def test_all_stages_are_told_and_nothing_is_done(words: list[str], tmp_path: Path) -> None:
    answer = run("run", *words, "sparse_train.epochs=0", "finetune.epochs=3", "--dry-run")
    assert answer.code == 0, answer.err
    assert listed(answer.out) == ["original", "plan", "pruned", "finetuned", "report"]
    assert "3 epochs over 8 images, 3 steps" in " ".join(answer.out.split())
    assert "Nothing was done" in answer.out
    assert contents(tmp_path) == {} and not (tmp_path / "runs").exists()


def test_a_landing_is_told_with_the_epochs_that_it_needs(words: list[str]) -> None:
    landing = ("sparse_train.mode=targeted", "sparse_train.epochs=150", "sparse_train.landing=0.5")
    told = " ".join(run("sparse-train", *words, *landing, "--dry-run").out.split())
    assert "150 epochs (targeted) over 8 images, 150 steps; a landing" in told
    assert "needs 120 steps, 120 epochs" in told


def test_what_may_be_landed_is_tried_first(words: list[str]) -> None:
    answer = run("run", *words, "sparse_train.epochs=150", "--dry-run")
    assert listed(answer.out) == ["original", "plan", "trial", "sparse", "pruned", "finetuned", "report"]


def test_too_short_a_landing_is_refused_as_without_it(words: list[str]) -> None:
    refused(run("run", *words, "sparse_train.mode=targeted", "--dry-run"), "a landing needs 120")


def test_what_is_done_is_not_to_be_done(words: list[str], tmp_path: Path) -> None:
    assert run("prune", *words).code == 0
    before = contents(tmp_path)
    assert "all is done" in run("prune", *words, "--dry-run").out
    changed = run("prune", *words, "prune.seed=1", "--dry-run").out
    assert "plan would be done again: " in changed and "seed" in changed
    assert listed(changed) == ["plan", "pruned"] and "done before" in changed
    assert contents(tmp_path) == before


def test_another_experiment_is_looked_at_and_kept(words: list[str], data: Path, tmp_path: Path) -> None:
    assert run("prune", *words).code == 0
    before = contents(tmp_path)
    refused(run("prune", *words, "imgsz=96", "--dry-run"), "another experiment")
    answer = run("prune", *words, "imgsz=96", "overwrite=true", "--dry-run")
    assert answer.code == 0 and listed(answer.out) == ["original", "plan", "pruned"]
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("stage", "more", "stages"),
    [
        ("plan", [], ["original", "plan"]),
        ("plan", ["compress=[{low_rank: {}}, prune]"], ["original", "reshaped", "plan"]),
        ("sweep", ["sweep.criteria=[l1,random]", "sweep.flops=[0.8,0.5]"], ["original", "sweep"]),
        ("sensitivity", [], ["original", "sensitivity"]),
        ("compress", ["compress=[{weights: {}}]"], ["original", "compressed"]),
    ],
)
def test_each_command_tells_its_own(words: list[str], stage: str, more: list[str], stages: list[str]) -> None:
    answer = run(stage, *words, *more, "--dry-run")
    assert answer.code == 0, answer.err
    assert listed(answer.out) == stages
    if stage == "sweep":
        assert "4 cuts" in answer.out


def test_what_has_nothing_to_begin_with_says_so(words: list[str]) -> None:
    refused(run("finetune", *words, "--dry-run"), "nothing pruned yet")


@pytest.mark.parametrize("stage", ["inspect", "pack"])
def test_what_is_done_at_once_is_not_foreseen(original: Path, stage: str) -> None:
    refused(run(stage, f"model={original}", "--dry-run"), "--dry-run", "done at once")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min"), (90_000, "25 h")],
)
def test_durations_are_told_as_one_says_them(seconds: float, told: str) -> None:
    assert duration(seconds) == told
