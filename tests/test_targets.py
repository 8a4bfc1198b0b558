"""A cut for a latency target is timed, and chosen again where the table was off: with a table and a clock made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tiny import PX
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels import Selection
from yolo_slim.channels.costs import Budget
from yolo_slim.config import Target, read_config
from yolo_slim.errors import SlimError
from yolo_slim.pruning.choose import findings
from yolo_slim.timing import quiet
from yolo_slim.timing.targets import aimed, as_fast, said

pytest_plugins = ["tiny"]

WHOLE_MS = 20.0


class Table:
    """Chooses what it foretells exactly; down to a least share."""

    def __init__(self, least: float = 0.0) -> None:
        self.least, self.wanted = least, []

    def __call__(self, target: Mapping[str, float]) -> Selection:
        self.wanted.append(dict(target))
        share = min([target[n] / one for n, one in (("latency", 1.0), ("latency_ms", WHOLE_MS)) if n in target])
        if share < self.least:
            raise SlimError("the target cannot be met")
        told = {"latency": share, "latency_ms": WHOLE_MS * share, "flops": share}
        return Selection(np.ones(1, bool), Budget(1, 1), Budget(1, 1), {"channels": 1.0, **target}, told)


def truly(slower: float):
    """A clock by which cuts are so much slower than the table tells."""
    return lambda found: {name: slower * found.achieved[name] for name in ("latency", "latency_ms")}


@pytest.mark.parametrize(
    ("target", "slower", "wanted"),
    [
        pytest.param({"latency": 0.5}, 1.04, [0.5], id="close enough"),
        pytest.param({"latency": 0.5}, 1.25, [0.5, 0.4], id="slower than told: more goes"),
        pytest.param({"latency": 0.5}, 0.8, [0.5, 0.625], id="faster than told: less goes"),
        pytest.param({"latency_ms": 10.0}, 1.25, [10.0, 8.0], id="in milliseconds"),
    ],
)
def test_what_is_timed_comes_to_what_was_asked(target: dict, slower: float, wanted: list[float]) -> None:
    table, ((name, asked),) = Table(), target.items()
    found = as_fast(table, target, truly(slower))
    assert [w[name] for w in table.wanted] == pytest.approx(wanted)
    assert found.asked == {"channels": 1.0, **target}, "what was asked for, not what the table was asked"
    assert found.measured[name] == pytest.approx(asked, rel=0.05)
    assert found.achieved[name] == pytest.approx(wanted[-1]), "beside it, what was foretold"


def test_other_targets_stay_as_they_are() -> None:
    table = Table()
    as_fast(table, {"latency": 0.5, "flops": 0.6}, truly(1.25))
    assert [w["flops"] for w in table.wanted] == [0.6, 0.6]


def test_it_ends_and_keeps_the_closest() -> None:
    times = iter([1.3, 1.5, 1.9])
    table = Table()
    found = as_fast(table, {"latency": 0.6}, lambda f: {n: next(times) * f.achieved[n] for n in ("latency",)})
    assert len(table.wanted) == 3
    assert found.achieved["latency"] == pytest.approx(0.6 / 1.3), "it was off by 15 %, the others by 30 and 27"


def test_out_of_reach_keeps_what_there_was_and_says_it() -> None:
    found = as_fast(Table(0.45), {"latency": 0.5}, truly(1.25))
    assert found.measured["latency"] == pytest.approx(0.625)
    lines = said(found, "openvino")
    assert lines[0] == "measured in openvino: latency x0.625 (predicted x0.500), 12.50 ms (predicted 10.00 ms)"
    assert len(lines) == 2 and "slower than asked for, x0.500" in lines[1] and "latency.samples" in lines[1]


def test_what_was_never_in_reach_is_refused() -> None:
    with pytest.raises(SlimError, match="cannot be met"):
        as_fast(Table(0.6), {"latency": 0.5}, truly(1.0))


def test_what_cannot_be_timed_is_as_it_was_chosen() -> None:
    assert as_fast(Table(), {"latency": 0.5}, lambda found: None).measured == {}


def test_later_choices_know_what_was_measured() -> None:
    found = as_fast(Table(), {"latency": 0.5}, truly(1.25))
    assert aimed(Target(latency=0.5, flops=0.6), found) == Target(latency=0.4, flops=0.6)


def test_nothing_is_said_where_nothing_was_timed() -> None:
    assert said(Table()({"latency": 0.5}), "torch") == []


def test_both_are_started_and_timed_in_pairs(loaded: nn.Module, slim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def interleaved(ready, runs: int, **_) -> dict[str, list[float]]:
        [run() for run in ready.values()]
        ran.append((*ready, runs))
        return {"whole": [8.0], "narrow": [1.0], "slim": [6.0]}

    monkeypatch.setattr(quiet.measure, "interleaved", interleaved)
    monkeypatch.setattr("yolo_slim.pruning.choose.layer_table", lambda *_, **__: None)
    words = ["model=x.pt", f"imgsz={PX}", "latency.runtime=openvino", "latency.threads=1", "latency.runs=7"]
    assert findings(read_config(None, [*words, "prune.target.flops=0.5"]), loaded).timed is None
    timed = findings(read_config(None, [*words, "prune.target.latency_ms=3"]), loaded).timed
    assert timed(checkpoint.load(slim)) == {"latency": 0.75, "latency_ms": 6.0}
    assert ran[-1] == ("whole", "narrow", "slim", 7)
