"""Caches of the right form that say what no scan could: scanned anew; and images beside which others lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_helpers import Runs, alike, cache_of, dataset, stock, write
from tiny import PX

pytest_plugins = ["tiny", "cache_helpers"]


def _label(cache: dict, **change: Any) -> None:
    cache["labels"][0] |= change


LIES = {
    "labels of another image": lambda c: _label(c, im_file="/etc/passwd"),
    "the same image twice": lambda c: c["labels"].append(dict(c["labels"][0])),
    "a file name that is none": lambda c: _label(c, im_file=["a"]),
    "boxes that are no numbers": lambda c: c["labels"][0]["bboxes"].fill(np.nan),
    "boxes without end": lambda c: c["labels"][0]["bboxes"].fill(np.inf),
    "boxes outside the image": lambda c: c["labels"][0]["bboxes"].fill(7),
    "boxes below zero": lambda c: c["labels"][0]["bboxes"].fill(-0.005),
    "a class out of range": lambda c: c["labels"][0]["cls"].fill(4),
    "a class between two": lambda c: c["labels"][0]["cls"].fill(0.5),
    "a class that is none": lambda c: c["labels"][0]["cls"].fill(np.nan),
    "a class below zero": lambda c: c["labels"][0]["cls"].fill(-1),
    "more classes than boxes": lambda c: _label(c, cls=np.zeros((9, 1), np.float32)),
    "boxes of three numbers": lambda c: _label(c, bboxes=np.zeros((1, 3), np.float32)),
    "flat boxes": lambda c: _label(c, bboxes=np.zeros(4, np.float32)),
    "boxes as a list": lambda c: _label(c, bboxes=[[0.5, 0.5, 0.1, 0.1]]),
    "boxes of text": lambda c: _label(c, bboxes=np.array([["a"] * 4])),
    "boxes of another precision": lambda c: _label(c, bboxes=np.zeros((1, 4))),
    "outlines of nothing": lambda c: _label(c, segments=[None]),
    "keypoints": lambda c: _label(c, keypoints=np.zeros((1, 2, 3), np.float32)),
    "pixels": lambda c: _label(c, normalized=False),
    "corners": lambda c: _label(c, bbox_format="xyxy"),
    "no shape": lambda c: _label(c, shape=None),
    "a shape of text": lambda c: _label(c, shape=("a", "b")),
    "a shape of zeros": lambda c: _label(c, shape=(0, 0)),
    "a key too many": lambda c: _label(c, also=1),
    "a label that is none": lambda c: c["labels"].append(None),
    "labels that are none": lambda c: c.update(labels=7),
    "no counts": lambda c: c.pop("results"),
    "counts of text": lambda c: c.update(results=("a",) * 5),
    "too few counts": lambda c: c.update(results=(1, 2)),
    "no messages": lambda c: c.update(msgs=None),
    "messages of numbers": lambda c: c.update(msgs=[1]),
    "a hash of another type": lambda c: c.update(hash=["x"]),
    "a version of another type": lambda c: c.update(version={}),
}


@pytest.mark.parametrize("form", LIES)
def test_a_cache_that_lies_is_not_believed(own, form):
    honest, told = stock(cache_of(own)), stock(cache_of(own))
    LIES[form](told)
    write(cache_of(own), told)
    assert alike(dataset(own, "train").labels, honest["labels"])
    assert alike(stock(cache_of(own)), honest), "written anew"


ARRAYS = {
    "objects": np.array([None, {}], dtype=object),
    "no pixels": np.zeros((0, 4, 3), np.uint8),
    "one number": np.uint8(3),
    "four dimensions": np.zeros((4, 4, 3, 3), np.uint8),
    "text": np.array([["a"]]),
    "floats": np.zeros((8, 8, 3)),
    "columns of kinds": np.zeros((4, 4), [("a", "u1"), ("b", "u1")]),
}


@pytest.mark.parametrize("form", [*ARRAYS, "a pipe", "a folder", "half", "a call"])
def test_an_image_cache_that_is_none_is_passed_over(own, tmp_path, form):
    """Ultralytics reads a `.npy` beside an image in its place, whatever it is."""
    honest, mark = dataset(own, "train"), tmp_path / "mark"
    beside = Path(honest.im_files[0]).with_suffix(".npy")
    if form in ARRAYS:
        np.save(beside, ARRAYS[form])
    elif form == "a call":
        np.save(beside, np.array([Runs(mark)], dtype=object))
    elif form == "half":
        np.save(beside, np.zeros((8, 8, 3), np.uint8))
        beside.write_bytes(beside.read_bytes()[:200])
    else:
        os.mkfifo(beside) if form == "a pipe" else beside.mkdir()
    assert (dataset(own, "train")[0]["img"] == honest[0]["img"]).all()
    assert not mark.exists()


def test_an_image_cache_is_used_as_before(own):
    first = Path(dataset(own, "train").im_files[0])
    np.save(first.with_suffix(".npy"), np.full((PX, PX, 3), 7, np.uint8))
    assert (dataset(own, "train")[0]["img"] == 7).all()
