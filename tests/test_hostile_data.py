"""Data sets from the field, broken or hostile: the image is left out, or one message says what is wrong; none hangs."""

from __future__ import annotations

import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import PX, refused, run
from training_helpers import ARGUMENTS

from yolo_slim import SlimError
from yolo_slim.data import dataset_info, split_facts
from yolo_slim.data.batches import Batches
from yolo_slim.data.facts import images_of

pytest_plugins = ["tiny"]


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """The YAML of a data set of one's own, without caches: 8 images to train on, 4 to validate on."""
    shutil.copytree(data.parent, tmp_path / "shapes", ignore=shutil.ignore_patterns("*.cache"))
    return tmp_path / "shapes" / data.name


def first(own: Path, kind: str = "images", split: str = "train") -> Path:
    return min(path for path in (own.parent / kind / split).iterdir() if path.is_file())


def png(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG whose header says so."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


LABELS = {
    "letters": "a b c d e\n",
    "NaN": "0 nan 0.5 0.1 0.1\n",
    "a class that is NaN": "nan 0.5 0.5 0.1 0.1\n",
    "infinity": "0 inf 0.5 0.1 0.1\n",
    "below zero": "0 0.5 0.5 -0.1 0.1\n",
    "outside": "0 0.5 0.5 7 0.1\n",
    "pixels": "0 12 40 33 20\n",
    "four columns": "0 0.5 0.5 0.1\n",
    "six columns": "0 0.5 0.5 0.1 0.1 0.9\n",
    "lines of all lengths": "0 0.5 0.5 0.1 0.1\n0 0.5\n",
    "outlines and boxes": "0 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.2 0.2 0.3 0.1\n",
    "an outline of halves": "0 0.1 0.1 0.2 0.2 0.3 0.1 0.2\n",
    "a class too many": "4 0.5 0.5 0.1 0.1\n",
    "a class of 1e30": "1e30 0.5 0.5 0.1 0.1\n",
    "half a class": "0.5 0.5 0.5 0.1 0.1\n",
    "a class below zero": "-1 0.5 0.5 0.1 0.1\n",
    "bytes": "\udcff\udcfe\x00\x01",
    "commas": "0,0.5,0.5,0.1,0.1\n",
    "hexadecimal": "0x1 0.5 0.5 0.1 0.1\n",
}


@pytest.mark.parametrize("form", LABELS)
def test_an_image_whose_labels_are_wrong_is_left_out(own, form):
    first(own, "labels").write_bytes(LABELS[form].encode(errors="surrogateescape"))
    assert split_facts(own, "train").images == 7
    assert sum(len(batch["img"]) for batch in Batches(str(own), PX, 99, labelled=True)) == 7


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("make", [make_pipe, make_folder, make_link, Path.unlink, lambda p: p.write_text("")])
def test_labels_that_are_no_file_are_none(own, make):
    make(first(own, "labels"))
    assert split_facts(own, "train").images == 8 and split_facts(own, "train").labelled == 7


IMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("image"),
    "half": lambda p: p.write_bytes(p.read_bytes()[:40]),
    "a program": lambda p: p.write_bytes(b"\x7fELF" + bytes(100)),
    "30,000 pixels a side": lambda p: p.write_bytes(png(30_000, 30_000)),
    "4 billion pixels a side": lambda p: p.write_bytes(png(2**31 - 1, 2**31 - 1)),
    "too small": lambda p: p.write_bytes(png(5, 5, bytes(5 * 16))),
    "a folder": make_folder,
    "a link to itself": make_link,
}


@pytest.mark.parametrize("form", IMAGES)
def test_an_image_that_is_none_is_left_out(own, form):
    before = time.monotonic()
    IMAGES[form](first(own))
    assert split_facts(own, "train").images == 7
    assert sum(len(batch) for batch in Batches(str(own), PX, 99)) == 7
    assert time.monotonic() - before < 60


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "link to a pipe"])
@pytest.mark.parametrize("listed", [False, True])
def test_an_image_that_would_never_end_is_refused(own, original, tmp_path, kind, listed):
    image = first(own)
    image.unlink()
    if kind == "link to a device":
        image.symlink_to("/dev/zero")
    else:
        pipe = image if kind == "pipe" else tmp_path / "pipe"
        os.mkfifo(pipe)
        if pipe != image:
            image.symlink_to(pipe)
    if listed:
        (own.parent / "train.txt").write_text(f"./images/train/{image.name}\n")
        own.write_text(own.read_text().replace("train: images/train", "train: train.txt"))
    words = [f"model={original}", f"data={own}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "prune.ratio=0.2"]
    refused(run("prune", *words, "prune.calib_images=4"), image, "no file but a pipe or a device")


def test_links_that_go_round_end(own):
    """Two of them in one folder are 2 to the 40th ways for a search that follows links."""
    for name in ("a", "b"):
        (own.parent / "images" / "train" / name).symlink_to(own.parent / "images" / "train")
    with pytest.raises(SlimError, match=r"symbolic links in .*train lead to"):
        split_facts(own, "train")


def test_links_that_fan_out_end(own):
    folder = own.parent / "images" / "train"
    for i in range(30):
        (folder / f"d{i}").mkdir()
    for i in range(29):
        for name in ("x", "y"):
            (folder / f"d{i}" / name).symlink_to(folder / f"d{i + 1}")
    with pytest.raises(SlimError, match="symbolic links"):
        split_facts(own, "train")


def test_a_folder_behind_a_link_is_read(own):
    folder = own.parent / "images" / "train"
    folder.rename(own.parent / "elsewhere")
    folder.symlink_to(own.parent / "elsewhere")
    assert split_facts(own, "train").images == 8


LISTS = {
    "images that are gone": ("./gone.png\n", "No valid images"),
    "images without a folder": ("gone.png\n", "cannot use the images and labels"),
    "nothing": ("", "cannot read the 'train' images"),
    "no images": ("a.txt\nb\n", "cannot read the 'train' images"),
    "bytes": ("\udcff\udcfe", "cannot read the 'train' images"),
    "a NUL": ("./a\0b.png\n", "cannot use the images and labels"),
    "an address": ("https://example.com/a.png\n", "No valid images"),
    "a name without end": ("./" + "a" * 5000 + ".png\n", "No valid images"),
    "itself": ("train.txt\n", "cannot read the 'train' images"),
}


@pytest.mark.parametrize("form", LISTS)
def test_a_list_of_nothing_is_refused(own, form):
    text, expected = LISTS[form]
    (own.parent / "train.txt").write_bytes(text.encode(errors="surrogateescape"))
    own.write_text(own.read_text().replace("train: images/train", "train: train.txt"))
    with pytest.raises(SlimError, match=expected):
        split_facts(own, "train")


@pytest.mark.parametrize(("make", "said"), [(make_pipe, "cannot read the 'train'"), (make_link, "images are not at")])
def test_a_list_that_is_no_file_is_refused(own, make, said):
    (own.parent / "train.txt").write_text("")
    make(own.parent / "train.txt")
    own.write_text(own.read_text().replace("train: images/train", "train: train.txt"))
    with pytest.raises(SlimError, match=said):
        split_facts(own, "train")


@pytest.mark.parametrize("place", ["images/train/*.png", "images/*"])
def test_patterns_are_no_folders(own, place):
    own.write_text(own.read_text().replace("train: images/train", f"train: '{place}'"))
    with pytest.raises(SlimError, match=r"'train' images are not at"):
        split_facts(own, "train")


def test_labels_are_needed_for_training(own, original, tmp_path):
    shutil.rmtree(own.parent / "labels" / "train")
    words = [f"model={original}", f"data={own}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}"]
    words += ["sparse_train.mode=targeted", "sparse_train.epochs=1", "sparse_train.min_steps=0"]
    words += ["prune.ratio=0.2", "prune.criterion=l1"]
    refused(run("sparse-train", *words), "images/train", "No labels found")


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_refused_in_one_message(own, original, tmp_path, channels):
    own.write_text(own.read_text() + f"channels: {channels}\n")
    words = [f"model={original}", f"data={own}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "prune.ratio=0.2"]
    refused(run("prune", *words, "prune.calib_images=4"), own, "channels")


def test_an_image_of_floats_beside_others_is_refused_in_one_message(own):
    image = first(own)
    cv2.imwrite(str(image.with_suffix(".tiff")), np.full((PX, PX, 3), 0.5, np.float32))
    image.unlink()
    try:
        batches = list(Batches(str(own), PX, 99))
    except SlimError as e:
        assert str(own) in str(e)
    else:
        assert all(batch.isfinite().all() for batch in batches)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_cannot_be_read_stops_training_in_one_message(own, original, tmp_path, split):
    for image in (own.parent / "images" / split).iterdir():
        image.write_bytes(b"")
    train = {k: v for k, v in ARGUMENTS.items() if k not in ("imgsz", "device")}
    words = [f"model={original}", f"data={own}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}"]
    words += ["sparse_train.epochs=1", "sparse_train.min_steps=0"]
    refused(run("sparse-train", *words, f"sparse_train.train={train}"), "No valid images")


def test_what_is_left_of_a_broken_set_is_what_ultralytics_leaves(own):
    """Labels and files of the others are theirs."""
    whole = images_of(dataset_info(own), "train", PX)
    (own.parent / "labels" / "train.cache").unlink()
    first(own, "labels").write_text("a b c d e\n")
    left = images_of(dataset_info(own), "train", PX)
    assert left.im_files == whole.im_files[1:]
    assert all((a["bboxes"] == b["bboxes"]).all() for a, b in zip(left.labels, whole.labels[1:], strict=True))
