"""Hostile pickles in every container that torch reads, alone and hidden in a real checkpoint."""

from __future__ import annotations

import functools
import io
import pickle
import random
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

from fuzzing import opcodes
from fuzzing.case import Case
from fuzzing.opcodes import SEEN, WAYS, bombs, named, plain, text

CORPUS = Path(__file__).parents[2] / "tests" / "corpus"
HEADERS = [b"", *(b"\x80" + bytes([n]) for n in range(6))]
MAGIC = 0x1950A86A20F9469CFC6C
"""Of torch's container of old."""

Entries = dict[str, bytes]


def entries_of(path: Path) -> Entries:
    """The files in a checkpoint."""
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(entries: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file; names may come twice."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as file:
        warnings.simplefilter("ignore")
        for name, content in entries:
            file.writestr(zipfile.ZipInfo(name), content, how)
    return out.getvalue()


@functools.cache
def bomb(name: str) -> bytes:
    """A zip file of megabytes whose one entry has gigabytes."""
    out, nothing = io.BytesIO(), bytes(10**8)
    zipping = zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with zipping as file, file.open(name, "w", force_zip64=True) as entry:
        for _ in range(23):
            entry.write(nothing)
    return out.getvalue()


def case(rng: random.Random, work: Path) -> Case:
    """A file that asks for a call which no checkpoint makes, or for more than it may have."""
    if rng.random() < 0.2:
        hostile, told = bombs(rng), "bomb"
    else:
        call, way = rng.choice(SEEN), rng.choice(WAYS)
        hostile, told = way(call), f"{call[0]}.{call[1]} {way.__name__}"
    place = rng.choice([alone, before, within, within, in_model, in_model])
    container = rng.choice(CONTAINERS)
    stream, base = place(rng, hostile)
    (work / "x.pt").write_bytes(container(rng, stream, base))
    _company(work)
    words = rng.choice([["inspect", "x.pt", "imgsz=64"], ["prune", "model=x.pt", "imgsz=64", "prune.ratio=0.3"]])
    words = ["load", "x.pt"] if rng.random() < 0.3 else words
    env = {"ULTRALYTICS_SAFE_LOAD": "0"} if rng.random() < 0.3 else {}
    never = container is not as_many  # what nobody reads is no harm
    return Case(words, f"{told}, {place.__name__}, {container.__name__}", never=never, env=env)


def _company(work: Path) -> None:
    """What a payload may reach for beside its own file."""
    (work / "second.pt").write_bytes(b"\x80\x02" + opcodes.by_reduce(SEEN[0]) + b".")
    np.save(work / "second.npy", np.array([Canary()], dtype=object), allow_pickle=True)
    (work / "fuzzcanary_module.py").write_text("fuzzcanary = 1\n")
    (work / "evil.yaml").write_text(
        "nc: 4\nactivation: __import__('os').system('touch fuzzcanary')\nbackbone: [[-1, 1, Conv, [8]]]\n"
        "head: [[[0], 1, Detect, [nc]]]\n"
    )


class Canary:
    """Pickled, it is a call."""

    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch fuzzcanary",)


def _benign(rng: random.Random) -> Entries:
    return entries_of(CORPUS / rng.choice(["slim-once.pt", "slim-twice.pt"]))


def _stream(entries: Entries) -> bytes:
    return next(content for name, content in entries.items() if name.endswith("data.pkl"))


def alone(rng: random.Random, hostile: bytes) -> tuple[bytes, Entries]:
    """Nothing else in the pickle."""
    return rng.choice(HEADERS) + hostile + b".", _benign(rng)


def before(rng: random.Random, hostile: bytes) -> tuple[bytes, Entries]:
    """Called and thrown away; then the real checkpoint."""
    base = _benign(rng)
    return rng.choice(HEADERS) + hostile + b"0" + _stream(base)[2:], base


def within(rng: random.Random, hostile: bytes) -> tuple[bytes, Entries]:
    """One entry more in the checkpoint's dict."""
    base = _benign(rng)
    key = rng.choice(["extra", "model", "ema", "train_args", "yolo_slim", "date"])
    return _stream(base)[:-1] + text(key) + hostile + b"s.", base


def in_model(rng: random.Random, hostile: bytes) -> tuple[bytes, Entries]:
    """In the state of a module, at some place where an attribute is set."""
    base = _benign(rng)
    stream = _stream(base)
    places = [i for i in range(len(stream)) if stream.startswith(b"X\x08\x00\x00\x00training", i)]
    at = rng.choice(places)
    return stream[:at] + text(rng.choice(["forward", "anchors", "x", "act"])) + hostile + stream[at:], base


def as_zip(rng: random.Random, stream: bytes, base: Entries) -> bytes:
    """As torch writes it."""
    return zipped([(name, stream if name.endswith("data.pkl") else content) for name, content in base.items()])


def as_twins(rng: random.Random, stream: bytes, base: Entries) -> bytes:
    """Two entries of one name: readers differ in which they take."""
    name = next(name for name in base if name.endswith("data.pkl"))
    pair = [(name, stream), (name, base[name])]
    rng.shuffle(pair)
    rest = [(n, content) for n, content in base.items() if n != name]
    return zipped([pair[0], *rest, pair[1]] if rng.random() < 0.5 else [*pair, *rest])


def as_many(rng: random.Random, stream: bytes, base: Entries) -> bytes:
    """Another pickle beside the real one."""
    folder = next(iter(base)).partition("/")[0]
    other = rng.choice([f"{folder}/constants.pkl", "data.pkl", "other/data.pkl", f"{folder}/sub/data.pkl",
                        f"{folder}/../{folder}/data.pkl", "../../fuzzcanary.pkl", f"{folder}/code/__torch__.py",
                        f"{folder}\\data.pkl", f"{folder}/DATA.PKL"])  # fmt: skip
    pair = [(other, stream), *base.items()]
    return zipped(pair if rng.random() < 0.5 else pair[::-1])


def as_squeezed(rng: random.Random, stream: bytes, base: Entries) -> bytes:
    """Compressed, perhaps followed by nothing, or by gigabytes of it."""
    if rng.random() < 0.1:
        return bomb("archive/data.pkl")
    pad = b"\x00" * rng.choice([0, 10**6])
    name = next(name for name in base if name.endswith("data.pkl"))
    return zipped([*({**base, name: stream + pad}).items()], zipfile.ZIP_DEFLATED)


def as_wrong_sum(rng: random.Random, stream: bytes, base: Entries) -> bytes:
    """The checksum is that of another content."""
    whole = bytearray(as_zip(rng, stream, base))
    at = whole.find(stream[:64])
    whole[at + len(stream) - 2] ^= 1
    return bytes(whole)


def as_old(rng: random.Random, stream: bytes, base: Entries) -> bytes:
    """torch's container before 1.6: five pickles in a row, any of which may be the hostile one."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [
        pickle.dumps(MAGIC, 2),
        pickle.dumps(1001, 2),
        pickle.dumps(info, 2),
        pickle.dumps({}, 2),
        pickle.dumps([], 2),
    ]
    parts[rng.choice([2, 3, 3, 3, 4])] = stream
    return b"".join(parts)


def as_tar(rng: random.Random, stream: bytes, base: Entries) -> bytes:
    """torch's container before that."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name in (
            "sys_info",
            "pickle",
            "storages",
            "tensors",
            rng.choice(["x", "../../fuzzcanary", "/tmp/fuzzcanary"]),
        ):
            content = stream if name in ("pickle", rng.choice(["storages", "tensors"])) else pickle.dumps(0, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def as_itself(rng: random.Random, stream: bytes, base: Entries) -> bytes:
    """A pickle and no more."""
    return stream


CONTAINERS = [as_zip, as_zip, as_zip, as_zip, as_twins, as_many, as_squeezed, as_wrong_sum, as_old, as_tar, as_itself]


def benign(rng: random.Random, work: Path) -> Case:
    """A real checkpoint, of any of those kept."""
    path = rng.choice(sorted(CORPUS.glob("*.pt")))
    name = rng.choice(["x.pt", path.name, "my best (1).pt", "größe.pt", "it's.pt"])
    (work / name).write_bytes(path.read_bytes())
    words = rng.choice(
        [["inspect", name, "imgsz=64"], ["load", name], ["prune", f"model={name}", "imgsz=64", "prune.ratio=0.3",
         "prune.min_channels=1", "prune.round_to=1"]]
    )  # fmt: skip
    return Case(words, f"{path.name} as {name}", benign=True, env=rng.choice([{}, {"ULTRALYTICS_SAFE_LOAD": "0"}]))


__all__ = ["CORPUS", "benign", "case", "entries_of", "named", "plain", "zipped"]
