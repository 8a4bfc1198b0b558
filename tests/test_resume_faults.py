"""What a kill, a power cut or a hand has left of a training: it goes on where that is whole, else it starts afresh."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import PX, run
from training_helpers import CLASSES, Killed, draw_shapes, fit, killed_after, saved, tiny, write_yaml

from yolo_slim import checkpoint, record
from yolo_slim.errors import SlimError
from yolo_slim.stages import modes
from yolo_slim.training.finite import unsound
from yolo_slim.training.resuming import MARK, STARTED, StartAfresh, epochs_done
from yolo_slim.training.trainer import SlimTrainer

EPOCHS = 2
WORDS = (
    "prune.ratio=0.3 prune.criterion=l1 prune.round_to=4 prune.min_channels=4 prune.reconstruct=none prune.absorb=beta "
    f"sparse_train.mode=targeted sparse_train.epochs={EPOCHS} sparse_train.min_steps=0"
).split()
GARBAGE = bytes(range(256)) * 8
DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "garbage": lambda content: GARBAGE,
}
REPAIRED = ("results.csv", "sparsity.csv", "sparsity.yaml", "choice.yaml", "args.yaml")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A sparse training, as words without `runs=`."""
    folder = tmp_path_factory.mktemp("command")
    model = saved(tiny(folder), folder / "tiny.pt")
    return [
        *("sparse-train", f"model={model}", f"data={draw_shapes(folder)}", f"imgsz={PX}", *WORDS),
        "sparse_train.train={batch: 4, nbs: 4, optimizer: SGD, lr0: 0.01}",
    ]


@pytest.fixture(scope="module")
def killed(tmp_path_factory, command):
    """The runs folder of that training, killed after its first epoch. Read it only."""
    runs = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setitem(modes.TRAINERS, "targeted", killed_after(modes.TargetedTrainer, 1))
        run(*command, f"runs={runs}")
    return runs


@pytest.fixture
def place(tmp_path, killed):
    """A copy of what the kill has left: the run folder of the training."""
    shutil.copytree(killed, tmp_path / "runs")
    return tmp_path / "runs" / "slim" / "sparse" / "train"


def again(command: list[str], place: Path) -> str:
    """The same command, to a finished stage; what it says."""
    folder = place.parent
    answer = run(*command, f"runs={folder.parent.parent}")
    assert answer.code == 0, answer.err
    done = record.read(folder)
    assert done and [row["epoch"] for row in done.details["sparsity"]] == [1, 2]
    for name in ("best.pt", "last.pt"):
        ckpt = checkpoint.read(place / "weights" / name)
        assert unsound(ckpt) is None and ckpt[MARK], name
    for name in ("results.csv", "sparsity.csv"):
        with (place / name).open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"], name
    ended, begun = (json.loads((folder.parent / stage / "plan.json").read_text()) for stage in ("sparse", "plan"))
    assert ended["outputs"] == begun["outputs"]
    return answer.out


def test_what_was_killed_goes_on(command, place):
    said = again(command, place)
    assert f"going on after epoch 1 of {EPOCHS}" in said and "afresh" not in said


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_stands_in_other_files_as_well_is_repaired(command, place, damage):
    for name in REPAIRED:
        file = place / name
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    said = again(command, place)
    assert f"going on after epoch 1 of {EPOCHS}" in said and "afresh" not in said


def test_a_row_of_an_epoch_that_is_trained_again_goes(command, place):
    """Ultralytics writes it before the checkpoint; a kill in between leaves it."""
    row = (place / "results.csv").read_text().splitlines()[-1]
    with (place / "results.csv").open("a") as file:
        file.write("2" + row[1:] + "\n3,0.1")
    again(command, place)


@pytest.mark.parametrize("name", ["weights/last.pt", "weights/best.pt", STARTED])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_repaired_means_to_start_afresh(command, place, name, damage):
    if (name, damage) in {("weights/best.pt", "half"), (STARTED, "half"), (STARTED, "empty")}:
        pytest.skip("told by the tests of `epochs_done`")
    (place / name).write_bytes(DAMAGES[damage]((place / name).read_bytes()))
    said = again(command, place)
    assert said.count("starting afresh: ") == 1 and f"{place}" in said.split("starting afresh: ")[1].splitlines()[0]
    assert Path(name).name in said.split("starting afresh: ")[1].splitlines()[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_training_that_was_complete(command, place, damage):
    """Killed before the stage was done: what its log has lost comes from last.pt."""
    again(command, place)
    (place.parent / "stage.json").unlink()
    for name in ("results.csv", "sparsity.csv"):
        (place / name).write_bytes(DAMAGES[damage]((place / name).read_bytes()))
    assert "training was complete" in again(command, place)


def test_all_of_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, command, monkeypatch):
    """A rename may outlive a power cut that the content does not."""
    synced, named = set(), []
    fsync, replace = os.fsync, os.replace

    def noted_sync(fd):
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    def noted_replace(source, target):
        named.append((Path(target).name, os.stat(source).st_ino in synced))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    given = dict(word.split("=", 1) for word in command[1:])
    fit(SlimTrainer, given["model"], tmp_path, given["data"], epochs=1, val=False)
    finals = [each for each in named if each[0] in ("best.pt", "last.pt")]
    assert finals == [("best.pt", True), ("last.pt", True), ("best.pt", True)], "the last of them stripped"


@pytest.mark.parametrize("results", [None, {}, {"epoch": [1.0], "time": []}, {"epoch": ["one"]}, {"epoch": [None]}])
def test_results_that_were_damaged_before_begin_anew(place, results):
    reworked(lambda c: c.update(train_results=results))(place / "weights" / "last.pt")
    assert epochs_done(place, json.loads((place / STARTED).read_text())) == 1
    assert not (place / "results.csv").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Whether it can go on


def reworked(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A checkpoint with other content."""

    def rework(file: Path) -> None:
        ckpt = torch.load(file, weights_only=False)
        change(ckpt)
        torch.save(ckpt, file)

    return rework


def hold(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content)


def spoil(ckpt: dict, *path: str) -> None:
    """NaN in the first floating tensor of an entry."""
    entry = ckpt
    for step in path:
        entry = entry[step]
    entry = entry.state_dict() if isinstance(entry, torch.nn.Module) else entry
    next(t for t in entry.values() if t.is_floating_point())[...] = torch.nan


def spoil_momentum(ckpt: dict) -> None:
    spoil(ckpt["optimizer"]["state"], next(iter(ckpt["optimizer"]["state"])))


@pytest.mark.parametrize(
    ("name", "fault", "expected"),
    [
        pytest.param("weights/last.pt", Path.unlink, "no epoch was finished", id="no last.pt"),
        pytest.param("weights/best.pt", Path.unlink, "no checkpoint at .*best.pt", id="no best.pt"),
        pytest.param("weights/best.pt", hold(b""), "best.pt is not a readable checkpoint", id="an empty best.pt"),
        pytest.param(
            "weights/best.pt",
            lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
            "best.pt is not a readable checkpoint",
            id="half a best.pt",
        ),
        pytest.param("weights/last.pt", reworked(lambda c: spoil(c, "ema")), "NaN or infinity", id="an average"),
        pytest.param("weights/last.pt", reworked(lambda c: spoil(c, "live")), "no numbers", id="live weights"),
        pytest.param("weights/last.pt", reworked(spoil_momentum), "no numbers", id="momentum"),
        pytest.param("weights/best.pt", reworked(lambda c: spoil(c, "ema")), "NaN or infinity", id="the best"),
        pytest.param("weights/last.pt", reworked(lambda c: c.update({MARK: "0"})), "another training", id="another's"),
        pytest.param("weights/best.pt", reworked(lambda c: c.pop(MARK)), "another training", id="nobody's"),
        pytest.param("weights/last.pt", reworked(lambda c: c.update(epoch=-1)), "state of a training", id="finished"),
        pytest.param("weights/last.pt", reworked(lambda c: c.update(epoch=[])), "under .epoch.", id="no epoch"),
        pytest.param("weights/last.pt", reworked(lambda c: c.update(live=3)), "under .live.", id="no weights"),
        pytest.param(
            "weights/last.pt", reworked(lambda c: c.update(optimizer=None)), "state of a training", id="no optimizer"
        ),
        pytest.param("weights/last.pt", reworked(lambda c: c.update(train_args=3)), "last.pt", id="no arguments"),
        pytest.param("weights/last.pt", reworked(lambda c: c["train_args"].update(lr0="much")), "lr0", id="wrong ones"),
        pytest.param("weights/last.pt", reworked(lambda c: c.update(ema=None)), "last.pt", id="no detector"),
        pytest.param("weights/last.pt", lambda file: torch.save([1], file), "last.pt", id="a list"),
        pytest.param(STARTED, Path.unlink, "does not say", id="nothing says what it was begun with"),
        pytest.param(STARTED, hold(b""), "does not say", id="an empty file says so"),
        pytest.param(STARTED, hold(b'{"settings": {'), "does not say", id="half a file"),
        pytest.param(STARTED, hold(b"[" * 100_000), "does not say", id="deep"),
        pytest.param(STARTED, hold(b"[1]"), "other settings", id="something else"),
    ],
)
def test_what_it_cannot_go_on_with(place, name, fault, expected):
    asked = json.loads((place / STARTED).read_text())
    assert epochs_done(place, asked) == 1
    fault(place / name)
    with pytest.raises(StartAfresh, match=expected):
        epochs_done(place, asked)


def test_where_none_was_begun_there_is_nothing_to_tell(tmp_path):
    with pytest.raises(StartAfresh) as told:
        epochs_done(tmp_path / "train", {})
    assert str(told.value) == ""


def test_another_training_s_checkpoints_of_the_same_shape(command, place, tmp_path):
    """Everything about them fits, but they were begun with other settings."""
    other = tmp_path / "other"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setitem(modes.TRAINERS, "targeted", killed_after(modes.TargetedTrainer, 1))
        run(*command, f"runs={other}", "sparse_train.landing=0.9")
    for name in ("best.pt", "last.pt"):
        shutil.copy(other / "slim" / "sparse" / "train" / "weights" / name, place / "weights" / name)
    assert "last.pt is of another training" in again(command, place)


def test_the_state_of_another_kind_of_training(place, tmp_path):
    """What only the trainer itself can see: it says so, and no more."""
    reworked(lambda c: c.pop("stepped_to"))(place / "weights" / "last.pt")
    data = checkpoint.read(place / "weights" / "last.pt")["train_args"]["data"]
    with pytest.raises(StartAfresh, match=r"last\.pt does not fit this training"):
        fit(modes.TargetedTrainer, "", place, data, resume=True)


# ---------------------------------------------------------------------------------------------------------------------
# What Ultralytics reads by itself


class Bait:
    """Creates a folder when it is unpickled by a loader that runs what a pickle names."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("read_as", ["resume", "pretrained", "distill_model"])
def test_no_checkpoint_is_read_unrestricted(tmp_path, command, read_as, monkeypatch):
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "0")
    mark, run_folder = tmp_path / "was-run", tmp_path / "run"
    bait = run_folder / "weights" / "last.pt"
    bait.parent.mkdir(parents=True)
    torch.save({"model": Bait(mark), "ema": None, "train_args": {}}, bait)
    given = dict(word.split("=", 1) for word in command[1:])
    model = write_yaml(tmp_path) if read_as == "pretrained" else given["model"]
    arguments = {"resume": True} if read_as == "resume" else {read_as: str(bait)}
    with pytest.raises(SlimError):
        fit(SlimTrainer, model, run_folder, given["data"], epochs=1, **arguments)
    assert not mark.exists()


def test_other_weights_to_start_from_are_refused(tmp_path, command):
    """They would be passed over in silence."""
    given = dict(word.split("=", 1) for word in command[1:])
    with pytest.raises(SlimError, match=r"pretrained=other\.pt names other weights than model="):
        fit(SlimTrainer, given["model"], tmp_path, given["data"], epochs=1, pretrained="other.pt")


def test_an_untrained_detector_takes_its_weights_from_where_it_is_told(tmp_path, command):
    given = dict(word.split("=", 1) for word in command[1:])
    trainer = fit(
        SlimTrainer, write_yaml(tmp_path), tmp_path, given["data"], epochs=1, val=False, pretrained=given["model"]
    )
    assert trainer.model.model[-1].nc == CLASSES
