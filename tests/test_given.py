"""What the settings leave open comes from the run; the image side else from the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PX, TINY, contents, refused, run

from yolo_slim import checkpoint, record
from yolo_slim.config import Config, read_config
from yolo_slim.runs.given import complete
from yolo_slim.runs.identity import Identity, begin, sum_of

pytest_plugins = ["tiny"]


def trained_at(original: Path, side: Any, path: Path) -> Path:
    """The checkpoint as a training with images of this side leaves it."""
    ckpt = checkpoint.read(original)
    torch.save({**ckpt, "train_args": {**ckpt["train_args"], "imgsz": side, "data": "/somebody/elses.yaml"}}, path)
    return path


def config(runs: Path, *words: str) -> Config:
    return read_config(None, [f"runs={runs}", *words])


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        pytest.param(320, 320, id="as it was trained"),
        pytest.param(300, 320, id="the next that strides divide"),
        pytest.param("big", 640, id="no number"),
        pytest.param(True, 640, id="no number either"),
        pytest.param(-32, 640, id="none at all"),
        pytest.param(2**63, 640, id="beyond all images"),
        pytest.param([320, 640], 640, id="two"),
        pytest.param(None, 640, id="none"),
    ],
)
def test_the_image_side_is_the_checkpoints(original: Path, tmp_path: Path, side: Any, expected: int) -> None:
    model = trained_at(original, side, tmp_path / "best.pt")
    assert complete(config(tmp_path / "runs", f"model={model}")).imgsz == expected


def test_what_is_given_is_taken(original: Path, tmp_path: Path) -> None:
    model = trained_at(original, 320, tmp_path / "best.pt")
    assert complete(config(tmp_path / "runs", f"model={model}", "imgsz=96")).imgsz == 96


def test_a_checkpoints_data_set_is_somebody_elses(original: Path, tmp_path: Path) -> None:
    model = trained_at(original, 320, tmp_path / "best.pt")
    assert complete(config(tmp_path / "runs", f"model={model}")).data is None


def test_a_model_yaml_says_no_side(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert complete(config(tmp_path / "runs", f"model={tmp_path / 'tiny.yaml'}")).imgsz == 640


def test_no_model_and_no_run(tmp_path: Path) -> None:
    for stage in ("prune", "export", "report", "inspect"):
        refused(run(stage, f"runs={tmp_path / 'runs'}"), "model: needed, e.g. model=best.pt", tmp_path / "runs")
    assert contents(tmp_path) == {}


def test_what_a_strangers_run_says_is_checked_as_if_it_had_been_typed(begun: Path, original: Path) -> None:
    content = json.loads((begun / "slim" / "run.json").read_text())
    (begun / "slim" / "run.json").write_text(json.dumps({**content, "imgsz": 65}))
    refused(run("report", f"model={original}", f"runs={begun}"), begun / "slim" / "run.json", "imgsz", "65")


@pytest.fixture
def begun(original: Path, data: Path, tmp_path: Path) -> Path:
    """A runs folder with a run of `original` that says no more than what it is of."""
    folder = tmp_path / "runs" / "slim"
    folder.mkdir(parents=True)
    begin(folder, Identity(str(original), sum_of(str(original)), str(data), sum_of(str(data)), PX))
    return tmp_path / "runs"


def test_all_of_it_may_come_from_the_run(begun: Path, original: Path, data: Path) -> None:
    found = complete(config(begun))
    assert (found.model, found.data, found.imgsz) == (str(original), str(data), PX)


def test_the_run_goes_before_the_checkpoint(begun: Path, original: Path, data: Path) -> None:
    """The fixture's checkpoint says 640; a copy of it elsewhere is the same detector."""
    copy = begun / "elsewhere.pt"
    copy.write_bytes(original.read_bytes())
    for model in (original, copy):
        found = complete(config(begun, f"model={model}"))
        assert (found.model, found.data, found.imgsz) == (str(model), str(data), PX)


def test_a_run_of_another_model_says_nothing(begun: Path, original: Path, tmp_path: Path) -> None:
    model = trained_at(original, 96, tmp_path / "other.pt")
    found = complete(config(begun, f"model={model}"))
    assert (found.data, found.imgsz) == (None, 96)


def test_inspect_looks_at_the_side_that_a_checkpoint_was_trained_at(original: Path, tmp_path: Path) -> None:
    model = trained_at(original, 96, tmp_path / "best.pt")
    answer = run("inspect", model)
    assert answer.code == 0 and f"{model} at 96 px" in answer.out.replace("\n", "")


def test_stages_go_on_as_the_run_began(original: Path, data: Path, tmp_path: Path) -> None:
    """`export model=best.pt` once measured at 640 px what was trained at another side, and said +0.00 points."""
    runs = tmp_path / "runs"
    assert run("prune", f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "prune.ratio=0.3").code == 0
    more = [f"runs={runs}", "export.formats=[torchscript]", "export.images=1"]
    assert run("export", f"model={original}", *more).code == 0
    done = record.read(runs / "slim" / "export")
    assert done.settings["imgsz"] == PX
    assert run("report", f"runs={runs}", "report.latency_runs=1").code == 0
    assert json.loads((runs / "slim" / "report" / "report.json").read_text())["imgsz"] == PX
    before = contents(runs)
    refused(run("export", f"model={original}", "imgsz=640", *more), f"imgsz was {PX} and is 640", "name=slim-2")
    assert contents(runs) == before
