"""What a data set is: its YAML within bounds, names as typed, where its images are, and how much is in a split."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import PX, run
from ultralytics.data.utils import check_det_dataset

from yolo_slim import SlimError, checkpoint
from yolo_slim.data import Split, dataset_info, split_facts, yaml_of
from yolo_slim.measure import accuracy

pytest_plugins = ["tiny"]


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """The YAML of a data set of one's own, without caches."""
    shutil.copytree(data.parent, tmp_path / "shapes", ignore=shutil.ignore_patterns("*.cache"))
    return tmp_path / "shapes" / data.name


def said(data: object, **change: Any) -> str:
    """What `dataset_info` refuses it with."""
    with pytest.raises(SlimError) as e:
        dataset_info(data, **change)
    return str(e.value)


def write(own: Path, text: str) -> Path:
    own.write_text(text)
    return own


PLACES = "train: images/train\nval: images/val\n"

HONEST = {
    "a list": PLACES + "names: [a, b, c, d]",
    "a mapping": PLACES + "names: {0: a, 1: b}",
    "numbers as text": PLACES + "names: {'0': a, '1': b}",
    "the number alone": PLACES + "nc: 3",
    "the number as text": PLACES + "nc: '3'\nnames: [a, b, c]",
    "the number with a point": PLACES + "nc: 3.0",
    "a path": PLACES + "path: {here}\nnames: [a]",
    "folders": "train: [images/train, images/val]\nval: [images/val]\nnames: [a]",
    "nothing to test on": PLACES + "test:\nnames: [a]",
    "None": PLACES + "test: None\nnames: [a]",
    "the older word": "train: images/train\nvalidation: images/val\nnames: [a]",
    "one folder up": "train: ../images/train\nval: ../images/val\nnames: [a]",
    "grey": PLACES + "channels: 1\nnames: [a]",
    "keypoints": PLACES + "kpt_shape: [17, 3]\nflip_idx: [0, 1]\nnames: [a]",
    "codes of ImageNet": PLACES + "names: [n01440764, n01443537]",
    "anchors": "train: &a images/train\nval: *a\nnames: [a]",
    "merged": "x: &x {val: images/val, names: [a]}\n<<: *x\ntrain: images/train",
    "characters that YAML does not know": PLACES + "names: [a\x00b]",
    "a byte-order mark": "\ufeff" + PLACES + "names: [a]",
    "not ASCII": PLACES + "names: [Blutkörperchen, 细胞]",
}


@pytest.mark.parametrize("form", HONEST)
def test_honest_descriptions_are_read_as_ultralytics_reads_them(own, form, monkeypatch):
    monkeypatch.setattr("ultralytics.data.utils.check_font", lambda font: None)  # it would download one
    write(own, HONEST[form].format(here=own.parent) if "{here}" in HONEST[form] else HONEST[form])
    ours, theirs = dataset_info(own), check_det_dataset(str(own), autodownload=False)
    theirs = {key: value for key, value in theirs.items() if key != "x"}
    assert {k: v for k, v in ours.items() if v is not None} == {k: v for k, v in theirs.items() if v is not None}
    assert all(type(i) is int and type(name) is str for i, name in ours["names"].items())


@pytest.mark.parametrize("names", ["[yes, no, off, On]", "{0: yes, 1: no, 2: off, 3: On}", "['yes', \"no\", off, On]"])
def test_names_are_text_as_typed(own, names):
    info = dataset_info(write(own, PLACES + f"names: {names}"))
    assert info["names"] == {0: "yes", 1: "no", 2: "off", 3: "On"} and info["nc"] == 4


@pytest.mark.parametrize(
    "typed", ["01", "1.50", "1e3", "0x1F", "2021-02-30", "12:30:00", "null", "~", ".nan", "=", "1_000"]
)
def test_numbers_and_dates_are_names(own, typed):
    assert dataset_info(write(own, PLACES + f"names: [a, {typed}]"))["names"] == {0: "a", 1: typed}


def test_equal_names_are_as_many_classes(own):
    assert dataset_info(write(own, PLACES + "names: [a, a, b]"))["names"] == {0: "a", 1: "a", 2: "b"}


def test_names_cannot_move_the_cursor(own):
    assert dataset_info(write(own, PLACES + 'names: ["a\\e[2Jb\\nc"]'))["names"] == {0: "a [2Jb c"}


def test_ultralytics_is_given_the_same_names(own, original):
    write(own, PLACES + "names: [yes, no, off, on]")
    assert set(accuracy(checkpoint.load(original), str(own), PX, "val")) >= {"map50", "map50_95"}


MALFORMED = {
    "no YAML": ("train: [", "no YAML"),
    "nothing": ("", "expected a YAML of keys and values"),
    "a list": ("- a", "expected a YAML of keys and values"),
    "text": ("hello", "expected a YAML of keys and values"),
    "two documents": (PLACES + "names: [a]\n---\na: b", "no YAML"),
    "no images to train on": ("val: images/val\nnames: [a]", "'train:' key missing"),
    "no images to validate on": ("train: images/train\nnames: [a]", "'val:' key missing"),
    "no classes": (PLACES, "expected 'names' or 'nc'"),
    "no name": (PLACES + "names: []", "1 to 100,000 classes"),
    "names that are text": (PLACES + "names: cat", "expected a list"),
    "names in names": (PLACES + "names: [[a], b]", "expected text for each class"),
    "names by name": (PLACES + "names: {cat: 0}", "expected the number of a class, got 'cat'"),
    "a class left out": (PLACES + "names: {0: a, 2: c}", "expected the numbers 0 to 1, got [0, 2]"),
    "a class below zero": (PLACES + "names: {-1: a, 0: c}", "expected the number of a class"),
    "a class twice": (PLACES + "names: {0: a, 0: b}", "`0` is there twice"),
    "a class twice, as text": (PLACES + "names: {0: a, 0.0: b}", "one class twice"),
    "a key twice": (PLACES + "names: [a]\nval: images/train", "`val` is there twice (line 4)"),
    "a number that lies": (PLACES + "nc: 2\nnames: [a]", "'names' length 1 and 'nc: 2' must match"),
    "half a class": (PLACES + "nc: 1.5", "`nc`: expected a whole number"),
    "a truth for a number": (PLACES + "nc: yes", "`nc`: expected a whole number"),
    "no class at all": (PLACES + "nc: 0", "`nc`: expected a whole number"),
    "a billion classes": (PLACES + "nc: 1000000000", "`nc`: expected a whole number from 1 to 100,000"),
    "endless classes": (PLACES + "nc: .inf", "`nc`: expected a whole number"),
    "a number of 5000 digits": (PLACES + "nc: " + "9" * 5000, "`nc` cannot be read"),
    "a number that is text": (PLACES + "nc: !!int x", "`nc` cannot be read"),
    "channels of text": (PLACES + "channels: red\nnames: [a]", "`channels`: expected a whole number"),
    "no channel": (PLACES + "channels: 0\nnames: [a]", "`channels`: expected a whole number"),
    "too many channels": (PLACES + "channels: 99999\nnames: [a]", "`channels`: expected a whole number"),
    "keypoints of text": (PLACES + "kpt_shape: x\nnames: [a]", "`kpt_shape`"),
    "keypoints of one number": (PLACES + "kpt_shape: [3]\nnames: [a]", "`kpt_shape`"),
    "a path that is a number": (PLACES + "path: 3\nnames: [a]", "`path`: expected a path, got 3"),
    "images that are a number": ("train: 3\nval: images/val\nnames: [a]", "`train`: expected a path, got 3"),
    "images that are a mapping": ("train: {a: b}\nval: images/val\nnames: [a]", "`train`: expected a path"),
    "images in a list in a list": ("train: [[a]]\nval: images/val\nnames: [a]", "`train`: expected a path"),
    "a NUL in a path": ('train: "a\\0b"\nval: images/val\nnames: [a]', "is no path"),
    "a path without end": (f"train: {'a' * 9000}\nval: images/val\nnames: [a]", "is no path"),
    "images that are not there": ("train: images/train\nval: gone\nnames: [a]", "images are not at"),
    "an object": (PLACES + "names: !!python/object/apply:os.system ['touch mark']", "an object (line 3)"),
    "an object for a path": ("train: !!python/name:os.system\nval: images/val\nnames: [a]", "an object (line 1)"),
    "deep lists": ("names: " + "[" * 50_000, "nest"),
    "deep mappings": ("{a: " * 5_000, "nested more than 20 deep"),
    "a list in itself": (PLACES + "names: &a [*a]", "aliases counted"),
    "a laugh": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
        + PLACES
        + "names: [a]",
        "aliases counted",
    ),
    "an alias of nothing": (PLACES + "names: *a", "no YAML"),
}


@pytest.mark.parametrize("form", MALFORMED)
def test_malformed_descriptions_are_refused(own, form):
    text, expected = MALFORMED[form]
    message = said(write(own, text))
    assert message.startswith(f"cannot use the data set {own}: ") and expected in message
    assert len(message) < 600 and not (own.parent / "mark").exists()


def test_a_description_too_large_is_refused(own):
    assert "larger than 4 MB" in said(write(own, PLACES + "names: [a]\n#" + "x" * (5 << 20)))


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to(p), lambda p: p.symlink_to("/dev/zero")])
def test_a_description_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "d.yaml")
    assert "cannot use the data set" in said(tmp_path / "d.yaml")


# ---------------------------------------------------------------------------------------------------------------------
# Which YAML decides


def test_a_folder_is_its_yaml(own):
    assert yaml_of(own.parent) == yaml_of(str(own)) == own
    assert dataset_info(own.parent) == dataset_info(own)


def test_a_folder_of_several_is_refused(own):
    shutil.copy(own, own.with_name("other.yaml"))
    own.rename(own.with_name("third.yaml"))
    assert yaml_of(own.parent) is None
    assert "found other.yaml, third.yaml:" in said(own.parent) and "give the YAML itself" in said(own.parent)


def test_nothing_decides_where_there_is_nothing(tmp_path):
    assert yaml_of(None) is yaml_of("") is yaml_of(tmp_path) is yaml_of(tmp_path / "gone.yaml") is None
    assert yaml_of("https://example.com/d.yaml") is None


def test_a_stage_is_done_again_when_the_yaml_in_its_folder_changes(own, original, tmp_path):
    words = [f"model={original}", f"data={own.parent}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "prune.ratio=0.2"]
    words += ["prune.calib_images=4", "sparse_train.epochs=0"]
    assert run("prune", *words).code == 0
    assert "pruned: done before" in run("prune", *words).out
    own.write_text(own.read_text() + "# other\n")
    assert "done before" not in run("prune", *words).out


# ---------------------------------------------------------------------------------------------------------------------
# What is in a split


def test_a_split_is_counted(own):
    files = sorted((own.parent / "labels" / "val").glob("*.txt"))
    boxes = sum(len(file.read_text().splitlines()) for file in files)
    assert split_facts(own, "val") == split_facts(own, "val", single_cls=True) == Split(4, 4, boxes)
    files[0].unlink()
    files[1].write_text("")
    boxes = sum(len(file.read_text().splitlines()) for file in files[2:])
    assert split_facts(own, "val") == Split(4, 2, boxes)


def test_a_split_without_labels_is_told(own):
    shutil.rmtree(own.parent / "labels" / "val")
    assert split_facts(own, "val") == Split(4, 0, 0)


def test_a_split_that_is_not_there_is_told(own):
    with pytest.raises(SlimError, match="has no 'test' images"):
        split_facts(own, "test")
