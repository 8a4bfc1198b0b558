"""A landing in too few steps is refused before any training, with what it would need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tiny import PX, refused, run
from training_helpers import BATCH, TRAIN, draw_shapes, fit, saved, tiny

from yolo_slim import record
from yolo_slim.config import SparseTrain, read_config
from yolo_slim.errors import SlimError
from yolo_slim.stages.landing_time import check_steps
from yolo_slim.training.steps import optimizer_steps
from yolo_slim.training.trainer import SlimTrainer

LEAST = SparseTrain().min_steps


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return saved(tiny(folder), folder / "tiny.pt")


def set_of(folder: Path, images: int) -> str:
    """A data set of so many training images, which nobody opens."""
    for split, number in (("train", images), ("val", 1)):
        (folder / "images" / split).mkdir(parents=True)
        for i in range(number):
            (folder / "images" / split / f"{i}.jpg").touch()
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump({"path": str(folder), "train": "images/train", "val": "images/val", "names": ["a"]}))
    return str(path)


def config_of(data: str, *words: str):
    landing = ["mode=targeted", *words]  # a mode among the words comes later, and wins
    return read_config(None, ["model=x.pt", f"data={data}", *(f"sparse_train.{word}" for word in landing)])


@pytest.mark.parametrize(
    ("images", "epochs", "arguments", "expected"),
    [
        pytest.param(205, 10, {"nbs": 16}, 130, id="BCCD as shipped: a step a batch"),
        pytest.param(205, 10, {"nbs": 16, "warmup_epochs": 0}, 130, id="however it warms up"),
        pytest.param(205, 10, {"warmup_epochs": 0}, 32, id="130 batches, four to a step"),
        pytest.param(160, 4, {"nbs": 16}, 40, id="four epochs of ten"),
        pytest.param(8, 3, {"warmup_epochs": 0}, 1, id="fewer batches than a step gathers: one at the end"),
        pytest.param(100, 2, {"batch": 128, "nbs": 64}, 2, id="more to a batch than there are"),
    ],
)
def test_steps_by_hand(images, epochs, arguments, expected):
    assert optimizer_steps(images, epochs, **{"batch": 16, "nbs": 64, "warmup_epochs": 1, **arguments}) == expected


@pytest.mark.parametrize(("nbs", "warmup"), [(4, 3), (8, 0.5), (16, 0), (16, 3), (64, 3)])
def test_steps_as_ultralytics_takes_them(tmp_path, data, model, nbs, warmup):
    taken = []

    class Counting(SlimTrainer):
        def optimizer_step(self) -> None:
            taken.append(self.epoch)
            super().optimizer_step()

    fit(Counting, model, tmp_path, data, epochs=3, nbs=nbs, warmup_epochs=warmup, val=False)
    assert len(taken) == optimizer_steps(TRAIN, 3, batch=BATCH, nbs=nbs, warmup_epochs=warmup)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        pytest.param(160, ["epochs=4", "train={batch: 16}"], id="17 of 20 images left blind"),
        pytest.param(592, ["epochs=3", "train={batch: 16, nbs: 16}"], id="24 of 80 images left blind"),
        pytest.param(205, ["epochs=10", "train={batch: 16, nbs: 64}"], id="130 batches that are 36 steps"),
        pytest.param(600, ["epochs=10", "train={batch: 16, nbs: 16, fraction: 0.1}"], id="a fraction of the images"),
        pytest.param(600, ["epochs=10", "train={batch: 16, nbs: 16, fraction: 60}"], id="a number of them"),
        pytest.param(200, ["epochs=10", "train={batch: -1}"], id="as many as the memory takes"),
    ],
)
def test_a_landing_in_too_few_steps_is_refused(tmp_path, images, words):
    with pytest.raises(SlimError, match=rf"optimizer steps.* needs {LEAST}.*sparse_train\.epochs=0") as told:
        check_steps(config_of(set_of(tmp_path, images), *words))
    enough = int(re.search(r"Train longer: sparse_train\.epochs=(\d+)", str(told.value)).group(1))
    kept = [word for word in words if not word.startswith("epochs")]
    check_steps(config_of(str(tmp_path / "set.yaml"), f"epochs={enough}", *kept))  # what it says is true
    with pytest.raises(SlimError, match="optimizer steps"):  # and no more than it takes
        check_steps(config_of(str(tmp_path / "set.yaml"), f"epochs={enough - 1}", *kept))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        pytest.param(205, ["epochs=10", "train={batch: 16, nbs: 16}"], id="BCCD as shipped"),
        pytest.param(592, ["epochs=8", "train={batch: 16, nbs: 16}"], id="296 steps"),
        pytest.param(205, ["epochs=10", "train={batch: 16}"], id="a step a batch unless it is said otherwise"),
        pytest.param(205, ["epochs=30"], id="two hundred images as everything is by default"),
        pytest.param(256, ["epochs=8", "train={batch: 16, nbs: 16, warmup_epochs: 1}"], id="the demo"),
        pytest.param(20, ["epochs=0"], id="no landing"),
        pytest.param(20, ["epochs=2", "mode=uniform"], id="a mode that lands nothing"),
        pytest.param(20, ["epochs=2", "mode=soft"], id="another"),
        pytest.param(20, ["epochs=2", "min_steps=0"], id="none asked for"),
    ],
)
def test_others_are_not(tmp_path, images, words):
    check_steps(config_of(set_of(tmp_path, images), *words))


def test_more_steps_from_the_same_epochs_are_offered_where_they_are_enough(tmp_path):
    with pytest.raises(SlimError, match=r"36 optimizer steps, one every 4 batches \(nbs=64\).*train\.nbs=16"):
        words = ["epochs=10", "train={batch: 16, nbs: 64, warmup_epochs: 1}"]
        check_steps(config_of(set_of(tmp_path, 205), *words))


@pytest.mark.parametrize("stage", ["run", "sparse-train"])
def test_it_is_told_before_anything_is_written(tmp_path, data, model, stage):
    runs = tmp_path / "runs"
    words = [f"model={model}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "prune.ratio=0.3", "export.formats=[]"]
    words += ["sparse_train.mode=targeted", "sparse_train.epochs=2"]
    answer = run(stage, *words, "finetune.distill=null", "bench=null")
    refused(answer, f"a landing needs {LEAST}", "sparse_train.epochs=0", "sparse_train.min_steps=0")
    assert not runs.exists()


def test_images_that_are_not_there(tmp_path, data, model):
    described = yaml.safe_load(Path(data).read_text()) | {"path": str(Path(data).parent), "train": "images/none"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described))
    words = [f"model={model}", f"data={tmp_path / 'mine.yaml'}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}"]
    refused(run("sparse-train", *words, "prune.ratio=0.3"), "mine.yaml", "train")


def test_the_number_asked_for_decides_nothing_else(tmp_path, data, model):
    """A landing that was done is not done again because another number is asked for."""
    train = "sparse_train.train={batch: 4, nbs: 4, optimizer: SGD, val: false}"
    words = ["sparse-train", f"model={model}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path}", "prune.ratio=0.3"]
    words += ["prune.criterion=l1", "prune.round_to=4", "prune.min_channels=4", "prune.reconstruct=none"]
    words += ["sparse_train.mode=targeted", "sparse_train.epochs=2", train]
    assert run(*words, "sparse_train.min_steps=6").code == 0
    done = record.read(tmp_path / "slim" / "sparse")
    assert run(*words, "sparse_train.min_steps=3").code == 0
    assert record.read(tmp_path / "slim" / "sparse") == done and "min_steps" not in done.settings
