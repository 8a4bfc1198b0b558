"""What is said of a run: kept in its folder, and on the terminal unless nobody wants to see it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from tiny import PX, contents, refused, run, run_alone
from ultralytics.utils import LOGGER

from yolo_slim import terminal
from yolo_slim.console import Terminal
from yolo_slim.runs import LOG

pytest_plugins = ["tiny"]


@pytest.fixture
def words(original: Path, data: Path, tmp_path: Path) -> list[str]:
    return [
        f"model={original}",
        f"data={data}",
        f"imgsz={PX}",
        f"runs={tmp_path / 'runs'}",
        "prune.calib_images=4",
        "prune.ratio=0.3",
        "finetune.distill=null",
        "finetune.epochs=1",
    ]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "slim" / LOG


def test_each_command_adds_what_it_said(words: list[str], log: Path) -> None:
    answer = run("prune", *words)
    assert answer.code == 0, answer.err
    first = log.read_text(encoding="utf-8")
    ours = [line for line in answer.out.splitlines() if line.startswith(("original:", "plan:", "pruned:"))]
    assert len(ours) == 3 and all(line in first.splitlines() for line in ours)
    assert "yolo-slim " in first and "done in " in first and "\x1b" not in first
    assert run("finetune", *words).code == 0
    second = log.read_text(encoding="utf-8")
    assert second.startswith(first) and second.count("done in ") == 2
    assert "Starting training for 1 epochs" in second and "box_loss" in second, "Ultralytics' lines are in it"
    assert "\x1b" not in second and "\r" not in second


def test_a_command_that_does_nothing_adds_nothing(words: list[str], log: Path, tmp_path: Path) -> None:
    assert run("prune", *words).code == 0
    before = contents(tmp_path)
    assert run("prune", *words).code == 0
    refused(run("prune", *words, "imgsz=96"), "another experiment")
    assert contents(tmp_path) == before


def test_a_refusal_before_anything_is_done_leaves_no_log(words: list[str], tmp_path: Path) -> None:
    refused(run("prune", *words, "prune.target.flops=0.5"), "choose one")
    refused(run("run", *words, "prune.exclude=[nothing]", "sparse_train.epochs=0"), "nothing")
    assert contents(tmp_path) == {}


def test_what_goes_wrong_is_in_the_log(words: list[str], log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yolo_slim.errors import SlimError
    from yolo_slim.stages import cut

    def broken(*anything: object, **more: object) -> None:
        raise SlimError("the proof fails: [bold] and all")

    monkeypatch.setattr(cut, "cut_to_plan", broken)
    refused(run("prune", *words), "the proof fails")
    assert "ended: the proof fails: [bold] and all" in log.read_text(encoding="utf-8")


def test_nothing_of_the_log_stays_behind(words: list[str]) -> None:
    handlers = list(LOGGER.handlers)
    assert run("prune", *words).code == 0
    assert LOGGER.handlers == handlers and Terminal.also is None


def test_quiet_prints_nothing_and_logs_all(words: list[str], log: Path) -> None:
    answer = run("prune", *words, "--quiet")
    assert (answer.code, answer.out) == (0, "")
    assert "pruned: " in log.read_text(encoding="utf-8")


def test_quiet_tells_what_is_wrong(words: list[str]) -> None:
    refused(run("prune", *words, "--quiet", "imgsz=9"), "imgsz")


def test_quiet_from_the_first_import_on(words: list[str], log: Path, tmp_path: Path) -> None:
    """Ultralytics' log takes the stream that there is when it is imported."""
    assert run("prune", *words).code == 0
    answer = run_alone("--quiet", "finetune", *words, cwd=tmp_path)
    assert (answer.code, answer.out) == (0, ""), answer
    assert "box_loss" in log.read_text(encoding="utf-8")


def test_the_log_of_ultralytics_speaks_again_afterwards(capsys: pytest.CaptureFixture) -> None:
    handler = logging.StreamHandler(sys.stdout)
    LOGGER.addHandler(handler)
    try:
        with terminal.silent():
            LOGGER.warning("unheard")
            print("unheard")
        LOGGER.warning("heard")
    finally:
        LOGGER.removeHandler(handler)
    said = capsys.readouterr().out
    assert "heard" in said and "unheard" not in said


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_message_on_a_terminal_breaks_between_words(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen:
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(columns))
    message = "yolo-slim: a.yaml:\n  prune.ration: " + "unknown setting; did you mean prune.ratio? " * 3
    shown = terminal.wrapped(message, Screen())  # type: ignore[arg-type]
    assert all(len(line) <= columns for line in shown.splitlines())
    assert shown.split() == message.split()
    assert shown.splitlines()[1].startswith("  prune.ration")


def test_a_message_that_goes_elsewhere_is_left_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file:
        assert terminal.wrapped("word " * 50, file) == "word " * 50
