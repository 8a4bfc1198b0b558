"""Label caches (`labels/*.cache`), which Ultralytics pickles: read by the few opcodes that it writes, without a call.

A pickle is a program. Of its instructions those are carried out that put plain values into containers; the only
"calls" are those that stand for an array of numbers, and they are answered here, by names, not by what the file asks
for.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

MAGIC = b"\x93NUMPY\x01\x00"
HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
LARGEST = 2 << 30
"""Bytes of a cache: twenty times COCO's."""

OPCODES = (
    pickle.PROTO,
    pickle.FRAME,
    pickle.MEMOIZE,
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINBYTES, pickle.SHORT_BINBYTES),
    *(pickle.MARK, pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.STOP),
)


class _Name(NamedTuple):
    """What the file calls by a name: it stays a name."""

    module: str
    name: str


ARRAY, TYPE = _Name("numpy", "ndarray"), _Name("numpy", "dtype")
BLANK = {_Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}


class _Unfilled:
    """An array, or the type of one, between its two instructions."""

    __slots__ = ("code",)

    def __init__(self, code: str | None) -> None:
        self.code = code


class _Reader(pickle._Unpickler):  # that in C takes 70 GB where a file of 10 bytes numbers a memo so
    """Reads numbers, text, containers and arrays of float32."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in OPCODES
    }

    def find_class(self, module: str, name: str) -> _Name:
        """The name alone."""
        return _Name(module, name)

    def load_reduce(self) -> None:
        """A blank array or a type, which the next `load_build` fills."""
        arguments, called = self.stack.pop(), self.stack.pop()
        name = called if isinstance(called, _Name) else None  # nothing else is compared, or hashed
        if name in BLANK and arguments[0] == ARRAY:
            self.append(_Unfilled(None))
        elif name == TYPE and arguments[0] in ("f4", "O8", "O"):
            self.append(_Unfilled(arguments[0]))
        else:
            raise ValueError(f"it calls {getattr(called, 'module', '?')}.{getattr(called, 'name', '?')}")

    def load_build(self) -> None:
        """Fill an array; the outermost, which holds the cache as an object, becomes that."""
        state, blank = self.stack.pop(), self.stack.pop()
        if not isinstance(blank, _Unfilled):
            raise ValueError("it sets attributes of an object")
        if blank.code and state[1] == ">":
            raise ValueError("it comes from a machine that turns numbers round")
        self.append(blank if blank.code else _filled(*state))

    def load_setitems(self) -> None:
        """By text alone: a tuple of tuples of the same tuples takes for ever to be hashed."""
        items = self.pop_mark()
        self._set(items[::2], items[1::2])

    def load_setitem(self) -> None:
        """One of them."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key], [value])

    def _set(self, keys: list[Any], values: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or any(type(key) is not str for key in keys):
            raise ValueError("it has keys that are no text")
        self.stack[-1].update(zip(keys, values, strict=True))

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build


def _filled(version: int, shape: tuple[int, ...], dtype: _Unfilled, by_columns: bool, content: Any) -> Any:
    if not isinstance(dtype, _Unfilled) or dtype.code is None:
        raise ValueError("it holds an array of no type")
    if dtype.code != "f4":
        (inner,) = content
        return inner
    flat = np.frombuffer(content, np.dtype("<f4"))
    return flat.reshape(shape, order="F" if by_columns else "C").astype(np.float32, order="C", copy=True)


def read(path: str | Path) -> dict[str, Any]:
    """A label cache.

    Raises:
        OSError: it is not there.
        ValueError: anything else than what Ultralytics writes.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"larger than {LARGEST >> 30} GB")
    content = path.read_bytes()
    start = 10 + int.from_bytes(content[8:10], "little")
    if content[:8] != MAGIC or content[10:start].split() != HEADER.split():
        raise ValueError("no object in a NumPy file")
    try:
        found = _Reader(io.BytesIO(content[start:])).load()
    except Exception as e:  # a damaged pickle stumbles over anything
        raise ValueError(f"{type(e).__name__}: {e}") from e
    if not isinstance(found, dict):
        raise ValueError(f"it holds no dictionary but a {type(found).__name__}")
    return found


KEYS = {"im_file", "shape", "cls", "bboxes", "segments", "keypoints", "normalized", "bbox_format"}


def check(cache: dict[str, Any], files: Sequence[str], classes: int) -> None:
    """Nothing, where a cache says of these images what a scan could.

    Args:
        cache: as `read` gives it; control characters are taken out of its messages.
        files: the images of the data set, in order.
        classes: how many a label may name.

    Raises:
        ValueError: what is wrong with it.
    """
    results, labels, messages = cache.get("results"), cache.get("labels"), cache.get("msgs")
    if not isinstance(results, tuple) or len(results) != 5 or any(type(n) is not int or n < 0 for n in results):
        raise ValueError("`results` are no five counts")
    if not isinstance(messages, list) or any(type(line) is not str for line in messages):
        raise ValueError("`msgs` are no lines of text")
    if not isinstance(labels, list) or any(type(label) is not dict or label.keys() != KEYS for label in labels):
        raise ValueError("`labels` are no labels")
    cache["msgs"] = ["".join(c if c.isprintable() else " " for c in line) for line in messages]
    known = iter(files)
    if not all(label["im_file"] in known for label in labels):
        raise ValueError("it tells of other images")
    for label in labels:
        _check_form(label)
    if len({id(label["segments"]) for label in labels}) != len(labels):
        raise ValueError("labels share their outlines")
    _check_numbers(labels, classes)


def _check_form(label: dict[str, Any]) -> None:
    shape, cls, boxes, segments = (label[key] for key in ("shape", "cls", "bboxes", "segments"))
    if type(shape) is not tuple or len(shape) != 2 or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError("an image has no height and width")
    if not _is_table(cls, 1) or not _is_table(boxes, 4) or len(cls) != len(boxes):
        raise ValueError("classes and boxes do not go together")
    if type(segments) is not list or len(segments) not in (0, len(boxes)):
        raise ValueError("outlines and boxes do not go together")
    if any(not _is_table(s, 2) or not len(s) or not np.isfinite(s).all() for s in segments):
        raise ValueError("an outline is none")
    if label["keypoints"] is not None or label["normalized"] is not True or label["bbox_format"] != "xywh":
        raise ValueError("labels are of another kind")


def _is_table(value: Any, columns: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == columns


def _check_numbers(labels: Sequence[dict[str, Any]], classes: int) -> None:
    """Raise where Ultralytics would have left an image out."""
    if not labels:
        return
    cls = np.concatenate([label["cls"] for label in labels])
    boxes = np.concatenate([label["bboxes"] for label in labels])
    if not ((cls >= 0) & (cls < classes) & (cls % 1 == 0)).all():
        raise ValueError(f"a class is none of {classes}")
    if not ((boxes >= -0.01) & (boxes <= 1.01)).all() or not (boxes[:, 2:] >= 0).all():
        raise ValueError("a box is none")
