"""A run folder belongs to one experiment: what another one made is never replaced, unless it is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tiny import PX, TINY, contents, refused, run
from torch import nn

from yolo_slim import checkpoint, record
from yolo_slim.runs import identity
from yolo_slim.runs.identity import Identity, differences, free_name, same_model

pytest_plugins = ["tiny"]

RATIO = "prune.ratio=0.3"


@pytest.fixture(scope="module")
def finished(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder in which `prune` has been done. Read it only."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}"]
    assert run("prune", *words, RATIO, "prune.criterion=l1").code == 0
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.fixture
def other(original: Path, tmp_path: Path) -> Path:
    """Another detector."""
    detector = checkpoint.load(original)
    nn.init.ones_(detector.model[0].conv.weight)
    return checkpoint.save(detector, tmp_path / "other.pt")


def other_data(data: Path, folder: Path) -> Path:
    """A data set of the same images, split otherwise."""
    described = yaml.safe_load(data.read_text())
    (folder / "other.yaml").write_text(yaml.safe_dump({**described, "train": described["val"]}))
    return folder / "other.yaml"


STAGES = ["run", "sparse-train", "prune", "sensitivity", "sweep", "finetune", "export", "bench", "report"]


@pytest.mark.parametrize("stage", STAGES)
def test_another_model_is_another_experiment(stage: str, runs: Path, other: Path, original: Path) -> None:
    before = contents(runs)
    answer = run(stage, f"model={other}", f"imgsz={PX}", f"runs={runs}", RATIO)
    refused(answer, runs / "slim", f"model was {original}", f"is {other}", "name=slim-2")
    assert ("overwrite=true" in answer.err) == (stage in STAGES[:5])
    assert contents(runs) == before


@pytest.mark.parametrize("stage", ["prune", "finetune", "report"])
def test_another_image_side_or_data_set_is_another_experiment(
    stage: str, runs: Path, original: Path, data: Path, tmp_path: Path
) -> None:
    before, words = contents(runs), [stage, f"model={original}", f"runs={runs}", RATIO]
    refused(run(*words, f"data={data}", "imgsz=96"), f"imgsz was {PX} and is 96")
    changed = other_data(data, tmp_path)
    refused(run(*words, f"data={changed}", f"imgsz={PX}"), f"data was {data}", f"is {changed}")
    assert contents(runs) == before


def test_all_that_differs_is_told_at_once(runs: Path, other: Path, data: Path, tmp_path: Path) -> None:
    words = [f"model={other}", f"data={other_data(data, tmp_path)}", "imgsz=96", f"runs={runs}"]
    refused(run("prune", *words, RATIO), "model was", "data was", "imgsz was")


def test_a_model_that_was_trained_on_meanwhile_is_another(
    original: Path, other: Path, tmp_path: Path, runs: Path
) -> None:
    """At the same path. What the run holds of the one before can still be told."""
    model, mine = tmp_path / "best.pt", tmp_path / "mine"
    shutil.copy(original, model)
    words = [f"model={model}", f"imgsz={PX}", f"runs={mine}", RATIO]
    assert run("prune", *words).code == 0
    shutil.copy(other, model)
    refused(run("prune", *words), f"model was {model}", f"is {model}")
    assert run("report", *words, "report.latency_runs=1").code == 0


def test_another_setting_is_no_other_experiment(runs: Path, original: Path, data: Path) -> None:
    answer = run("prune", f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "prune.ratio=0.4")
    assert answer.code == 0
    said = answer.out.replace("\n", " ")
    assert "pruned: done again: " in said
    assert "ratio 0.3 -> 0.4" in said and 'criterion "l1" -> null' in said
    assert "original: done before, nothing has changed" in said


@pytest.mark.parametrize("stage", ["prune", "finetune"])
def test_a_run_is_replaced_when_that_is_asked_for(stage: str, runs: Path, other: Path) -> None:
    """By stages that may begin one. What is the user's own stays."""
    (runs / "slim" / "notes.txt").write_text("mine")
    (runs / "slim" / "report").mkdir()
    (runs / "slim" / "report" / "report.md").write_text("of the one before")
    before = contents(runs)
    answer = run(stage, f"model={other}", f"imgsz={PX}", f"runs={runs}", RATIO, "overwrite=true")
    if stage == "finetune":
        refused(answer, "another experiment")
        assert contents(runs) == before
        return
    assert answer.code == 0, answer
    assert "it is replaced" in answer.out
    left = ["log.txt", "notes.txt", "original", "plan", "pruned", "run.json"]
    assert sorted(p.name for p in (runs / "slim").iterdir()) == left
    assert identity.read(runs / "slim").model == str(other)
    assert record.read(runs / "slim" / "pruned").run["model_sum"] == record.sha256(other)


@pytest.mark.parametrize(
    "words", [["data=nowhere.yaml"], ["prune.ration=0.3"], ["model=no.pt"], ["device=7"]], ids=lambda words: words[0]
)
def test_a_mistake_replaces_nothing(runs: Path, other: Path, words: list[str]) -> None:
    before = contents(runs)
    answer = run("prune", f"model={other}", f"imgsz={PX}", f"runs={runs}", RATIO, *words, "overwrite=true")
    assert answer.code == 2
    assert contents(runs) == before


def test_a_kill_in_between_replaces_nothing(runs: Path) -> None:
    before = contents(runs)
    identity.set_aside(runs / "slim")
    assert contents(runs) != before and identity.read(runs / "slim") is None
    identity.put_back(runs / "slim")
    assert contents(runs) == before


def test_a_kill_after_the_new_one_has_begun_does_not_bring_the_old_one_back(runs: Path) -> None:
    identity.set_aside(runs / "slim")
    (runs / "slim" / identity.FILE).write_text("{}")
    identity.put_back(runs / "slim")
    assert contents(runs).keys() == {f"slim/{identity.FILE}"}


@pytest.mark.parametrize("content", ["", "[]", "3", '{"format": 1}', "[" * 100_000, '{"format": 1, "model": []}'])
def test_a_damaged_file_is_made_up_for_by_the_records(runs: Path, other: Path, original: Path, content: str) -> None:
    (runs / "slim" / identity.FILE).write_text(content)
    refused(run("prune", f"model={other}", f"imgsz={PX}", f"runs={runs}", RATIO), f"model was {original}")
    answer = run("prune", f"runs={runs}", RATIO, "prune.criterion=l1")
    assert (answer.code, answer.out.count("done before, nothing has changed")) == (0, 3)


def test_a_data_set_may_be_added(original: Path, data: Path, tmp_path: Path) -> None:
    words = [f"model={original}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", RATIO]
    assert run("prune", *words).code == 0
    assert run("prune", *words, f"data={data}").code == 0
    assert identity.read(tmp_path / "runs" / "slim").data == str(data)


def test_a_command_that_comes_to_nothing_leaves_no_run(original: Path, tmp_path: Path) -> None:
    refused(run("prune", f"model={original}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "data=nowhere.yaml", RATIO))
    refused(run("prune", f"model={tmp_path / 'no.pt'}", f"runs={tmp_path / 'runs'}", RATIO), "no checkpoint at")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_says_what_the_run_is_of(runs: Path, original: Path, data: Path) -> None:
    assert json.loads((runs / "slim" / "run.json").read_text()) == {
        "format": 1,
        "model": str(original),
        "model_sum": record.sha256(original),
        "data": str(data),
        "data_sum": record.sha256(data),
        "imgsz": PX,
    }


A = Identity("w/a.pt", "1", "a.yaml", "2", 64)


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        pytest.param(A, Identity("elsewhere/a.pt", "1", None, None, 64), True, id="moved"),
        pytest.param(A, Identity("b.pt", "1", None, None, 64), True, id="renamed"),
        pytest.param(A, Identity("w/a.pt", "3", None, None, 64), False, id="another content"),
        pytest.param(A, Identity("w/a.pt", None, None, None, 64), True, id="gone: told where it is read"),
        pytest.param(A, Identity("typo.pt", None, None, None, 64), False, id="not there"),
        pytest.param(
            Identity("yolov5n.yaml", None, None, None, 64),
            Identity("yolov5n.yaml", None, None, None, 64),
            True,
            id="one of Ultralytics' own",
        ),
        pytest.param(
            Identity("yolov5n.yaml", None, None, None, 64),
            Identity("yolov5s.yaml", None, None, None, 64),
            False,
            id="another size of it",
        ),
        pytest.param(
            Identity("yolov5n.yaml", "1", None, None, 64),
            Identity("yolov5s.yaml", "1", None, None, 64),
            False,
            id="the name says how wide",
        ),
    ],
)
def test_one_detector(then: Identity, now: Identity, same: bool) -> None:
    assert same_model(then, now) == same


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param({}, 0, id="the same"),
        pytest.param({"data": None, "data_sum": None}, 1, id="none now"),
        pytest.param({"data": "b.yaml", "data_sum": "2"}, 0, id="the same elsewhere"),
        pytest.param({"data": "a.yaml", "data_sum": "3"}, 1, id="another content"),
        pytest.param({"imgsz": 96}, 1, id="another side"),
    ],
)
def test_differences(change: dict, found: int) -> None:
    assert len(differences(A, Identity(**{**vars(A), **change}), begins=True)) == found


def test_a_name_that_is_free(tmp_path: Path) -> None:
    assert free_name(tmp_path, "a") == "a"
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
    assert free_name(tmp_path, "a") == "a-3"


def test_an_untrained_model_is_its_yaml(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert identity.sum_of(str(tmp_path / "tiny.yaml")) == record.sha256(tmp_path / "tiny.yaml")
    assert identity.sum_of("yolov5n.yaml") is None, "one of Ultralytics' own goes by its name"


def test_a_folder_of_data_is_the_yaml_in_it(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data.parent, tmp_path / "shapes")
    before = identity.sum_of_data(str(folder))
    (folder / "labels" / "train.cache").write_bytes(b"x")
    assert identity.sum_of_data(str(folder)) == before
    other_data(data, folder).rename(folder / data.name)
    assert identity.sum_of_data(str(folder)) != before
