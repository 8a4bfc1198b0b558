"""`run`: every stage in its order, and a report even where a late one fails."""

from __future__ import annotations

import pytest

from yolo_slim.config import read_config
from yolo_slim.errors import SlimError
from yolo_slim.stages.run import run

STAGES = ["sparse_train", "prune_stage", "finetune", "export", "bench", "report_stage"]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages in the order in which they are called; none of them does anything."""
    called: list[str] = []
    for name in ("check_run", "check_distill", "check_export"):
        monkeypatch.setattr(f"yolo_slim.stages.run.{name}", lambda config: None)
    monkeypatch.setattr("yolo_slim.stages.run.missing", lambda config: [])
    monkeypatch.setattr("yolo_slim.stages.run.decided", lambda config: config)
    for name in STAGES:
        monkeypatch.setattr(f"yolo_slim.stages.run.{name}", lambda config, name=name: called.append(name))
    return called


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        ([], []),
        (["bench=null"], ["bench"]),
        (["export.formats=[]"], ["export"]),
        (["sparse_train.epochs=0"], ["sparse_train"]),
    ],
)
def test_the_order(words: list[str], left_out: list[str], done: list[str]) -> None:
    run(read_config(None, ["model=x.pt", "data=x.yaml", *words]))
    assert done == [stage for stage in STAGES if stage not in left_out]


@pytest.mark.parametrize("failing", ["export", "bench"])
def test_what_fails_at_the_end_is_reported_and_still_a_failure(
    failing: str, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(config: object) -> None:
        raise SlimError(f"{failing} failed")

    monkeypatch.setattr(f"yolo_slim.stages.run.{failing}", fails)
    with pytest.raises(SlimError, match=f"{failing} failed"):
        run(read_config(None, ["model=x.pt", "data=x.yaml"]))
    assert done[-1] == "report_stage" and done.count("report_stage") == 1
