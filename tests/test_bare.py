"""Export, bench and report of a slim file that no run has made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import PX, contents, refused, run

import yolo_slim
from yolo_slim import record

pytest_plugins = ["tiny"]

QUICK = ("export.formats=torchscript", "export.images=2", "bench.runtimes=torch", "bench.runs=3")


@pytest.fixture
def words(seeing: Path, data: Path, tmp_path: Path) -> list[str]:
    shutil.copy(seeing, tmp_path / "mine.pt")
    return [f"model={tmp_path / 'mine.pt'}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", *QUICK]


def test_each_in_a_run_called_as_the_file(words: list[str], tmp_path: Path) -> None:
    before = record.sha256(tmp_path / "mine.pt")
    for stage in ("export", "bench", "report"):
        answer = run(stage, *words, "report.latency_runs=1")
        assert answer.code == 0, answer.err
        assert f"goes to {tmp_path / 'runs' / 'mine'}" in answer.out
    folder = tmp_path / "runs" / "mine"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["mine"]
    assert (folder / "export" / "slim.torchscript").is_file()
    timed = json.loads((folder / "bench" / "bench.json").read_text())
    assert [row["stage"] for row in timed["rows"]] == ["slim"]
    assert "original" not in (folder / "bench" / "bench.md").read_text().replace("original, ms", "")
    told = json.loads((folder / "report" / "report.json").read_text())
    assert [row["stage"] for row in told["rows"]] == ["slim"] and told["rows"][0]["params"] > 0
    assert told["rows"][0]["map50_95"] is not None and told["export"]["files"]
    assert "slim" in (folder / "report" / "report.md").read_text()
    assert record.sha256(tmp_path / "mine.pt") == before


def test_done_once_is_done(words: list[str], tmp_path: Path) -> None:
    assert run("bench", *words).code == 0
    before = contents(tmp_path)
    assert "done before" in run("bench", *words).out
    assert contents(tmp_path) == before


def test_beside_the_run_of_another_model(words: list[str], original: Path, data: Path, tmp_path: Path) -> None:
    cut = [f"model={original}", *words[1:], "prune.ratio=0.3", "prune.criterion=l1", "prune.calib_images=4"]
    assert run("prune", *cut, "name=mine").code == 0
    before = contents(tmp_path / "runs" / "mine")
    answer = run("bench", *words)
    assert answer.code == 0 and (tmp_path / "runs" / "mine-2" / "bench").is_dir()
    assert contents(tmp_path / "runs" / "mine") == before
    refused(run("bench", *words, "name=mine"), "another experiment")


def test_a_file_of_a_run_goes_on_with_it(words: list[str], original: Path, tmp_path: Path) -> None:
    cut = [f"model={original}", *words[1:], "prune.ratio=0.3", "prune.criterion=l1", "prune.calib_images=4"]
    assert run("prune", *cut).code == 0
    shutil.copy(tmp_path / "runs" / "slim" / "pruned" / "pruned.pt", tmp_path / "mine.pt")
    answer = run("bench", *words)
    assert answer.code == 0, answer.err
    timed = json.loads((tmp_path / "runs" / "slim" / "bench" / "bench.json").read_text())
    assert [row["stage"] for row in timed["rows"]] == ["original", "slim"]
    assert [p.name for p in (tmp_path / "runs").iterdir() if p.is_dir() and p.name != "latency"] == ["slim"]


@pytest.mark.parametrize("stage", ["export", "bench", "report"])
def test_what_is_not_slim_is_refused(stage: str, words: list[str], original: Path, tmp_path: Path) -> None:
    answer = run(stage, f"model={original}", *words[1:])
    refused(answer, "first")
    assert not (tmp_path / "runs").exists()


def test_without_data_the_file_is_timed_and_reported(words: list[str], tmp_path: Path) -> None:
    words = [word for word in words if not word.startswith("data=")]
    assert run("bench", *words).code == 0
    answer = run("report", *words, "report.latency_runs=1")
    assert answer.code == 0, answer.err
    refused(run("export", *words), "data=path/to/data.yaml")


def test_it_is_fine_tuned_and_what_follows_goes_by_that(words: list[str], tmp_path: Path) -> None:
    answer = run("finetune", *words, "finetune.epochs=1", "finetune.train={batch: 4}")
    assert answer.code == 0, answer.err
    folder = tmp_path / "runs" / "mine"
    tuned = record.read(folder / "finetuned")
    assert tuned.source == record.sha256(tmp_path / "mine.pt") and tuned.details["teacher"] is None
    assert run("bench", *words).code == 0
    assert tuned.sums["weights"] in record.read(folder / "bench").inputs.values()
    assert run("report", *words, "report.latency_runs=1").code == 0
    told = json.loads((folder / "report" / "report.json").read_text())
    assert [row["stage"] for row in told["rows"]] == ["slim", "finetuned"]
    again = run("finetune", *words, "finetune.epochs=1", "finetune.train={batch: 4}")
    assert "done before" in again.out


def test_a_teacher_is_one_that_is_named(words: list[str], original: Path, tmp_path: Path) -> None:
    tune = ["finetune.epochs=1", "finetune.train={batch: 4}", "finetune.distill.features=mimic"]
    refused(run("finetune", *words, *tune), "original")
    answer = run("finetune", *words, *tune, f"finetune.distill.teacher={original}")
    assert answer.code == 0, answer.err
    assert str(original) in record.read(tmp_path / "runs" / "mine" / "finetuned").details["teacher"]


def test_from_python(words: list[str], data: Path, tmp_path: Path) -> None:
    made = yolo_slim.export(
        tmp_path / "mine.pt", data=data, folder=tmp_path / "runs", imgsz=PX, formats=["torchscript"], images=2
    )
    assert made.metrics["files"][0]["error"] is None
    assert (tmp_path / "runs" / "mine" / "export" / "slim.torchscript").is_file()
