"""The instructions of a pickle, each as what it does to notes that stand for objects.

They are those that torch's restricted unpickler knows, fewer than half of Python's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from struct import unpack_from
from typing import Any

from yolo_slim.errors import SlimError
from yolo_slim.formats.archive import DAMAGED
from yolo_slim.formats.calls import ARRAY, FILLS, ORDERED, TENSOR, Made, Named, Stored, called
from yolo_slim.formats.names import DTYPES, NAMESPACES, STORAGES
from yolo_slim.formats.strangers import full
from yolo_slim.formats.vocabulary import Vocabulary

LONGEST_TEXT = 1 << 20
LONGEST_NUMBER = 9
"""Bytes of an integer: all 64 bits of it, and its sign."""
MOST_NOTES = 2_000_000
"""The highest number of a note: whoever unpickles keeps them in an array as long."""
MOST_COPIES = 4
"""How often all numbers that are stored may be seen through tensors."""


@dataclass
class Walk:
    """Where in a pickle one is, and what is known of it so far."""

    data: bytes
    sizes: Mapping[str, int]
    words: Vocabulary
    at: int = 0
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    kinds: dict[str, str] = field(default_factory=dict)  # key of a storage -> what it holds
    seen: int = 0  # numbers in tensors
    ended: bool = False


def _take(walk: Walk, count: int) -> bytes:
    part = walk.data[walk.at : walk.at + count]
    if len(part) < count:
        raise IndexError
    walk.at += count
    return part


def _number(form: str, size: int) -> Callable[[Walk], Any]:
    def read(walk: Walk) -> Any:
        (value,) = unpack_from(form, walk.data, walk.at)
        walk.at += size
        return value

    return read


_byte, _short, _int, _long = _number("<B", 1), _number("<H", 2), _number("<i", 4), _number("<I", 4)
_float = _number(">d", 8)


def _pushes(read: Callable[[Walk], Any]) -> Callable[[Walk], None]:
    def push(walk: Walk) -> None:
        value = read(walk)  # first: it may change which stack there is
        walk.stack.append(value)

    return push


def _protocol(walk: Walk) -> None:
    if (number := _byte(walk)) != 2:
        raise SlimError(f"is pickled by protocol {number}: torch.save writes 2")


def _text(walk: Walk) -> str:
    if (size := _long(walk)) > LONGEST_TEXT:
        raise SlimError(f"holds a text of {size:,} bytes: no checkpoint does")
    return _take(walk, size).decode("utf-8")


def _big(walk: Walk) -> int:
    if (size := _byte(walk)) > LONGEST_NUMBER:
        raise SlimError(f"holds an integer of {size} bytes: no checkpoint does")
    return int.from_bytes(_take(walk, size), "little", signed=True)


def _line(walk: Walk) -> str:
    end = walk.data.index(b"\n", walk.at) if b"\n" in walk.data[walk.at : walk.at + 256] else None
    if end is None:
        raise IndexError
    line = walk.data[walk.at : end].decode("utf-8")
    walk.at = end + 1
    return line


def _global(walk: Walk) -> Named:
    module = _line(walk)
    name = full(module, _line(walk))
    if not walk.words.knows(name):
        raise SlimError(walk.words.refusal(name, walk.data))
    walk.names.add(name)
    return Named(name)


def _plain(value: Any) -> Any:
    """What may lie in a list, a dict or an object: no class and no function; torch's types do nothing."""
    if type(value) is Named and value.name not in DTYPES:
        raise SlimError(f"keeps {value.name} as a value, which no checkpoint does: refused, since it could be called")
    return value


def _key(value: Any) -> Any:
    if type(value) not in (str, int):
        raise SlimError("has a key that is neither a text nor an integer: no checkpoint does")
    return value


def _mark(walk: Walk) -> None:
    walk.below.append(walk.stack)
    walk.stack = []


def _marked(walk: Walk) -> list[Any]:
    items, walk.stack = walk.stack, walk.below.pop()
    return items


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    """The tuples that may hold a class say where a tensor's numbers are, and what an array is made of."""
    if len(items) == 5 and items[0] == "storage" and type(items[1]) is Named:
        return tuple(items)
    if len(items) == 3 and items[0] == Named(ARRAY):
        return (items[0], *map(_plain, items[1:]))
    return tuple(map(_plain, items))


def _last(count: int) -> Callable[[Walk], None]:
    def join(walk: Walk) -> None:
        if len(walk.stack) < count:
            raise IndexError
        walk.stack[-count:] = [_tuple(walk.stack[-count:])]

    return join


def _append(walk: Walk) -> None:
    _extend(walk, [walk.stack.pop()])


def _extend(walk: Walk, items: list[Any]) -> None:
    if type(walk.stack[-1]) is not list:
        raise SlimError("appends to what is no list: no checkpoint does")
    walk.stack[-1].extend(map(_plain, items))


def _set_item(walk: Walk) -> None:
    value, key = walk.stack.pop(), walk.stack.pop()
    _set_items(walk, [key, value])


def _set_items(walk: Walk, items: list[Any]) -> None:
    target = walk.stack[-1]
    if type(target) is Made and target.name == ORDERED:
        target = target.content
    if type(target) is not dict or len(items) % 2:
        raise SlimError("sets entries of what is no dict: no checkpoint does")
    target.update((_key(key), _plain(value)) for key, value in zip(items[::2], items[1::2], strict=True))


def _stored(walk: Walk) -> Stored:
    """The storage that the last tuple means; it has as many bytes as it says."""
    word, kind, key, place, count = walk.stack.pop()
    texts = all(type(text) is str for text in (word, key, place))
    if word != "storage" or not texts or type(kind) is not Named or type(count) is not int:
        raise SlimError("refers to something that is no tensor's storage: no checkpoint does")
    dtype = STORAGES.get(kind.name)
    if dtype is None:
        raise SlimError(f"keeps {kind.name} as a storage, which no checkpoint does: refused")
    if key not in walk.sizes:
        raise SlimError(DAMAGED.format(f"storage {key} is missing"))
    if walk.sizes[key] != count * dtype.itemsize or walk.kinds.setdefault(key, kind.name) != kind.name:
        raise SlimError(
            f"says storage {key} is {count:,} numbers of {kind.name}, and it has {walk.sizes[key]:,} bytes: refused"
        )
    return Stored(key, kind.name, count)


def _stored_at(walk: Walk) -> None:
    if type(walk.stack[-1]) is not tuple or len(walk.stack[-1]) != 5:
        raise SlimError("refers to something that is no tensor's storage: no checkpoint does")
    walk.stack.append(_stored(walk))


def _new(walk: Walk) -> None:
    args, kind = walk.stack.pop(), walk.stack.pop()
    if type(kind) is not Named or kind.name not in walk.words.objects:
        raise SlimError(f"makes a new {getattr(kind, 'name', 'object')}, which no checkpoint does: refused")
    if args != ():
        raise SlimError(f"makes a {kind.name} with arguments, which no checkpoint does: refused")
    walk.stack.append(Made(kind.name))


def _reduce(walk: Walk) -> None:
    args, callee = walk.stack.pop(), walk.stack.pop()
    if type(callee) is not Named or type(args) is not tuple:
        raise SlimError("calls something that is no function: no checkpoint does")
    made = called(walk.words.calls, callee.name, args)
    if callee.name == TENSOR:
        walk.seen += made.detail
        if walk.seen > MOST_COPIES * sum(walk.sizes.values()):
            raise SlimError("shows the same numbers in ever more tensors: no checkpoint does")
    walk.stack.append(made)


def _build(walk: Walk) -> None:
    state, target = _plain(walk.stack.pop()), walk.stack[-1]
    if type(target) is not Made or target.filled:
        raise SlimError("fills something that is no object, or a second time: no checkpoint does")
    if target.name in FILLS:
        fits = FILLS[target.name](state)
    else:
        keys = list(state) if type(state) is dict else [None]
        fits = all(type(key) is str and not (key.startswith("__") and key.endswith("__")) for key in keys)
        if target.name == ORDERED:
            fits = keys == ["_metadata"]
        elif target.name in NAMESPACES:
            fits = fits and "get" not in keys
        else:
            fits = fits and target.name in walk.words.objects
    if not fits:
        raise SlimError(f"fills a {target.name} with what no checkpoint gives it: refused")
    target.filled = True


def _stop(walk: Walk) -> None:
    _plain(walk.stack.pop())
    walk.ended = True


def _recall(read: Callable[[Walk], int]) -> Callable[[Walk], None]:
    return lambda walk: walk.stack.append(walk.memo[read(walk)])


def _remember(read: Callable[[Walk], int]) -> Callable[[Walk], None]:
    def keep(walk: Walk) -> None:
        if (number := read(walk)) > MOST_NOTES:
            raise SlimError(f"takes note number {number:,} of its objects: no checkpoint has as many")
        walk.memo[number] = walk.stack[-1]

    return keep


STEPS: Mapping[int, Callable[[Walk], None]] = {
    0x80: _protocol,
    ord("c"): _pushes(_global),
    ord("N"): _pushes(lambda walk: None),
    0x88: _pushes(lambda walk: True),
    0x89: _pushes(lambda walk: False),
    ord("J"): _pushes(_int),
    ord("K"): _pushes(_byte),
    ord("M"): _pushes(_short),
    0x8A: _pushes(_big),
    ord("G"): _pushes(_float),
    ord("X"): _pushes(_text),
    ord("}"): _pushes(lambda walk: {}),
    ord("]"): _pushes(lambda walk: []),
    ord(")"): _pushes(lambda walk: ()),
    ord("("): _mark,
    ord("t"): _pushes(lambda walk: _tuple(_marked(walk))),
    0x85: _last(1),
    0x86: _last(2),
    0x87: _last(3),
    ord("a"): _append,
    ord("e"): lambda walk: _extend(walk, _marked(walk)),
    ord("s"): _set_item,
    ord("u"): lambda walk: _set_items(walk, _marked(walk)),
    ord("h"): _recall(_byte),
    ord("j"): _recall(_long),
    ord("q"): _remember(_byte),
    ord("r"): _remember(_long),
    ord("Q"): _stored_at,
    0x81: _new,
    ord("R"): _reduce,
    ord("b"): _build,
    ord("."): _stop,
}
"""Of each instruction's byte, what it does to the notes."""
