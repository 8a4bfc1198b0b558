"""What a stage did: stage.json, written last. Its presence, whole and with outputs as it names them, means done."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import uuid
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from yolo_slim import __version__
from yolo_slim.errors import SlimError, why
from yolo_slim.text import lines

FILE = "stage.json"

SUM = "sum"
"""In the file of a record: sha256 of all the rest of it, so that a damaged one is none."""

LARGEST = 1 << 28
"""Bytes that a JSON file of ours may have."""


@dataclass(frozen=True)
class Record:
    """A finished stage."""

    stage: str
    settings: dict[str, Any]  # everything that decides the outcome
    inputs: dict[str, str]  # path -> sha256; the first is what it was made from
    outputs: dict[str, str]  # name -> path, relative to the stage's folder
    sums: dict[str, str]  # output's name -> sha256
    metrics: dict[str, Any]  # units in the key, numbers as numbers
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)  # what the run is of: see runs/identity.py
    replaced: list[str] = field(default_factory=list)  # outputs of the record before that are none of this one

    def output(self, folder: Path, name: str = "weights") -> Path:
        """Where an output lies."""
        return folder / self.outputs[name]

    @property
    def source(self) -> str | None:
        """The sha256 of what it was made from."""
        return next(iter(self.inputs.values()), None)


def sha256(path: Path) -> str:
    """Of a file's bytes; of a folder's files, with their names.

    Raises:
        OSError: there is neither.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return hashlib.sha256("".join(f"{p.relative_to(path)} {sha256(p)}\n" for p in files).encode()).hexdigest()
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(file)


def _slow(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of everything that decides a result."""
    found = {"python": platform.python_version(), "yolo-slim": code()}
    for name in ("ultralytics", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


@functools.cache
def code() -> str:
    """This package's version, and a sum of its sources: `0.1.0+3f2a9c1d`. As they were when first asked for."""
    return f"{__version__}+{sum_of_sources(Path(__file__).parent)}"


def sum_of_sources(package: Path) -> str:
    """Eight digits that change with any source or template of a package, wherever it lies and however lines end."""
    digest = hashlib.sha256()
    files = {p.relative_to(package).as_posix(): p for p in package.rglob("*") if p.is_file()}
    for name in sorted(name for name in files if _is_source(name)):
        text = files[name].read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()[:8]


def _is_source(name: str) -> bool:
    """Whether a file of the package is one that decides what it does, not one that Python or an editor leaves there."""
    *folders, file = name.split("/")
    return file.endswith(".py") or ("template" in folders and not file.startswith("."))


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is none that can be read, however it is damaged."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, content: Any) -> None:
    """`write_text` of JSON."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text, without control characters: names in it may come from a file."""
    write_bytes(path, lines(text).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """To a temporary name, then renamed; one of its own, as others may be writing the same file.

    Raises:
        SlimError: the disk is full or cannot be written, and what to do.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as e:
        raise SlimError(f"cannot write {path}: {why(e, path)}") from e
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing can be removed
            part.unlink()


def write(folder: Path, record: Record, file: str = FILE) -> None:
    """Declare the stage done."""
    content = asdict(record)
    write_json(folder / file, {**content, SUM: _sum(content)})


def _sum(content: dict[str, Any]) -> str:
    as_read = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def stated(folder: Path, file: str = FILE) -> Record | None:
    """What a record says, whatever has become of its outputs; None where there is none, or a damaged one."""
    content = read_json(folder / file)
    try:
        if content.pop(SUM) != _sum(content):
            return None
        record = Record(**content)
        sound = all(isinstance(getattr(record, f.name), _KINDS[f.name]) for f in fields(record))
        named = [*record.inputs.values(), *record.outputs.values(), *record.sums.values(), *record.replaced]
        sound = sound and all(isinstance(text, str) for text in named) and record.outputs.keys() == record.sums.keys()
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return record if sound else None


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("settings", "inputs", "outputs", "sums", "metrics", "versions", "details", "run"), dict),
    **{"stage": str, "seconds": (int, float), "replaced": list},
}


def read(folder: Path, file: str = FILE) -> Record | None:
    """What was done in this folder; None where nothing was finished, or its record or outputs are gone or changed."""
    record = stated(folder, file)
    if record is None:
        return None
    try:
        whole = all(
            lies_in(folder, record.outputs[name]) and sha256(record.output(folder, name)) == total
            for name, total in record.sums.items()
        )
    except OSError:
        return None
    return record if whole else None


def lies_in(folder: Path, output: str) -> bool:
    """Whether a path that a record names leads to something in the record's folder, and to neither of the two."""
    try:
        path = folder / output
        inside = ".." not in Path(output).parts and folder.resolve() in path.resolve().parents
        return inside and path != folder / FILE
    except (OSError, ValueError, RuntimeError):  # no path at all, or links in a circle
        return False


def remove(folder: Path, output: str) -> None:
    """Delete a file or a folder that a record names, if it lies in the record's folder."""
    path = folder / output
    if not lies_in(folder, output):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def unchanged(
    folder: Path, stage: str, settings: dict[str, Any], inputs: dict[str, str], file: str = FILE
) -> Record | None:
    """The record, if the stage was finished with the same settings, inputs and code."""
    record = read(folder, file)
    if record is None or record.stage != stage:
        return None
    return None if changes(record, settings, inputs) else record


def changes(record: Record, settings: dict[str, Any], inputs: dict[str, str]) -> list[str]:
    """What is not as it was when the record was written, each in a few words."""
    found = _differing(record.settings, settings)
    for name in record.inputs | inputs:
        if record.inputs.get(name) != inputs.get(name):
            word = "new" if name not in record.inputs else "gone" if name not in inputs else "another"
            found.append(f"{name} is {word}")
    if (then := record.versions.get("yolo-slim")) != code():
        found.append(f"by other code ({then}, now {code()})")
    return found


def _differing(then: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key in then | now:
        before, after = then.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differing(before, after, f"{path}{key}.")
        elif before != after or (key in then) != (key in now):
            found.append(f"{path}{key} {json.dumps(before)} -> {json.dumps(after)}")
    return found
