"""One command at a time in a folder, and nothing left in it by those that were killed.

The lock is the kernel's, on a file that tells who holds it. It ends with the process, however that ends, and processes
that it has started do not have it: a file left behind by a kill locks nothing.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from yolo_slim import record
from yolo_slim.errors import SlimError
from yolo_slim.runs import STAGES, identity

try:
    import fcntl
except ImportError:  # Windows, where two commands on one run are not kept apart
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"

_held: dict[str, int] = {}
"""Folders that this process holds -> the thread that does."""


@contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Be the only process that works in a folder. Within it, the same once more costs nothing.

    Args:
        folder: made if it is not there, and removed at the end if it is empty then.
        wait: for another process to end, instead of refusing.

    Yields:
        whether it was not held by this process before.

    Raises:
        SlimError: another process holds it.
    """
    key, me = str(folder.resolve()), threading.get_ident()
    if _held.get(key) == me:
        yield False
        return
    if key in _held:
        raise SlimError(f"{folder} is in use by another thread of this process: wait for it")
    file = _open(folder, wait=wait)
    _held[key] = me
    try:
        yield True
    finally:
        del _held[key]
        if file is not None:
            with suppress(OSError):
                (folder / FILE).unlink()  # while it is ours
            os.close(file)
            with suppress(OSError):
                folder.rmdir()


def _open(folder: Path, *, wait: bool) -> int | None:
    """The lock's file descriptor; None where nothing can be written: then there is nothing to keep others from."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        if not _lock(file):
            os.close(file)
            if not wait:
                raise SlimError(f"{folder} is in use{_by(folder)}. Wait for it to end, or give this one another name=")
            time.sleep(0.1)
        elif not _is_at(file, folder / FILE):  # its holder has just removed it
            os.close(file)
        else:
            _sign(file)
            return file


def _lock(file: int) -> bool:
    """Try to lock it: by POSIX's record locks, which processes that are forked off do not inherit."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return e.errno not in (errno.EACCES, errno.EAGAIN)  # others: a disk that knows no locks
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _sign(file: int) -> None:
    """Say who holds it; a full disk cannot, and that is no reason to stop."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    mine = {"pid": os.getpid(), "host": platform.node(), "since": now, "command": " ".join(words)[:300]}
    try:
        os.ftruncate(file, 0)
        os.write(file, json.dumps(mine).encode())
    except OSError:
        return


def _by(folder: Path) -> str:
    """Who holds a folder, in words."""
    said = record.read_json(folder / FILE)
    if not isinstance(said, dict) or not {"pid", "host", "since", "command"} <= said.keys():
        return " by another process"
    return " by process {pid} on {host} since {since}: {command}".format(**said)


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Write into a folder that several runs share: one at a time, and without what a killed one has left there."""
    with held(folder, wait=True):
        _unlink_parts(folder)
        yield


def _unlink_parts(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Delete what commands that were killed have left in a run that is held: temporary files, half a replacement."""
    identity.put_back(folder)
    for path in [p for stage in STAGES for p in (folder / stage).rglob("*")]:
        if re.fullmatch(r"\..*\.part(\.\w+)?", path.name):
            path.unlink(missing_ok=True)
        elif re.fullmatch(r"(new|tmp)(-yolo-slim-)?[a-z0-9_]{8}", path.name) and path.is_dir():  # of `tempfile`
            shutil.rmtree(path, ignore_errors=True)
    _unlink_parts(folder)


def clear(folder: Path) -> None:
    """Delete what a command has begun in a run that is held, if nothing has come of it: not one file of a stage."""
    if not folder.is_dir():
        return
    found = [folder / stage for stage in STAGES if (folder / stage).exists()]
    if any(p.is_file() for stage in found for p in (stage, *stage.rglob("*"))):
        return
    for stage in found:
        shutil.rmtree(stage, ignore_errors=True)
    identity.put_back(folder)
    if not any((folder / stage).exists() for stage in STAGES):
        (folder / identity.FILE).unlink(missing_ok=True)
