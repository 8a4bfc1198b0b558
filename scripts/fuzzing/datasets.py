"""Data sets whose YAML, labels, label caches, images or names are wrong, or that want to run something."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import make_shapes
import numpy as np
import yaml

from fuzzing import opcodes
from fuzzing.case import PLANTED, Case
from fuzzing.exports import TEXTS, mutated
from fuzzing.pickles import CORPUS

WORDS = ["prune", "model=x.pt", "data=shapes/shapes.yaml", "imgsz=64", "prune.ratio=0.3", "prune.criterion=l1",
         "prune.calib_images=4", "prune.min_channels=1", "prune.round_to=1"]  # fmt: skip
NAMES = {0: "circle", 1: "square", 2: "triangle", 3: "star"}


@functools.cache
def model() -> Path:
    """Eight images to train on and four to validate on, drawn once for all cases."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-shapes-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_shapes.draw(folder / "shapes", train=8, val=4, test=0, imgsz=64, seed=0)
    return folder / "shapes"


def drawn(work: Path) -> Path:
    """A data set in `work`/shapes."""
    shutil.copytree(model(), work / "shapes")
    return work / "shapes"


def case(rng: random.Random, work: Path) -> Case:
    """One thing wrong, and a detector."""
    shutil.copyfile(CORPUS / "slim-once.pt", work / "x.pt")
    deed = rng.choice(DEEDS)
    told = deed(rng, drawn(work))
    words = list(WORDS)
    if rng.random() < 0.2:
        words += ["prune.criterion=obs"]
    if told.startswith("data="):
        words[2], told = told, told
    return Case(words, f"{deed.__name__}: {told[:150]}", seconds=10)


def benign(rng: random.Random, work: Path) -> Case:
    """A right one; written in one of the ways that Ultralytics reads."""
    shutil.copyfile(CORPUS / "slim-once.pt", work / "x.pt")
    folder = drawn(work)
    told = rng.choice(
        ["as drawn", "list of names", "lists of images", "an absolute path", "an empty label", "a comment"]
    )
    info = {"train": "images/train", "val": "images/val", "names": NAMES}
    if told == "list of names":
        info["names"] = list(NAMES.values())
    elif told == "lists of images":
        (folder / "train.txt").write_text(
            "".join(f"./images/train/{p.name}\n" for p in (folder / "images/train").iterdir())
        )
        info["train"] = "train.txt"
    elif told == "an absolute path":
        info["path"] = str(folder)
    elif told == "an empty label":
        next((folder / "labels/train").iterdir()).write_text("")
    (folder / "shapes.yaml").write_text(("# größe\n" if told == "a comment" else "") + yaml.safe_dump(info))
    return Case(list(WORDS), told, benign=True, seconds=20)


# ---------------------------------------------------------------------------------------------------------------------
# Deeds: each says what it did


def _file(rng: random.Random, folder: Path, where: str) -> Path:
    return rng.choice(sorted((folder / where / rng.choice(["train", "val"])).iterdir()))


def the_yaml(rng: random.Random, folder: Path) -> str:
    """One key of it."""
    info = {"train": "images/train", "val": "images/val", "names": NAMES}
    key, value = rng.choice([
        ("names", None), ("names", 3), ("names", "circle"), ("names", []), ("names", ["a"]), ("names", {0: "a",
        2: "b"}),
        ("names", {"0": "circle"}), ("names", {i: [i] for i in range(4)}), ("names", {i: "x" for i in range(4)}),
        ("names", dict(enumerate(["star", "circle", "square", "triangle"]))), ("names", {i: True for i in range(4)}),
        ("names", {-1: "a"}), ("names", {10**9: "a"}), ("names", {0.5: "a"}), ("names", ["a" * 10**5] * 4), ("nc", 3),
        ("names", [PLANTED, "a", "b", "c"]), ("names", ["../../x", "/", "\n", ""]), ("names", ["<b>", "|", "`", "]"]),
        ("names", {0: "circle", 1: "square", 2: "triangle", 3: None}), ("nc", "4"), ("nc", -1), ("nc", [4]), ("nc",
        10**400),
        ("train", None), ("train", 3), ("train", []), ("train", "missing"), ("train", ["images/train", 3]), ("train",
        {}),
        ("train", "/"), ("train", "/etc"), ("train", "http://127.0.0.1:9/train.zip"), ("train", "."), ("train", ""),
        ("train", "images/train/train_00000.jpg"), ("val", None), ("val", "missing"), ("val", "shapes.yaml"), ("val",
        1.5),
        ("val", "/dev/zero"), ("val", "images/train\x00"), ("path", 3), ("path", None), ("path", "/nowhere"), ("path",
        [1]),
        ("path", "~"), ("path", "x" * 5000), ("download", "https://127.0.0.1:9/x.zip"), ("test", 3), ("test",
        "missing"),
        ("download", "import os; os.system('touch fuzzcanary')"), ("download", "bash touch fuzzcanary"), ("channels",
        "x"),
        ("channels", 10**9), ("channels", 1), ("channels", 0), ("kpt_shape", [1]), ("yaml_file", 3), ("extra", [1]),
    ])  # fmt: skip
    info[key] = value
    if key == "download":
        info["val"] = info["train"] = "missing"
    if value is None and rng.random() < 0.5:
        del info[key]
    (folder / "shapes.yaml").write_text(yaml.safe_dump(info))
    return f"{key}: {str(value)[:60]}"


def the_text(rng: random.Random, folder: Path) -> str:
    """The YAML as a text."""
    raw = (folder / "shapes.yaml").read_bytes()
    text = rng.choice(
        [mutated(rng, raw), mutated(rng, raw), rng.choice(TEXTS), raw.decode().encode("utf-16"), raw + raw]
    )
    (folder / "shapes.yaml").write_bytes(text)
    return str(text[:60])


def a_label(rng: random.Random, folder: Path) -> str:
    """One or all of them."""
    text = rng.choice([
        "0 0.5 0.5 nan 0.1", "0 inf 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "4 0.5 0.5 0.1 0.1",
        "9999999999 0.5 0.5 0.1 0.1",
        "0 0.5 0.5 0.1", "0 0.5 0.5 0.1 0.1 0.9", "0 1.5 0.5 0.1 0.1", "0 0.5 0.5 -0.1 0.1", "0 0.5 0.5 0 0", "x y z",
        "\x00" * 99,
        "0.5 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1 0.1\n" * 20000, "0 " + "0.5 " * 1001, "0 0.1 0.1 0.2 0.1 0.2 0.2",
        "0,0.5,0.5,0.1,0.1",
        "1e400 1e400 1e400 1e400 1e400", "0 ٠.٥ 0.5 0.1 0.1", "\ufeff0 0.5 0.5 0.1 0.1", "nan nan nan nan nan", "0",
        "9" * 10**5,
    ])  # fmt: skip
    every = rng.random() < 0.3
    where = rng.choice(["train", "val"])
    for path in sorted((folder / "labels" / where).iterdir())[: None if every else 1]:
        path.write_text(text)
    return f"{where}, {'all' if every else 'one'}: {text[:40]!r}"


def label_bytes(rng: random.Random, folder: Path) -> str:
    """Noise in a label file, or no file."""
    path = _file(rng, folder, "labels")
    how = rng.choice(["noise", "mutated", "a folder", "closed", "a loop"])
    raw = path.read_bytes()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a loop":
        path.symlink_to(path.name)
    else:
        path.write_bytes(rng.randbytes(500) if how == "noise" else mutated(rng, raw))
    return f"{path.name} {how}"


def a_cache(rng: random.Random, folder: Path) -> str:
    """A label cache that somebody else has written."""
    where = rng.choice(["train", "val"])
    path = folder / "labels" / f"{where}.cache"
    how = rng.choice(["npy", "npy", "npy", "pickle", "right but for the labels", "noise", "npz", "a folder"])
    call, way = rng.choice(opcodes.SEEN), rng.choice(opcodes.WAYS)
    stream = b"\x80\x02" + way(call) + b"."
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    if how == "npy":
        path.write_bytes(header.getvalue() + stream)
    elif how == "pickle":
        path.write_bytes(stream)
    elif how == "a folder":
        path.mkdir()
    elif how == "noise":
        path.write_bytes(rng.choice([b"", rng.randbytes(300), mutated(rng, header.getvalue() + stream)]))
    else:
        _right_cache(rng, folder, where, path, as_zip=how == "npz")
    return f"{path.name} {how}, {call[0]}.{call[1]} {way.__name__}"


def _right_cache(rng: random.Random, folder: Path, where: str, path: Path, *, as_zip: bool) -> None:
    """With Ultralytics' hash and version, so that it is believed, and what it then tells."""
    from ultralytics.data.utils import get_hash

    images = [str(p) for p in sorted((folder / "images" / where).iterdir())]
    labels = [str(p) for p in sorted((folder / "labels" / where).iterdir())]
    one = {"im_file": images[0], "shape": (64, 64), "cls": np.zeros((1, 1)), "bboxes": np.full((1, 4), 0.5),
        "segments": [],
           "keypoints": None, "normalized": True, "bbox_format": "xywh"}  # fmt: skip
    one[rng.choice(list(one))] = rng.choice(
        [None, 3, "x", [], "/etc/passwd", np.full((1, 4), np.nan), np.zeros((0, 9)), {}]
    )
    content = {"labels": rng.choice([[one] * len(images), [], None, [one, 3], "x"]), "hash": get_hash(labels + images),
               "version": rng.choice(["1.0.3", "1.0.4", 3]), "results": rng.choice([(4, 0, 0, 0, 4), None, "x"]),
               "msgs": []}  # fmt: skip
    with path.open("wb") as file:
        if as_zip:
            np.savez(file, content)
        else:
            np.save(file, content)


def an_image(rng: random.Random, folder: Path) -> str:
    """Not the picture that it was."""
    path = _file(rng, folder, "images")
    raw = path.read_bytes()
    how = rng.choice(["empty", "mutated", "mutated", "noise", "text", "a folder", "a loop", "a bomb", "a fifo", "short",
        "gone",
                      "tiny", "an npy beside it", "a pickled npy beside it"])  # fmt: skip
    if "beside" in how:
        array = np.zeros(3) if how.startswith("an") else np.array([pickle.PickleBuffer], dtype=object)
        np.save(path.with_suffix(".npy"), array, allow_pickle=True)
        return f"{path.name}, {how}"
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a loop":
        path.symlink_to(path.name)
    elif how == "a fifo":
        os.mkfifo(path)
    elif how != "gone":
        path.write_bytes({"empty": b"", "noise": rng.randbytes(999), "text": b"<svg/>", "short": raw[:200],
                          "tiny": _bitmap(1, 1), "a bomb": _bitmap(60000, 60000)}.get(how) or mutated(rng,
                          raw))  # fmt: skip
    return f"{path.name} {how}"


def _bitmap(width: int, height: int) -> bytes:
    """A PNG that says it is this large."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\x00" * 10**6, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def file_names(rng: random.Random, folder: Path) -> str:
    """Of images."""
    path = _file(rng, folder, "images")
    name = rng.choice([f"{PLANTED}.jpg", "a\nb.jpg", "ü 🦆.jpg", ".jpg", "x.JPG", "x.jpg.txt", "%s{}.jpg", "a'b.jpg",
        "-x.jpg",
                       "x" * 200 + ".jpg", "images.jpg", "x.exe", "x"])  # fmt: skip
    path.rename(path.with_name(name))
    return repr(name)[:60]


def nothing_there(rng: random.Random, folder: Path) -> str:
    """Folders are empty, missing, or files."""
    where = folder / rng.choice(["images/train", "images/val", "labels/train", "labels/val", "labels", "images"])
    shutil.rmtree(where)
    how = rng.choice(["gone", "empty", "a file"])
    if how == "empty":
        where.mkdir()
    elif how == "a file":
        where.write_text("x")
    return f"{where.name} {how}"


def another_place(rng: random.Random, folder: Path) -> str:
    """`data=` that is no YAML of a data set."""
    return "data=" + rng.choice([
        "http://127.0.0.1:9/x.yaml", "https://127.0.0.1:9/x.zip", "ul://x/y", "shapes", "shapes/images", "x.pt",
        "x.zip", ".",
        "rtsp://127.0.0.1:9/x", "s3://x/y.yaml", "gs://x/y.yaml", "coco8.yaml", "coco128.yaml", "coco8", "missing.yaml",
        "..",
        "shapes/images/val/val_00000.jpg", "", "/dev/zero", "/dev/null", "HTTP://127.0.0.1:9/x.yaml",
        "grpc://127.0.0.1:9/x",
        "file:///etc/passwd", "shapes/shapes.yaml/", "x.tar.gz", "https://127.0.0.1:9/x.ndjson", "x.ndjson", "x" * 5000,
    ])  # fmt: skip


DEEDS: list[Callable[[random.Random, Path], str]] = [the_yaml, the_yaml, the_text, a_label, a_label, label_bytes,
a_cache,
                                                     a_cache, an_image, file_names, nothing_there,
                                                     another_place]  # fmt: skip
