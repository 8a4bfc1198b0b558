"""Folders for a while, which no kill leaves behind for good: those that nobody holds any more go with the next one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

from yolo_slim.errors import SlimError, plain, why

try:
    import fcntl
except ImportError:  # Windows has no such locks: what a kill leaves there stays
    fcntl = None  # type: ignore[assignment]

NEW, HELD = "new-yolo-slim-", "tmp-yolo-slim-"
"""How the names of such folders begin: before they are held, and from then on."""

AFTER_ITS_OWN = -200
"""When multiprocessing is to call what is given to it for the end of the process: its own folder goes at -100."""

A_MINUTE = 60
"""Seconds, ages longer than it takes to hold a new folder."""


class Scratch:
    """A temporary folder, removed when its context or this process ends; first removes those of dead processes there.

    Args:
        place: where; default: the system's place for temporary files.

    Raises:
        SlimError: nothing can be written there.
    """

    def __init__(self, place: str | Path | None = None) -> None:
        try:
            place = Path(place or tempfile.gettempdir())
            sweep(place)
            new = Path(tempfile.mkdtemp(prefix=NEW, dir=place))
            held = _hold(new)
            folder = new.rename(place / new.name.replace(NEW, HELD))
        except OSError as e:
            raise SlimError(f"cannot make a temporary folder in {plain(place or 'any place')}: {why(e, place)}") from e
        self.name = str(folder)
        self.cleanup = weakref.finalize(self, _remove, folder, held, os.getpid())

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *error: object) -> None:
        self.cleanup()


@contextlib.contextmanager
def temporary() -> Iterator[None]:
    """All temporary files of this process, and of those that it starts, go to one folder that is deleted at the end.

    If the process is killed, the next one of ours deletes it.

    Raises:
        SlimError: there is nowhere to write them.
    """
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    try:
        folder = Scratch()
    except SlimError as e:
        raise SlimError(f"{e}; TMPDIR may name another folder") from e
    try:
        tempfile.tempdir = os.environ["TMPDIR"] = folder.name
        yield
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable
        wanted = any(Path(folder.name).glob("pymp-*"))  # multiprocessing's own, which it wants until the process ends
        if wanted and (detached := folder.cleanup.detach()):
            _, remove, what, _ = detached
            util.Finalize(None, remove, what, exitpriority=AFTER_ITS_OWN)
        else:
            folder.cleanup()


def sweep(place: Path) -> None:
    """Remove the temporary folders there whose processes are gone."""
    for folder in place.glob(f"{HELD}*"):
        held = _hold(folder)
        if held is not None:
            _remove(folder, held)
    for folder in place.glob(f"{NEW}*"):  # of a process that was killed before it held it
        with contextlib.suppress(OSError):
            if time.time() - folder.lstat().st_mtime > A_MINUTE:
                folder.rmdir()


def _hold(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or this process ends; None: it is held, or cannot be."""
    if fcntl is None:
        return None
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def _remove(folder: Path, held: int | None, owner: int | None = None) -> None:
    if owner not in (None, os.getpid()):  # a process that was forked off comes to its end
        return
    shutil.rmtree(folder, ignore_errors=True)
    if held is not None:
        with contextlib.suppress(OSError):
            os.close(held)
