"""Label caches: honest ones are read as Ultralytics reads them, others are not run, and not believed."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from cache_helpers import Runs, alike, cache_of, dataset, stock, write
from tiny import PX, contents, run, run_alone

from yolo_slim.data import guarded, split_facts
from yolo_slim.data.caches import check, read

pytest_plugins = ["tiny", "cache_helpers"]


def polygons(data: Path) -> None:
    """Make outlines of all boxes, as a data set for segmentation has them."""
    for file in (data.parent / "labels" / "train").glob("*.txt"):
        rows = [[float(v) for v in line.split()] for line in file.read_text().splitlines()]
        corners = [(k, x - w / 3, y - h / 3, x + w / 3, y - h / 3, x, y + h / 3) for k, x, y, w, h in rows]
        file.write_text("".join(" ".join(map(str, (int(row[0]), *row[1:]))) + "\n" for row in corners))


@pytest.mark.parametrize("outlines", [False, True])
def test_an_honest_cache_is_read_as_ultralytics_reads_it(own, outlines):
    if outlines:
        polygons(own)
        dataset(own, "train")
    found = read(cache_of(own))
    assert alike(found, stock(cache_of(own)))
    assert sum(len(label["segments"]) for label in found["labels"]) == (
        split_facts(own, "train").boxes if outlines else 0
    )
    assert all(label["cls"].flags.writeable for label in found["labels"])


@pytest.mark.parametrize("protocol", [3, 4])
def test_caches_of_older_numpy_are_read(own, protocol):
    """It numbered its memo, and called its core by another name."""
    honest = stock(cache_of(own))
    head, body = cache_of(own).read_bytes()[:128], pickle.dumps(np.array(honest, dtype=object), protocol=protocol)
    if protocol == 3:
        body = body.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    cache_of(own).write_bytes(head + body)
    assert alike(read(cache_of(own)), honest)


def test_a_cache_that_is_up_to_date_is_used(own, caplog):
    before = contents(own.parent)
    assert alike(dataset(own, "train").labels, stock(cache_of(own))["labels"])
    assert contents(own.parent) == before and "anew" not in caplog.text


HOSTILE = {
    "a call": lambda honest, mark: Runs(mark),
    "a call among the labels": lambda honest, mark: {**honest, "labels": [*honest["labels"], Runs(mark)]},
    "a call among the messages": lambda honest, mark: {**honest, "msgs": [Runs(mark)]},
    "a call by a builtin": lambda honest, mark: {**honest, "hash": Runs(mark, open)},
    "a call as an array": lambda honest, mark: np.array([Runs(mark)], dtype=object),
    "a call inside an array": lambda honest, mark: {**honest, "x": np.array([Runs(mark)], dtype=object)},
}


@pytest.mark.parametrize("form", HOSTILE)
def test_what_a_cache_calls_is_not_run(own, tmp_path, caplog, form):
    honest, mark = stock(cache_of(own)), tmp_path / "mark"
    write(cache_of(own), HOSTILE[form](honest, mark))
    assert alike(dataset(own, "train").labels, honest["labels"])
    assert not mark.exists()
    assert caplog.text.count("scanned anew") == 1
    assert alike(stock(cache_of(own)), honest), "written anew"


@pytest.mark.parametrize("stage", ["prune", "finetune"])
def test_no_stage_runs_a_cache(original, own, tmp_path, stage):
    mark = tmp_path / "mark"
    evil = {"labels": [], "x": Runs(mark)}
    words = [f"model={original}", f"data={own}", f"imgsz={PX}", f"runs={tmp_path}", "prune.calib_images=4"]
    words += ["prune.ratio=0.2", "finetune.epochs=1", "finetune.train={batch: 4, workers: 0}", "finetune.distill=null"]
    for split in ("train", "val"):
        write(cache_of(own, split), evil)
    assert run("prune", *words).code == 0
    if stage == "finetune":
        for split in ("train", "val"):
            write(cache_of(own, split), evil)
        assert run("finetune", *words).code == 0
    assert not mark.exists()
    assert stock(cache_of(own, "val"))["labels"] != [], "scanned anew"


def test_no_thread_falls_between(own, tmp_path):
    honest, mark, seen = stock(cache_of(own)), tmp_path / "mark", []
    write(cache_of(own), Runs(mark))
    threads = [threading.Thread(target=lambda: seen.append(dataset(own, "train").labels)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mark.exists() and len(seen) == 4
    assert all(alike(labels, honest["labels"]) for labels in seen)


DEEP = b")" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60))
"""A tuple of one tuple twice, which is a tuple of one tuple twice, and so on."""

BROKEN = {
    "empty": b"",
    "text": b"labels",
    "a header alone": b"\x93NUMPY\x01\x00",
    "a header of another version": b"\x93NUMPY\x09\x00v\x00{}",
    "a header that calls": b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('false')\n",
    "a pickle without a header": pickle.dumps({"labels": []}),
    "a memo of 70 GB": b"r\xff\xff\xff\xff.",
    "a text of 4 GB": b"X\xff\xff\xff\xffa.",
    "a frame without end": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "nothing on the stack": b".",
    "a mark too few": b"t.",
    "an extension": b"\x82\x01.",
    "a persistent name": b"Pos.system\n.",
    "an attribute of a name": b"cnumpy\nndarray\n}(X\x01\x00\x00\x00aK\x01ub.",
    "a name as the whole": b"cos\nsystem\n.",
    "a key that takes for ever to be hashed": b"}" + DEEP + b"K\x01s.",
    "a call that takes for ever to be hashed": DEEP + b")R.",
    "a number that is turned round": b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4\x89\x88tR(K\x03X\x01\x00\x00\x00>NNtb.",
}


@pytest.mark.parametrize("form", BROKEN)
def test_a_broken_cache_is_scanned_anew(own, form):
    honest = stock(cache_of(own))
    head = b"" if form in list(BROKEN)[:6] else cache_of(own).read_bytes()[:128]
    cache_of(own).write_bytes(head + BROKEN[form])
    with pytest.raises(ValueError, match=r"."):
        read(cache_of(own))
    assert alike(dataset(own, "train").labels, honest["labels"])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_half_a_cache_is_scanned_anew(own, share):
    honest, whole = stock(cache_of(own)), cache_of(own).read_bytes()
    cache_of(own).write_bytes(whole[: int(share * len(whole))])
    assert alike(dataset(own, "train").labels, honest["labels"])


def test_any_flipped_byte_is_read_or_refused(own):
    whole, files = cache_of(own).read_bytes(), dataset(own, "train").im_files
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 300):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        cache_of(own).write_bytes(flipped)
        try:
            check(read(cache_of(own)), files, 4)
        except ValueError:
            continue


def test_a_list_that_stands_in_itself_a_million_times_ends(own):
    honest = stock(cache_of(own))
    shared = honest["labels"][0]["segments"] = [np.zeros((3, 2), np.float32)] * 200
    for label in honest["labels"]:
        label["segments"] = shared
        label["cls"], label["bboxes"] = np.zeros((200, 1), np.float32), np.full((200, 4), 0.5, np.float32)
    with pytest.raises(ValueError, match="share"):
        check(honest, [label["im_file"] for label in honest["labels"]], 4)


def test_messages_cannot_move_the_cursor(own):
    told = stock(cache_of(own))
    told["msgs"] = ["\x1b[2Jgone"]
    check(told, [label["im_file"] for label in told["labels"]], 4)
    assert told["msgs"] == [" [2Jgone"]


def test_no_cache_is_written_through_a_link(own, tmp_path):
    target = tmp_path / "elsewhere"
    cache_of(own).unlink()
    cache_of(own).symlink_to(target)
    dataset(own, "train")
    assert not target.exists() and not cache_of(own).is_symlink()
    assert stock(cache_of(own))["labels"]


def test_a_cache_behind_a_link_is_read(own, tmp_path, caplog):
    cache_of(own).rename(tmp_path / "kept")
    cache_of(own).symlink_to(tmp_path / "kept")
    before = (tmp_path / "kept").read_bytes()
    assert dataset(own, "train").labels and "anew" not in caplog.text
    assert (tmp_path / "kept").read_bytes() == before


NO_FILES = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_a_cache_that_is_no_file(own, make):
    honest = stock(cache_of(own))
    cache_of(own).unlink()
    make(cache_of(own))
    assert alike(dataset(own, "train").labels, honest["labels"])


def test_labels_that_cannot_be_written_beside(own, monkeypatch, caplog):
    honest = stock(cache_of(own))
    cache_of(own).unlink()
    monkeypatch.setattr(guarded, "_save", lambda *a: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert alike(dataset(own, "train").labels, honest["labels"])
    assert "no label cache written" in caplog.text


def test_whoever_imports_the_trainer_reads_caches_so(tmp_path):
    """Workers of several GPUs, and of data loaders that are started anew, import no more than its class."""
    code = """
from yolo_slim.training.trainer import SlimTrainer
from yolo_slim.data import guarded
from ultralytics.data import build, dataset, utils
print(dataset.load_dataset_cache_file is utils.load_dataset_cache_file is guarded.load_cache)
print(build.YOLODataset is guarded.GuardedDataset)
"""
    answer = run_alone(cwd=tmp_path, code=code)
    assert answer.out.split() == ["True", "True"], answer.err
