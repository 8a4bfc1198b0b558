"""What is timed counts where the machine is quiet; else all of it is timed again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from yolo_slim.timing import quiet
from yolo_slim.timing.quiet import ENOUGH, when_quiet

Times = dict[str, list[float]]
RUNS = 50


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Times]], list[int]]:
    """Makes up what each pass over all comes to; the pauses that were left whenever the machine was waited for."""

    def made(times: list[Times]) -> list[int]:
        left, waits = iter(times), []
        monkeypatch.setattr(quiet, "RETAKES", 2)
        monkeypatch.setattr(quiet.measure, "interleaved", lambda ready, runs, **_: next(left))
        monkeypatch.setattr(quiet.Machine, "wait", lambda machine, pauses: waits.append(pauses) or pauses - 1)
        return waits

    return made


READY = dict.fromkeys(("original", "pruned", "slim"), lambda: None)


def of(original: float, slim: float, quick: int = 0) -> Times:
    """Fifty runs of each, the first `quick` of them half as long."""
    halves = [0.5] * quick + [1.0] * (RUNS - quick)
    return {"original": [original * h for h in halves], "pruned": [7.0] * RUNS, "slim": [slim * h for h in halves]}


@pytest.mark.parametrize(
    ("times", "kept", "waited"),
    [
        pytest.param([of(60, 6)], 0, [], id="quiet: once"),
        pytest.param([of(60, 6, quick=10), of(30, 3)], 1, [12], id="busy for most of the time: again"),
        pytest.param([of(60, 6, quick=10), of(70, 7), of(31, 3)], 2, [12, 11], id="and once more"),
        pytest.param([of(60, 6, quick=10), of(70, 7), of(65, 6.5)], 0, [12, 11], id="not for ever: the best of them"),
    ],
)
def test_a_busy_machine_is_waited_for(
    passes: Callable, capsys: pytest.CaptureFixture[str], times: list[Times], kept: int, waited: list[int]
) -> None:
    waits = passes(times)
    assert when_quiet(READY, RUNS) is times[kept] and waits == waited
    assert ("the machine is slow" in capsys.readouterr().out) == bool(waited)


def test_a_few_runs_are_taken_as_they_come(passes: Callable) -> None:
    times = of(60, 6, quick=10)
    waits = passes([times])
    assert when_quiet(READY, ENOUGH - 1) is times and waits == []


def test_one_is_its_own_probe(passes: Callable) -> None:
    times = {"original": [60.0] * RUNS}
    passes([times])
    assert when_quiet({"original": lambda: None}, RUNS) is times
