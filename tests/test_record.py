"""What a stage did: on disk only when all of it is done, and believed only while its outputs are as they were."""

import json
import resource
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from yolo_slim import record
from yolo_slim.config import Config
from yolo_slim.errors import SlimError
from yolo_slim.record import FILE, Record, read, sha256, unchanged, versions, write
from yolo_slim.runs.stage import run_stage, sums_of


@pytest.fixture
def done(tmp_path: Path) -> Record:
    """The record of a stage whose two outputs are in tmp_path; not written yet."""
    (tmp_path / "slim.pt").write_bytes(b"weights")
    (tmp_path / "kept.json").write_text("{}")
    outputs = {"weights": "slim.pt", "kept": "kept.json"}
    return Record(
        stage="pruned",
        settings={"ratio": 0.5, "target": None},
        inputs={"original.pt": "12ab"},
        outputs=outputs,
        sums={name: sha256(tmp_path / path) for name, path in outputs.items()},
        metrics={"params": 7, "map50": None},
        seconds=1.5,
        versions=versions(),
        details={"widths": [{"layer": "model.0", "before": 16, "after": 8}]},
    )


def test_what_is_read_is_what_was_written(tmp_path: Path, done: Record) -> None:
    write(tmp_path, done)
    assert read(tmp_path) == done
    assert read(tmp_path).output(tmp_path) == tmp_path / "slim.pt"
    assert read(tmp_path).output(tmp_path, "kept") == tmp_path / "kept.json"


def test_only_the_record_is_added(tmp_path: Path, done: Record) -> None:
    before = set(tmp_path.iterdir())
    write(tmp_path, done)
    assert set(tmp_path.iterdir()) - before == {tmp_path / FILE}


def test_versions_are_of_what_decides() -> None:
    assert versions().keys() == {"python", "yolo-slim", "ultralytics", "torch"}
    assert "unknown" not in versions().values()


def test_the_record_comes_by_renaming_or_not_at_all(
    tmp_path: Path, done: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, done)
    before = (tmp_path / FILE).read_bytes()
    whole = {}

    def refuse(self: Path, target: Path) -> None:
        whole[target.name] = json.loads(self.read_text())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SlimError, match="No space left on device"):
        write(tmp_path, replace(done, seconds=9.0))
    assert len(whole[FILE].pop(record.SUM)) == 64
    assert whole == {FILE: asdict(replace(done, seconds=9.0))}  # all of it was there before it got its name
    assert (tmp_path / FILE).read_bytes() == before
    assert list(tmp_path.glob(".*")) == []


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, done: Record) -> None:
    write(tmp_path, done)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(SlimError, match=f"cannot write {tmp_path / FILE}.*[Ff]ree some space"):
            write(tmp_path, replace(done, seconds=9.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(tmp_path) == done
    assert list(tmp_path.glob(".*")) == []


def shorten(folder: Path) -> None:
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text[: len(text) // 2])


def without(key: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / FILE).read_text())
        del content[key]
        (folder / FILE).write_text(json.dumps(content))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda folder: (folder / FILE).unlink(), id="never written"),
        pytest.param(lambda folder: (folder / FILE).write_text(""), id="empty"),
        pytest.param(shorten, id="cut short"),
        pytest.param(lambda folder: (folder / FILE).write_text("[]"), id="a list"),
        pytest.param(lambda folder: (folder / FILE).write_text("3"), id="a number"),
        pytest.param(lambda folder: (folder / FILE).write_text('{"stage": "pruned"}'), id="most of it missing"),
        pytest.param(lambda folder: (folder / FILE).write_bytes(b"\xff\xfe"), id="no text"),
        pytest.param(without("sums"), id="without the sums"),
        pytest.param(without("outputs"), id="without the outputs"),
        pytest.param(lambda folder: (folder / "slim.pt").unlink(), id="an output is gone"),
        pytest.param(lambda folder: (folder / "kept.json").unlink(), id="another output is gone"),
        pytest.param(lambda folder: (folder / "slim.pt").write_bytes(b"weighty"), id="an output is another"),
        pytest.param(lambda folder: (folder / "slim.pt").write_bytes(b"weight"), id="an output is cut short"),
    ],
)
def test_what_is_not_whole_is_not_done(tmp_path: Path, done: Record, spoil: Callable[[Path], None]) -> None:
    write(tmp_path, done)
    spoil(tmp_path)
    assert read(tmp_path) is None
    assert unchanged(tmp_path, done.stage, done.settings, done.inputs) is None


def test_there_is_nothing_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert read(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("stage", "settings", "inputs", "same"),
    [
        pytest.param("pruned", {"ratio": 0.5, "target": None}, {"original.pt": "12ab"}, True, id="as it was"),
        pytest.param("pruned", {"target": None, "ratio": 0.5}, {"original.pt": "12ab"}, True, id="another order"),
        pytest.param("sparse", {"ratio": 0.5, "target": None}, {"original.pt": "12ab"}, False, id="another stage"),
        pytest.param("pruned", {"ratio": 0.4, "target": None}, {"original.pt": "12ab"}, False, id="another value"),
        pytest.param("pruned", {"ratio": 0.5}, {"original.pt": "12ab"}, False, id="a setting fewer"),
        pytest.param("pruned", {"ratio": 0.5, "target": None}, {"original.pt": "cd"}, False, id="another content"),
        pytest.param("pruned", {"ratio": 0.5, "target": None}, {"best.pt": "12ab"}, False, id="another file"),
        pytest.param("pruned", {"ratio": 0.5, "target": None}, {}, False, id="an input fewer"),
    ],
)
def test_unchanged_compares_stage_settings_and_inputs(
    tmp_path: Path, done: Record, stage: str, settings: dict, inputs: dict, same: bool
) -> None:
    write(tmp_path, done)
    assert unchanged(tmp_path, stage, settings, inputs) == (done if same else None)


def test_unchanged_compares_the_code_version(tmp_path: Path, done: Record) -> None:
    write(tmp_path, replace(done, versions={**done.versions, "yolo-slim": "0.0.1"}))
    assert read(tmp_path) is not None
    assert unchanged(tmp_path, done.stage, done.settings, done.inputs) is None


def test_another_python_or_torch_does_not_undo_a_stage(tmp_path: Path, done: Record) -> None:
    write(tmp_path, replace(done, versions={**done.versions, "python": "3.10.0", "torch": "2.6.0"}))
    assert unchanged(tmp_path, done.stage, done.settings, done.inputs) is not None


class Stage:
    """A stage that copies its input; counts how often it worked."""

    def __init__(self, runs: Path) -> None:
        self.config = Config(model="a.pt", imgsz=64, runs=str(runs))
        self.input = runs / "a.pt"
        self.input.write_bytes(b"one")
        self.worked = 0
        self.error: BaseException | None = None

    def __call__(self, **settings: object) -> Record:
        return run_stage(self.config, "copied", settings, [self.input], self.work)

    def work(self, folder: Path) -> tuple:
        self.worked += 1
        self.seen = sorted(path.name for path in folder.iterdir())
        (folder / "copy.pt").write_bytes(self.input.read_bytes())
        if self.error:
            raise self.error
        return {"weights": folder / "copy.pt"}, {"bytes": 3}, {}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_stage_is_done_once(stage: Stage) -> None:
    assert stage(ratio=0.5, names=("a", "b")) == stage(ratio=0.5, names=("a", "b"))
    assert stage.worked == 1
    assert stage.seen == []  # the record was not there while it worked


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda stage: stage.input.write_bytes(b"two"), id="its input"),
        pytest.param(lambda stage: (stage.config.folder / "copied" / "copy.pt").write_bytes(b"x"), id="its output"),
        pytest.param(lambda stage: (stage.config.folder / "copied" / FILE).unlink(), id="its record"),
    ],
)
def test_a_stage_is_done_again_after_a_change(stage: Stage, change: Callable[[Stage], object]) -> None:
    stage(ratio=0.5)
    change(stage)
    stage(ratio=0.5)
    assert stage.worked == 2


def test_a_stage_is_done_again_with_other_settings(stage: Stage) -> None:
    stage(ratio=0.5)
    stage(ratio=0.4)
    assert stage.worked == 2
    assert record.read(stage.config.folder / "copied").settings == {"ratio": 0.4}


@pytest.mark.parametrize("error", [SlimError("no"), KeyboardInterrupt(), RuntimeError("no")], ids=repr)
def test_a_stage_that_ends_early_leaves_no_record(stage: Stage, error: BaseException) -> None:
    stage.error = error
    with pytest.raises(type(error)):
        stage(ratio=0.5)
    assert not (stage.config.folder / "copied" / FILE).exists()
    stage.error = None
    stage(ratio=0.5)
    assert stage.worked == 2


def test_an_output_that_changed_undoes_the_old_record(stage: Stage) -> None:
    stage(ratio=0.5)
    stage.input.write_bytes(b"two")
    stage.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        stage(ratio=0.5)
    assert record.read(stage.config.folder / "copied") is None


def test_inputs_that_are_named_alike_are_told_apart(tmp_path: Path) -> None:
    """A teacher at elsewhere/pruned/pruned.pt is not the pruned.pt of this run; one file named twice is one input."""
    one, other = (tmp_path / run / "pruned" / "pruned.pt" for run in ("here", "elsewhere"))
    for path in (one, other):
        path.parent.mkdir(parents=True)
        path.write_text(path.parts[-3])
    assert sums_of([one, one]) == {"pruned/pruned.pt": sha256(one)}
    assert sums_of([one, other]) == {"pruned/pruned.pt": sha256(one), str(other): sha256(other)}


def test_what_is_replaced_goes_when_its_successor_is_declared(stage: Stage) -> None:
    """Not before: a kill in between costs nothing. And if it comes right then, the next command does it."""
    folder = stage.config.folder / "copied"
    stage(ratio=0.5)
    old = record.read(folder)
    (folder / "copy.pt").rename(folder / "old.pt")
    write(folder, replace(old, outputs={"weights": "old.pt"}))
    stage(ratio=0.4)
    assert record.read(folder).replaced == ["old.pt"]
    assert not (folder / "old.pt").exists()
    (folder / "old.pt").write_bytes(b"one")
    stage(ratio=0.4)
    assert stage.worked == 2 and not (folder / "old.pt").exists()
