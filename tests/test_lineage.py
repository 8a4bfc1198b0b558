"""What a report tells, and what a stage goes by: only stages that build on one another, by content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import PX, refused, run

from yolo_slim import record
from yolo_slim.record import Record
from yolo_slim.runs.lineage import story

pytest_plugins = ["tiny"]


def made(runs: Path, stage: str, content: str, *of: str) -> None:
    """A finished stage with this content, made from those contents; the first is what was trained or cut."""
    folder = runs / stage
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.pt").write_text(content)
    total = record.sha256(folder / "weights.pt")
    sources = {}
    for i, text in enumerate(of):
        (folder / "source").write_text(text)
        sources[f"input {i}"] = record.sha256(folder / "source")
    outputs, sums = {"weights": "weights.pt"}, {"weights": total}
    record.write(folder, Record(stage, {}, sources, outputs, sums, {}, 1.0, record.versions()))


STORIES = {
    "one after the other": (
        [("original", "a"), ("sparse", "b", "a"), ("pruned", "c", "b"), ("finetuned", "d", "c", "a")],
        ["original", "sparse", "pruned", "finetuned"],
        {},
    ),
    "fine-tuned from an earlier cut, with the original as its teacher": (
        [("original", "a"), ("pruned", "c2", "a"), ("finetuned", "d", "c1", "a")],
        ["original", "pruned"],
        {"finetuned": "other weights than those now in"},
    ),
    "another sparse training since": (
        [("original", "a"), ("sparse", "b2", "a"), ("pruned", "c", "b1"), ("finetuned", "d", "c", "a")],
        ["original", "sparse"],
        {"pruned": "other weights than those now in", "finetuned": "made from pruned, which is itself made from other"},
    ),
    "pruned without the sparse training beside it": (
        [("original", "a"), ("sparse", "b", "a"), ("pruned", "c", "a"), ("finetuned", "d", "c", "a")],
        ["original", "pruned", "finetuned"],
        {"sparse": "pruned was not made from it"},
    ),
    "another original": (
        [("original", "a2"), ("sparse", "b", "a1"), ("pruned", "c", "b")],
        ["original"],
        {"sparse": "other weights than those now in", "pruned": "made from sparse, which is itself made from other"},
    ),
    "sparse training that changed nothing": (
        [("original", "a"), ("sparse", "a", "a"), ("pruned", "c", "a")],
        ["original", "sparse", "pruned"],
        {},
    ),
    "no original any more": ([("pruned", "c", "a"), ("finetuned", "d", "c")], ["pruned", "finetuned"], {}),
    "nothing": ([], [], {}),
}


@pytest.mark.parametrize(("stages", "told", "left_out"), STORIES.values(), ids=STORIES)
def test_a_story(tmp_path: Path, stages: list[tuple[str, ...]], told: list[str], left_out: dict[str, str]) -> None:
    for stage in stages:
        made(tmp_path, *stage)
    found, others = story(tmp_path)
    assert list(found) == told
    assert others.keys() == left_out.keys()
    assert all(left_out[stage] in why for stage, why in others.items())


def test_a_stage_whose_output_was_changed_is_none(tmp_path: Path) -> None:
    for stage in STORIES["one after the other"][0]:
        made(tmp_path, *stage)
    (tmp_path / "pruned" / "weights.pt").write_text("half")
    found, others = story(tmp_path)
    assert (list(found), list(others)) == (["original", "sparse"], ["finetuned"])


@pytest.fixture(scope="module")
def finished(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a run that was pruned and fine-tuned."""
    runs = tmp_path_factory.mktemp("lineage") / "runs"
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "finetune.epochs=1"]
    words += ["prune.ratio=0.3", "prune.criterion=l1", "finetune.train={workers: 0, batch: 8}", "report.latency_runs=1"]
    assert run("prune", *words).code == run("finetune", *words).code == 0
    return words


@pytest.fixture
def words(finished: list[str], tmp_path: Path) -> list[str]:
    """The same of a copy of it."""
    (runs,) = [Path(word[5:]) for word in finished if word.startswith("runs=")]
    shutil.copytree(runs, tmp_path / "runs")
    return [word if not word.startswith("runs=") else f"runs={tmp_path / 'runs'}" for word in finished]


def test_a_report_tells_no_two_cuts_as_one_story(words: list[str], tmp_path: Path) -> None:
    """The teacher is the original of both: that makes the fine-tuned detector no child of the new cut."""
    again = run("prune", *words, "prune.ratio=0.5")
    assert again.code == 0 and "pruned: done again: ratio 0.3 -> 0.5" in again.out
    answer = run("report", *words, "prune.ratio=0.5")
    assert answer.code == 0, answer
    done = record.read(tmp_path / "runs" / "slim" / "report")
    assert [row["stage"] for row in done.metrics["rows"]] == ["original", "pruned"]
    assert "finetuned: left out, made from other weights than those now in" in answer.out
    for page in ("report.md", "report.html"):
        text = (tmp_path / "runs" / "slim" / "report" / page).read_text()
        assert "Left out, finetuned" in text and "made from other weights than those now in" in text


@pytest.mark.parametrize("damage", [True, False], ids=["a byte", "gone"])
def test_what_is_damaged_is_not_passed_over(words: list[str], tmp_path: Path, damage: bool) -> None:
    """The stage before it would be exported, and reported on, in its place."""
    file = tmp_path / "runs" / "slim" / "finetuned" / "slim.pt"
    content = file.read_bytes()
    file.write_bytes(content[:-1]) if damage else file.unlink()
    for stage in ("export", "report", "bench"):
        refused(run(stage, *words), file, "damaged, or replaced" if damage else "is gone", f"delete {file.parent}")
        assert not (tmp_path / "runs" / "slim" / stage).exists()
    assert run("finetune", *words).code == run("report", *words).code == 0


def test_fine_tuning_goes_by_no_cut_of_another_detector(words: list[str], tmp_path: Path) -> None:
    """The original was made anew meanwhile: its cut is no teacher's student any more."""
    folder = tmp_path / "runs" / "slim" / "original"
    before = record.read(folder)
    shutil.copy(tmp_path / "runs" / "slim" / "pruned" / "pruned.pt", folder / "original.pt")
    sums = {"weights": record.sha256(folder / "original.pt")}
    record.write(folder, Record("original", {}, before.inputs, before.outputs, sums, {}, 1.0, record.versions()))
    refused(run("finetune", *words, "finetune.epochs=2"), "nothing pruned yet", "yolo-slim prune")


def test_a_bench_without_its_original_is_refused(words: list[str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "runs" / "slim" / "original")
    refused(run("bench", *words, "bench.runtimes=[torch]"), "nothing slim")
