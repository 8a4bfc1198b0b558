"""How far a long step is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.progress import Progress

from yolo_slim import console as module
from yolo_slim.console import Terminal, progress, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed; a test sets them."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal is sent."""
    shown = io.StringIO()
    monkeypatch.setattr(module, "console", Terminal(file=shown, force_terminal=True, width=80, highlight=False))
    return shown


def test_lines_where_there_is_no_terminal(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    for number in track(range(10), "points"):
        clock[0] = 20.0 * number
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "points: 3 of 10, 30%, about 2 min left"
    assert [line.split(":")[1].split(",")[0] for line in lines] == [" 3 of 10", " 5 of 10", " 7 of 10", " 9 of 10"]


def test_nothing_of_what_is_quick(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""


def test_words_and_what_has_no_length(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    clock[0] = 0.0
    with progress("search [x]") as at:
        clock[0] = 40.0
        at(0.5, 1.0, "trial 3, distance 0.1")
        clock[0] = 80.0
        at(7)
    assert capsys.readouterr().out.splitlines() == [
        "search [x]: trial 3, distance 0.1, 50%, about 40 s left",
        "search [x]: 7",
    ]
    assert list(track(iter("ab"), "letters", 2)) == ["a", "b"]


def test_a_bar_on_a_terminal(screen: io.StringIO) -> None:
    with progress("least squares, layer") as at:
        at(3, 12)
    assert "least squares, layer" in screen.getvalue() and "3/12" in screen.getvalue()
    assert module._bars == []


def test_one_bar_at_a_time(screen: io.StringIO) -> None:
    """Rich of some versions refuses a second one."""
    for _ in track(range(2), "outer"):
        assert [type(bar) for bar in module._bars] == [Progress]
        assert list(track(range(3), "inner")) == [0, 1, 2]
    assert "inner" not in screen.getvalue() and module._bars == []


def test_a_bar_goes_when_its_step_fails(screen: io.StringIO) -> None:
    with pytest.raises(ValueError, match="no"), progress("step"):
        raise ValueError("no")
    assert module._bars == []
