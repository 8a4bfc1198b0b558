"""What a stage did: stage.json, written last. Its presence, with outputs as it names them, means done."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from yolo_slim.errors import SlimError
from yolo_slim.text import lines

FILE = "stage.json"


@dataclass(frozen=True)
class Record:
    """A finished stage."""

    stage: str
    settings: dict[str, Any]  # everything that decides the outcome
    inputs: dict[str, str]  # path -> sha256
    outputs: dict[str, str]  # name -> path, relative to the stage's folder
    sums: dict[str, str]  # output's name -> sha256
    metrics: dict[str, Any]  # units in the key, numbers as numbers
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def output(self, folder: Path, name: str = "weights") -> Path:
        """Where an output lies."""
        return folder / self.outputs[name]


def sha256(path: Path) -> str:
    """Of a file's bytes; of a folder's files, with their names."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return hashlib.sha256("".join(f"{p.relative_to(path)} {sha256(p)}\n" for p in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(file)


def _slow(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of everything that decides a result."""
    found = {"python": platform.python_version()}
    for name in ("yolo-slim", "ultralytics", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def write_json(path: Path, content: Any) -> None:
    """`write_text` of JSON."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text, without control characters: names in it may come from a file."""
    write_bytes(path, lines(text).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """To a temporary name, then renamed.

    Raises:
        SlimError: the disk is full or cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as e:
        raise SlimError(f"cannot write {path}: {e.strerror or e}. Free some space and run it again") from e
    finally:
        part.unlink(missing_ok=True)


def write(folder: Path, record: Record, file: str = FILE) -> None:
    """Declare the stage done."""
    write_json(folder / file, asdict(record))


def read(folder: Path, file: str = FILE) -> Record | None:
    """What was done in this folder; None where nothing was finished, or its outputs are gone or changed."""
    try:
        record = Record(**json.loads((folder / file).read_text(encoding="utf-8")))
        whole = all(sha256(record.output(folder, name)) == total for name, total in record.sums.items())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if whole else None


def named(folder: Path) -> set[str]:
    """The outputs that a stage's record names, as they may be by now; none where there is no record."""
    try:
        return set(json.loads((folder / FILE).read_text(encoding="utf-8"))["outputs"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return set()


def remove(folder: Path, output: str) -> None:
    """Delete a file or a folder that a record names, if it lies in the record's folder."""
    path = folder / output
    if folder.resolve() not in path.resolve().parents:
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def unchanged(
    folder: Path, stage: str, settings: dict[str, Any], inputs: dict[str, str], file: str = FILE
) -> Record | None:
    """The record, if the stage was finished with the same settings, inputs and code version."""
    record = read(folder, file)
    now = versions()["yolo-slim"]
    if record is None or (record.stage, record.settings, record.inputs) != (stage, settings, inputs):
        return None
    return record if record.versions.get("yolo-slim") == now else None
