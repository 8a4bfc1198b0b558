"""A checkpoint as the zip that it is: every byte accounted for before any of it is used."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from yolo_slim.errors import SlimError

LARGEST = 8 << 30
"""Bytes of a file; the largest YOLO in the middle of its training, with its optimizer's state, is a quarter of it."""
LARGEST_PICKLE = 64 << 20
"""Bytes of what describes the detector. Without its tensors that is a tenth of a megabyte."""
MOST_RECORDS = 100_000

DAMAGED = "is not a readable checkpoint: empty, truncated or damaged ({}). Copy it again"
POINTER, POINTED = b"version https", "is a pointer of Git LFS and not the file: `git lfs pull` brings that"
"""How the small files begin that stand for large ones in a clone without them, and what is said of one."""
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files began before torch 1.6: a pickled number."""


@dataclass(frozen=True)
class Archive:
    """A checkpoint's records: the pickle, and the bytes of each storage under its key."""

    pickle: bytes
    storages: dict[str, bytes]

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.pickle) + sum(map(len, self.storages.values()))

    def digest(self) -> bytes:
        """The sha256 of all records: of two archives with the same one, the same is read."""
        total = hashlib.sha256()
        for name, content in (("", self.pickle), *self.storages.items()):
            total.update(f"{len(name)} {name} {len(content)} ".encode())
            total.update(content)
        return total.digest()


def opened(path: Path) -> Archive:
    """Read a checkpoint's records.

    Raises:
        SlimError: what the file is instead, or what is wrong with it.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise SlimError(f"has {size / 1e9:.1f} GB: no detector is as large")
        with path.open("rb") as file:
            start = file.read(len(LEGACY))
            if start.startswith(POINTER):
                raise SlimError(POINTED)
            if start == LEGACY:
                raise SlimError(_legacy(file.read(LARGEST_PICKLE)))
        with zipfile.ZipFile(path) as archive:
            return _records(archive, size)
    except SlimError:
        raise
    except OSError as e:
        raise SlimError(f"cannot be read: {e.strerror or e}") from e
    except (MemoryError, RecursionError) as e:
        raise SlimError(f"does not fit into memory ({type(e).__name__})") from e
    except Exception as e:  # zipfile has some ten kinds for what is no zip
        raise SlimError(DAMAGED.format(str(e) or type(e).__name__)) from e


def in_pickle(path: Path, words: re.Pattern[bytes]) -> bool:
    """Whether the pickle of a checkpoint holds these words; what is no checkpoint holds none."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl"))
            if name.file_size > LARGEST_PICKLE or name.compress_type != zipfile.ZIP_STORED:
                return False
            return words.search(archive.read(name)) is not None
    except Exception:  # of the many kinds that zipfile has: whoever reads it next tells of it
        return False


def _records(archive: zipfile.ZipFile, size: int) -> Archive:
    entries = archive.infolist()
    root = _root(entries)
    if len(entries) > MOST_RECORDS:
        raise SlimError(f"holds {len(entries)} records: no checkpoint does")
    names = [entry.filename for entry in entries]
    if f"{root}/constants.pkl" in names:
        raise SlimError("is a TorchScript export: give the checkpoint that it was exported from")
    if twice := next((name for name in names if names.count(name) > 1), None) if len({*names}) < len(names) else None:
        raise SlimError(f"holds two records named {twice}: only one can be meant, so neither is believed")
    if packed := next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None):
        raise SlimError(f"was packed anew ({packed} is compressed, which torch never does): save it with torch again")
    if sum(entry.file_size for entry in entries) > size:
        raise SlimError(DAMAGED.format("its records overlap"))
    if archive.getinfo(f"{root}/data.pkl").file_size > LARGEST_PICKLE:
        raise SlimError("describes its detector in more than 64 MB: no checkpoint does")
    read = {entry.filename.removeprefix(f"{root}/"): archive.read(entry) for entry in entries}  # and checks each sum
    if read.get("byteorder", b"little").strip() != b"little":
        raise SlimError("was written on a big-endian machine: save it on a little-endian one (x86, ARM) again")
    storages = {name.removeprefix("data/"): content for name, content in read.items() if name.startswith("data/")}
    return Archive(read["data.pkl"], storages)


def _root(entries: list[zipfile.ZipInfo]) -> str:
    """The folder in the zip that holds everything."""
    found = [entry.filename.removesuffix("/data.pkl") for entry in entries if entry.filename.endswith("/data.pkl")]
    if not found:
        raise SlimError("is a zip file, but no checkpoint: it has no data.pkl. Unpack it, and give the .pt in it")
    if any(not entry.filename.startswith(f"{found[0]}/") for entry in entries):
        raise SlimError(DAMAGED.format(f"it holds more than the folder {found[0]}"))
    return found[0]


def _legacy(rest: bytes) -> str:
    """Files of torch before 1.6 are pickles one after another; what they name stands in them as text."""
    named = _named(rest)
    return (
        f"is in the format of torch before 1.6, which is refused: it cannot be checked before it is loaded{named}. "
        "Load it where it was made, and save it with torch.save of 1.6 or later"
    )


def _named(rest: bytes) -> str:
    from yolo_slim.formats.strangers import foreign

    return f" (it names {name})" if (name := foreign(rest)) else ""
