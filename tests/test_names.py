"""Detector and data set must call each class by the same name; a detector of `single_cls` is used as one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from tiny import PX, build, refused, run
from training_helpers import ARGUMENTS, fit
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator

from yolo_slim import SlimError, checkpoint, prune
from yolo_slim.data import check_names, one_class
from yolo_slim.measure import accuracy
from yolo_slim.training.trainer import SlimTrainer

pytest_plugins = ["tiny"]

SHAPES = ["circle", "square", "triangle", "star"]
OTHER = ["square", "circle", "triangle", "star"]


def renamed(original: Path, names: list[str], path: Path) -> Path:
    """The tiny detector, its classes called so."""
    detector = checkpoint.load(original)
    detector.names = dict(enumerate(names))
    return checkpoint.save(detector, path)


def described(data: Path, names: object, path: Path) -> Path:
    """The same images, their classes called so."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "path": str(data.parent), "names": names}))
    return path


AGREE = [
    pytest.param(SHAPES, SHAPES, id="the same"),
    pytest.param(dict(enumerate(SHAPES)), SHAPES, id="a mapping and a list"),
    pytest.param({str(i): name for i, name in enumerate(SHAPES)}, SHAPES, id="numbers as text"),
    pytest.param({3: "d", 1: "b", 0: "a", 2: "c"}, list("abcd"), id="a mapping in another order"),
    pytest.param([1, 2], ["1", "2"], id="numbers for names"),
    pytest.param(["0", "1"], ["cat", "dog"], id="a detector without names"),
    pytest.param(["cat", "dog"], ["class_0", "class_1"], id="a data set without names"),
    pytest.param({0: "class0", 1: "class1"}, ["cat", "dog"], id="an exported file without names"),
    pytest.param(["Cat", "traffic light"], ["cat", " Traffic_Light "], id="case and white space"),
    pytest.param(["True", "False"], ["yes", "no"], id="as Ultralytics reads truths"),
    pytest.param(["1", "2.5"], ["01", "2.50"], id="as Ultralytics reads numbers"),
    pytest.param(["a", "a"], ["a", "a"], id="equal names"),
]


@pytest.mark.parametrize(("ours", "theirs"), AGREE)
def test_names_that_agree(ours, theirs):
    check_names(ours, theirs, "d.pt", "d.yaml")
    check_names(theirs, ours, "d.pt", "d.yaml")


DIFFER = [
    pytest.param(SHAPES, OTHER, "class 0 is 'circle' in the detector and 'square' there; class 1", id="another order"),
    pytest.param(["cat", "dog"], ["cat", "cow"], "class 1 is 'dog' in the detector and 'cow' there", id="another name"),
    pytest.param(["0", "1"], ["1", "0"], "same names in another order", id="digits in another order"),
    pytest.param(["a", "A"], ["A", "a"], "same names in another order", id="case alone tells them apart"),
    pytest.param(["yes", "on"], ["on", "yes"], "same names in another order", id="truths alike to YAML"),
    pytest.param(["a", "b"], ["a", "a"], "class 1", id="equal names on one side"),
    pytest.param(["a"], ["a", "b"], "d.pt detects 1 classes, but d.yaml names 2", id="another number"),
    pytest.param(["0"], ["a", "b"], "d.pt detects 1 classes, but d.yaml names 2", id="another number, without names"),
]


@pytest.mark.parametrize(("ours", "theirs", "said"), DIFFER)
def test_names_that_differ(ours, theirs, said):
    with pytest.raises(SlimError) as e:
        check_names(ours, theirs, "d.pt", "d.yaml")
    assert said in str(e.value)


def test_another_order_is_told_from_another_set():
    with pytest.raises(SlimError, match="same names in another order"):
        check_names(SHAPES, OTHER, "d.pt", "d.yaml")
    with pytest.raises(SlimError, match=r"write the detector's names into d\.yaml"):
        check_names(SHAPES, [*OTHER[:3], "hexagon"], "d.pt", "d.yaml")
    with pytest.raises(SlimError, match="and 77 more"):
        check_names([f"a{i}" for i in range(80)], [f"b{i}" for i in range(80)], "d.pt", "d.yaml")


# ---------------------------------------------------------------------------------------------------------------------
# Wherever a detector meets a data set


@pytest.mark.parametrize("stage", ["prune", "sensitivity", "sweep", "sparse-train", "run"])
def test_stages_refuse_classes_in_another_order(original, data, tmp_path, stage):
    named = renamed(original, SHAPES, tmp_path / "named.pt")
    other = described(data, OTHER, tmp_path / "other.yaml")
    words = [f"model={named}", f"data={other}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "prune.ratio=0.2"]
    words += ["sparse_train.min_steps=0"]
    answer = run(stage, *words)
    refused(answer, named, other, "class 0 is 'circle' in the detector and 'square' there", "another order")
    assert not list((tmp_path / "runs").rglob("*.pt"))


def test_python_refuses_classes_in_another_order(original, data, tmp_path):
    named = renamed(original, SHAPES, tmp_path / "named.pt")
    other = described(data, OTHER, tmp_path / "other.yaml")
    with pytest.raises(SlimError, match="another order"):
        prune(checkpoint.load(named), imgsz=PX, data=str(other), ratio=0.3)
    with pytest.raises(SlimError, match="another order"):
        accuracy(named, str(other), PX, "val")
    with pytest.raises(SlimError, match="another order"):
        fit(SlimTrainer, named, tmp_path / "train", str(other), epochs=1)


def test_training_keeps_the_detectors_own_names(original, data, tmp_path):
    shouted = [name.upper() for name in SHAPES]
    named = renamed(original, shouted, tmp_path / "named.pt")
    fit(SlimTrainer, named, tmp_path / "train", str(data), epochs=1)
    assert checkpoint.load(tmp_path / "train" / "weights" / "best.pt").names == dict(enumerate(shouted))


def test_a_detector_without_names_learns_them(original, data, tmp_path):
    fit(SlimTrainer, original, tmp_path / "train", str(data), epochs=1)
    assert checkpoint.load(tmp_path / "train" / "weights" / "best.pt").names == dict(enumerate(SHAPES))


# ---------------------------------------------------------------------------------------------------------------------
# One class


@pytest.fixture(scope="module")
def single(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that Ultralytics itself has trained with `single_cls`."""
    folder = tmp_path_factory.mktemp("single")
    build(folder)
    overrides = {**ARGUMENTS, "model": str(folder / "tiny.yaml"), "data": str(data), "epochs": 1, "single_cls": True}
    trainer = DetectionTrainer(overrides={**overrides, "save_dir": str(folder / "run"), "val": False})
    trainer.train()
    return shutil.copy(trainer.last, folder / "single.pt")


def test_a_detector_of_one_class_is_known(single, original, loaded):
    assert one_class(checkpoint.load(single)) and checkpoint.load(single).names == {0: "item"}
    assert not one_class(loaded)


def test_it_is_measured_as_ultralytics_measures_it(single, data, tmp_path):
    args = {"model": str(single), "data": str(data), "imgsz": PX, "split": "val", "single_cls": True, "batch": 16}
    validator = DetectionValidator(save_dir=tmp_path, args={**args, "plots": False, "rect": False, "device": "cpu"})
    validator()
    assert accuracy(single, str(data), PX, "val")["map50"] == pytest.approx(
        float(validator.metrics.box.map50), abs=1e-6
    )
    assert validator.metrics.nt_per_class.tolist() == [validator.metrics.nt_per_class.sum()]


def test_it_goes_through_all_stages(single, data, tmp_path):
    words = [f"model={single}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path}", "prune.calib_images=4"]
    words += ["prune.ratio=0.2", "sparse_train.epochs=0", "finetune.epochs=1", "export.formats=[]", "export.int8=[]"]
    words += ["finetune.train={batch: 4, workers: 0}"]
    for stage in ("prune", "finetune"):
        answer = run(stage, *words)
        assert answer.code == 0, answer.err
    slim = checkpoint.load(next(tmp_path.rglob("finetuned/slim.pt")))
    assert slim.names == {0: "item"} and slim.model[-1].nc == 1 and one_class(slim)
    assert YOLO(next(tmp_path.rglob("finetuned/slim.pt"))).names == {0: "item"}


def test_another_detector_of_one_class_is_refused(data, tmp_path):
    build(tmp_path)
    detector = checkpoint.build(str(tmp_path / "tiny.yaml"), classes=1)
    detector.names = {0: "face"}
    weights = checkpoint.save(detector, tmp_path / "face.pt")
    answer = run("prune", f"model={weights}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path}", "prune.ratio=0.2")
    refused(answer, "detects 1 classes", "names 4")


# ---------------------------------------------------------------------------------------------------------------------
# Teachers


def test_a_student_that_learns_class_by_class_has_its_teachers_classes(original, data, tmp_path):
    named = renamed(original, SHAPES, tmp_path / "named.pt")
    teacher = renamed(original, OTHER, tmp_path / "teacher.pt")
    words = [f"model={named}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path}", "prune.ratio=0.2"]
    words += ["sparse_train.epochs=0", f"finetune.distill.teacher={teacher}", "finetune.distill.outputs=[binary]"]
    refused(run("run", *words), "class 0 is", "'circle'", "'square'")
