"""Timed in turn: shares of the original's time, while the machine is at its best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from yolo_slim.timing import quiet
from yolo_slim.timing.beside import Comparator, Comparison, Started
from yolo_slim.timing.quiet import quartiles


@pytest.fixture(autouse=True)
def retakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users have it; other tests time nothing again (see conftest.py)."""
    monkeypatch.setattr(quiet, "RETAKES", 2)


def by(now: Callable[[Any], Comparison], pace: Callable[[], tuple[float, ...]] = lambda: (60.0, 6.0)) -> Comparator:
    """By which comparisons are made up."""

    class MadeUp(Comparator):
        def now(self, slim: Any) -> Comparison:
            found = now(slim)
            self.machine.seen.append(found.paces)
            return found

    made = MadeUp(None, None, lambda detector, folder: (lambda: None, dict), 3)
    made.machine.pace = pace
    return made


def at(whole: float, share: float = 0.5, narrow: float = 6.0) -> Comparison:
    """While the original takes so long."""
    return Comparison((whole, narrow), share)


def test_a_time_is_a_quarter_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that goes at two speeds, the better one."""
    ms = {"whole": [40.0, 40.0, 90.0, 90.0, 90.0], "slim": [10.0, 10.0, 30.0, 30.0, 30.0]}
    monkeypatch.setattr(quiet.measure, "interleaved", lambda ready, runs, **_: ms)
    assert quartiles(dict.fromkeys(ms), 5) == (40.0, 10.0)


def test_all_three_are_timed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started, asked = [], []

    def start(detector: str, folder: Path) -> Started:
        assert folder.is_dir() and not list(folder.iterdir())
        (folder / "timed.pt").touch()
        started.append(detector)
        return lambda: None, lambda: {"conv": 2.0}

    ms = {"whole": [40.0], "narrow": [4.0], "slim": [20.0]}
    monkeypatch.setattr(quiet.measure, "interleaved", lambda ready, runs, **_: asked.append((list(ready), runs)) or ms)
    timer = Comparator("original", "narrow", start, 7, layers=True)
    assert timer.now("slim") == Comparison((40.0, 4.0), 0.5, {"conv": 2.0})
    assert started == ["original", "narrow", "slim"] and timer.machine.seen == [(40.0, 4.0)]
    assert timer.machine.pace() == (40.0, 4.0)
    assert asked == [(["whole", "narrow", "slim"], 7), (["whole", "narrow"], 5)]


@pytest.mark.parametrize(
    ("whiles", "kept", "why"),
    [
        ([[60], [61], [59]], [60, 61, 59], "a steady machine: each once"),
        ([[60], [70, 61], [59]], [60, 61, 59], "slow once: again"),
        ([[60], [70, 80, 61], [59]], [60, 61, 59], "and once more"),
        ([[60], [70, 80, 69], [59]], [60, 69, 59], "not for ever: the fastest"),
        ([[80, 60], [80, 61], [60], [80, 81, 82]], [60, 61, 60, 80], "slow for most of the time"),
        ([[70], [71], [72]], [70, 71, 72], "what is the best is told by what was seen"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_slow_while_does_not_count(whiles: list[list[float]], kept: list[float], why: str) -> None:
    left = [iter(each) for each in whiles]
    timer = by(lambda i: at(next(left[i])))
    assert [t.whole for t in timer.many([lambda i=i: i for i in range(len(whiles))], "")] == kept, why


def test_neighbours_do_not_share_a_while() -> None:
    asked: list[int] = []
    found = by(lambda i: asked.append(i) or at(60, i / 9)).many([lambda i=i: i for i in range(9)], "")
    assert asked != sorted(asked) and sorted(asked) == list(range(9))
    assert [t.share for t in found] == [i / 9 for i in range(9)]


def test_a_while_is_slow_where_the_narrow_one_says_so() -> None:
    """The original hardly notices."""
    left = [iter([at(60, 0.15)]), iter([at(61, 0.19, 7.5), at(61, 0.16)]), iter([at(60, 0.15)])]
    found = by(lambda i: next(left[i])).many([lambda i=i: i for i in range(3)], "")
    assert [t.share for t in found] == [0.15, 0.16, 0.15]


def test_one_is_timed_again_where_the_machine_was_slower_than_before(capsys: pytest.CaptureFixture[str]) -> None:
    left = iter([at(70.0, 0.9), at(69.0, 0.8), at(60.5, 0.7), at(60.0, 0.6), at(60.0, 0.5, 9.0), at(60.0, 0.4)])
    timer = by(lambda slim: next(left))
    timer.machine.seen = [(60.0, 6.0)] * 9
    assert timer.one(None).share == 0.7
    shown = " ".join(capsys.readouterr().out.split())
    assert "the original takes 70 ms, 60 at best; a narrow cut 6 ms, 6 at best" in shown
    assert timer.one(None).share == 0.6, "a calm while is enough"
    assert timer.one(None).share == 0.4


def test_a_machine_that_is_slow_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(quiet.time, "sleep", slept.append)
    monkeypatch.setattr(quiet, "PAUSE", 5)
    paces: Iterator[tuple[float, ...]] = iter([(70.0, 6.0), (60.0, 9.0), (61.0, 6.1)])
    left = iter([at(70.0, 0.9), at(60.0, 0.7)])
    timer = by(lambda slim: next(left), lambda: next(paces))
    timer.machine.seen = [(60.0, 6.0)] * 9
    assert timer.one(None).share == 0.7 and slept == [5, 5] and next(paces, None) is None

    slept.clear()
    timer = by(lambda slim: at(70.0), lambda: (70.0, 6.0))
    timer.machine.seen = [(60.0, 6.0)] * 99
    timer.one(None)
    assert slept == [5] * quiet.PAUSES, "of both times that it is timed again"


def test_the_pace_is_known_before_the_first() -> None:
    left = iter([at(70.0, 0.9), at(60.0, 0.5)])
    assert by(lambda slim: next(left)).one(None).share == 0.5
