"""A cfg and its weights from the disk, without believing them; names of classes where they lie beside it."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolo_slim.errors import SlimError, plain, why
from yolo_slim.formats.darknet.build import built
from yolo_slim.formats.darknet.cfg import HEADS, LONGEST
from yolo_slim.formats.darknet.modules import DarknetModel
from yolo_slim.formats.darknet.net import read_net
from yolo_slim.formats.darknet.weights import HEADER, check_size, fill, header_of
from yolo_slim.formats.head import LONGEST_NAME

SUFFIX = ".weights"
BESIDE = ("", "_best", "_final", "_last")
"""What Darknet puts behind a cfg's name when it writes weights; the first that is there is meant."""
FIRST_LINE = re.compile(rb"(?:\A(?:%s)?|\n)[ \t]*\[[ \t]*(?:%s)[ \t]*\]" % (BOM_UTF8, "|".join(HEADS).encode()))
LOOKED_AT = 64 << 10


def reads(path: str | Path) -> bool:
    """Whether a file is a Darknet cfg by what it holds: text with a section `[net]`. What is no file is none."""
    path = Path(path)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(LOOKED_AT)
    except (OSError, ValueError):
        return False
    return b"\0" not in start and FIRST_LINE.search(start) is not None


def load(cfg_path: str | Path, weights_path: str | Path | None = None) -> DarknetModel:
    """Read a detector: fp32, eval mode, every parameter trainable, batch norms with Darknet's eps of 1e-5.

    Args:
        cfg_path: a Darknet cfg.
        weights_path: its weights; None: those beside it that are called as it is, `yolov3.weights` or
            `yolov3_best.weights` for `yolov3.cfg`.

    Raises:
        SlimError: a file is missing, damaged, no such file, or says what is not supported.
    """
    cfg_path = Path(cfg_path)
    with _about(cfg_path):
        text = _text(_content(cfg_path, LONGEST, "a Darknet cfg"))
        net = read_net(text)
    weights_path = Path(weights_path) if weights_path is not None else weights_beside(cfg_path)
    with _about(weights_path):
        start = _content(weights_path, None, what := f"the weights of {plain(cfg_path.name)}", first=HEADER)
        header = header_of(start)
        check_size(net, header, weights_path.stat().st_size)
        content = _content(weights_path, weights_path.stat().st_size, what)
        check_size(net, header, len(content))  # it may have grown
    model = built(net, text, header, names_of(cfg_path, net.classes))
    with _about(weights_path):
        fill(model, net, content, header)
    model.pt_path = model.args["model"] = str(cfg_path)
    return model.requires_grad_(True)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """What is refused in a file begins with its name."""
    try:
        yield
    except SlimError as e:
        raise SlimError(f"{plain(path)} {e}") from e


def _content(path: Path, largest: int | None, what: str, first: int = -1) -> bytes:
    """What a file holds, or its first bytes; None: it may be of any size.

    Raises:
        SlimError: it is missing, no file, too large, or cannot be read.
    """
    try:
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "is not there"
            raise SlimError(f"{found}: expected {what}")
        if largest is not None and (size := path.stat().st_size) > largest:
            raise SlimError(f"has {size:,} bytes: expected {what}, of at most {largest:,}")
        with path.open("rb") as file:
            return file.read(first)
    except (OSError, ValueError) as e:
        raise SlimError(f"cannot be read: {why(e, path) if isinstance(e, OSError) else e}") from e


def _text(content: bytes) -> str:
    if content.startswith(BOM_UTF8):
        raise SlimError(
            "is refused at line 1: it begins with a byte-order mark, and Darknet reads none; save it as UTF-8 without"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise SlimError(f"is refused at line {line}: it is no UTF-8 there; save it as UTF-8, comments included") from e


def weights_beside(cfg_path: Path) -> Path:
    """The weights that belong to a cfg.

    Raises:
        SlimError: there are none; which others are near.
    """
    for end in BESIDE:
        if (path := cfg_path.with_name(f"{cfg_path.stem}{end}{SUFFIX}")).is_file():
            return path
    near = sorted(p.name for p in cfg_path.parent.glob(f"*{SUFFIX}"))[:5]
    hint = f"; in that folder: {', '.join(map(plain, near))}" if near else ""
    raise SlimError(
        f"no weights beside {plain(cfg_path)}: expected {plain(cfg_path.stem)}{SUFFIX}, or weights=PATH{hint}"
    )


def names_of(cfg_path: Path, classes: int) -> dict[int, str]:
    """Names of classes from a `.names` file beside a cfg that has as many lines; else their numbers.

    The one that is called as the cfg comes first, then obj.names; another is meant if it is the only one that fits.

    Raises:
        SlimError: the one that is called as the cfg does not fit it.
    """
    fitting = {}
    try:
        beside = sorted(cfg_path.parent.glob("*.names"))
    except OSError:
        beside = []
    for path in beside:
        if (names := _lines(path, classes)) is not None:
            fitting[path.name] = names
    own = f"{cfg_path.stem}.names"
    if own not in fitting and any(path.name == own for path in beside):
        raise SlimError(
            f"{plain(cfg_path.with_name(own))}: expected the names of the {classes} classes of {plain(cfg_path.name)}, "
            "one a line, in UTF-8. Mend it, or take it away: classes are then called by their numbers"
        )
    for name in (own, "obj.names"):
        if name in fitting:
            return dict(enumerate(fitting[name]))
    distinct = {tuple(names) for names in fitting.values()}
    return dict(enumerate(distinct.pop() if len(distinct) == 1 else map(str, range(classes))))


def _lines(path: Path, count: int) -> list[str] | None:
    """As many names; None: the file holds something else."""
    try:
        names = _content(path, count * (LONGEST_NAME + 2), "names").decode("utf-8-sig").rstrip().split("\n")
    except (SlimError, UnicodeDecodeError):
        return None
    names = [name.strip() for name in names]
    fits = len(names) == count and all(0 < len(name) <= LONGEST_NAME and name.isprintable() for name in names)
    return names if fits else None
