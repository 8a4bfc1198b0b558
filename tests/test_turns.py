"""Timed in turn: shares of the original's time, in whiles in which the machine is at its best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from yolo_slim.stages import turns
from yolo_slim.stages.turns import Timer, Turn, compared


def by(turn: Callable[[Any], Turn]) -> Timer:
    """A timer by which turns are made up."""

    class MadeUp(Timer):
        def turn(self, slim: Any) -> Turn:
            found = turn(slim)
            self.seen.append(found.whole)
            return found

    return MadeUp(None, lambda detector, folder: (lambda: None, dict), 3)


def test_a_share_is_one_of_quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that goes at two speeds, the better one."""
    ms = {"whole": [40.0, 40.0, 90.0, 90.0, 90.0], "slim": [10.0, 10.0, 30.0, 30.0, 30.0]}
    asked = []
    monkeypatch.setattr(turns.measure, "in_turn", lambda ready, runs, **_: asked.append((list(ready), runs)) or ms)
    assert compared(lambda: None, lambda: None, 5) == (40.0, 0.25)
    assert asked == [(["whole", "slim"], 5)]


@pytest.mark.parametrize(
    ("whiles", "kept", "why"),
    [
        ([[60], [61], [59]], [60, 61, 59], "a steady machine: each once"),
        ([[60], [70, 61], [59]], [60, 61, 59], "slow once: again"),
        ([[60], [70, 80, 61], [59]], [60, 61, 59], "and once more"),
        ([[60], [70, 80, 66], [59]], [60, 66, 59], "not for ever: the fastest"),
        ([[70, 60], [70, 61], [60], [70, 71, 72]], [60, 61, 60, 70], "slow for most of the time"),
        ([[70], [71], [72]], [70, 71, 72], "what is the best is told by what was seen"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_slow_while_does_not_count(whiles: list[list[float]], kept: list[float], why: str) -> None:
    left = [iter(each) for each in whiles]
    timer = by(lambda i: Turn(next(left[i]), 0.5))
    assert [t.whole for t in timer.many([lambda i=i: i for i in range(len(whiles))], "")] == kept, why


def test_one_is_timed_again_where_the_original_was_slower_than_before(capsys: pytest.CaptureFixture[str]) -> None:
    left = iter([Turn(70.0, 0.9), Turn(66.0, 0.8), Turn(60.5, 0.7), Turn(60.0, 0.6)])
    timer = by(lambda slim: next(left))
    timer.seen = [60.0] * 9
    assert timer.one(None).share == 0.7
    assert "the original takes 70 ms, 60 before" in capsys.readouterr().out
    assert timer.one(None).share == 0.6, "a calm while is enough"


def test_what_the_original_takes_is_known_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "compared", lambda whole, slim, runs: (60.0, 1.0))
    left = iter([Turn(70.0, 0.9), Turn(60.0, 0.5)])
    assert by(lambda slim: next(left)).one(None).share == 0.5
