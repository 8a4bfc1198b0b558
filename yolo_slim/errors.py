"""The one exception that means: the input is wrong, and here is what to do about it; and the words it is told in."""

from __future__ import annotations

import errno
import reprlib
import stat
from pathlib import Path

from yolo_slim.text import lines

LONGEST, LONGEST_NAME = 80, 300
"""Characters of what somebody gave that a message shows, and of a name or a path in it."""


class SlimError(Exception):
    """What was expected, what came, where, and what to do. The command line prints it and exits with 2."""

    def __str__(self) -> str:
        """Names in it may come from a file, and a terminal obeys control characters."""
        return lines(super().__str__())


def no_images(error: RuntimeError) -> bool:
    """Whether this is Ultralytics' word for a data set in which it can read no image; it has no type of its own."""
    return "No valid images" in str(error)


class _Short(reprlib.Repr):
    """Of anything, a line that is short and holds no control characters."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 4, LONGEST, LONGEST, 40

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python writes no more than 4,300 digits
            return f"a whole number of {x.bit_length():,} bits"

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(x[: 2 * LONGEST], level) if len(x) <= LONGEST else repr(f"{x[: LONGEST - 3]}...")


_SHORT = _Short()


def shown(value: object) -> str:
    """What somebody gave, as a message may show it: one short line, control characters escaped."""
    return _SHORT.repr(value)


def plain(text: object) -> str:
    """A name that somebody gave, without quotes where it is short and can be printed; else as `shown`."""
    text = str(text)
    return text if len(text) <= LONGEST_NAME and text.isprintable() else shown(text)


REASONS = {
    errno.EACCES: "no permission; let this user read and write there, or choose another place",
    errno.EPERM: "not permitted; let this user write there, or choose another place",
    errno.EROFS: "it lies on a read-only file system; choose another place, or mount it for writing",
    errno.ENOSPC: "No space left on device; free some space and run it again",
    errno.EDQUOT: "this user's share of the disk is used up; free some space and run it again",
    errno.EFBIG: "larger than files may be here; raise the limit (`ulimit -f`) or free some space, and run it again",
    errno.EEXIST: "{file} is a file where a folder is wanted; move it away, or choose another place",
    errno.ENOTDIR: "{file} is a file where a folder is wanted; move it away, or choose another place",
    errno.EISDIR: "it is a folder where a file is wanted; name a file",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.EIO: "the disk reports an error; look after it before anything is written there",
    errno.EMFILE: "too many files are open; raise the limit (`ulimit -n`) and run it again",
    errno.ENFILE: "too many files are open on this machine; end other programs and run it again",
    errno.ELOOP: "its links lead in a circle",
    errno.ENOMEM: "no memory is left; end other programs and run it again",
}
"""What the usual errors of a file system mean, and what to do."""


def why(error: OSError, path: str | Path | None = None) -> str:
    """Why a file or a folder cannot be read or written, and what to do about it.

    Args:
        error: of the file system.
        path: what was to be read or written; default: what the error names.
    """
    reason = REASONS.get(error.errno or 0)
    if reason is None:
        return plain(error.strerror or error)
    named = path or error.filename
    return reason.format(file=plain(_blocking(Path(named)) if named else "something"))


def _blocking(path: Path) -> Path:
    """The file on the way to a path that should be a folder."""
    try:
        return next((p for p in (*reversed(path.parents), path) if p.exists() and not p.is_dir()), path)
    except OSError:
        return path


NO_MEMORY = (
    "no memory is left; ask for less at a time (a smaller batch or imgsz, fewer workers or calib_images), or end other "
    "programs"
)


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch on a CPU or a GPU has none left; PyTorch's errors are known by name and by word."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def check_file(path: str | Path, what: str) -> None:
    """Nothing, where there is no such thing or it can be read to its end; a pipe would be waited for, maybe forever.

    Args:
        path: to look at.
        what: it is to be, for the message.

    Raises:
        SlimError: a pipe, a device or a socket.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise SlimError(f"{plain(path)}: expected {what} in a file, got {kind}; save it as a file first")
