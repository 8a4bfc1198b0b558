"""The YAML of a data set, read within bounds and checked key by key; keys that decide nothing are not even built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ultralytics.nn.autobackend import check_class_names

from yolo_slim.errors import SlimError

LARGEST = 4 << 20  # bytes: lists of a hundred thousand images have a file of their own
NODES = 200_000  # with what aliases repeat
DEPTH = 20
CLASSES = 100_000
CHANNELS = 1024

SPLITS = ("train", "val", "test", "minival")
KEYS = ("path", *SPLITS, "names", "nc", "channels", "kpt_shape", "flip_idx")
"""What a detector's data set may say. `download` is no part of it: Ultralytics would run what stands there."""

UNPRINTABLE = re.compile(r"[^\x09\x0A\x0D\x20-\x7E\x85\xA0-\uD7FF\uE000-\uFFFD\U00010000-\U0010ffff]+")
REMOTE = re.compile(r"\s*[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""How an address begins: `https://`, `ul://`, `file:/`; a drive has one letter."""

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".txz", ".tbz2", ".7z", ".rar")

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TAGS = {*Loader.yaml_constructors, "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"}


class _Described(Exception):
    """What is wrong with a YAML."""


def described(file: Path) -> dict[str, Any]:
    """The keys of KEYS that the YAML has, with names as they are typed: class -> text, from 0 on.

    Raises:
        SlimError: no YAML of a data set, or one that points outside this machine.
    """
    try:
        found = _built(_text(file))
        return _checked(found)
    except _Described as e:
        raise SlimError(f"cannot use the data set {file}: {e}") from e
    except OSError as e:
        raise SlimError(f"cannot read the data set {file}: {e.strerror or e}") from e


def elsewhere(place: str) -> str | None:
    """What to do about a place that is no folder or file of this machine; None: it may be one."""
    if REMOTE.match(place):
        return f"{place} is an address, and nothing is downloaded here: download it yourself, and give the path"
    if place.lower().endswith(ARCHIVES):
        return f"{place} is an archive, and nothing is unpacked here: unpack it yourself, and give the folder"
    return None


def _text(file: Path) -> str:
    if not file.is_file():
        raise _Described("no regular file")
    if file.stat().st_size > LARGEST:
        raise _Described(f"larger than {LARGEST >> 20} MB; lists of images belong in a text file, one path a line")
    return UNPRINTABLE.sub("", file.read_text(encoding="utf-8", errors="ignore"))


def _built(text: str) -> dict[str, Any]:
    """Key -> value, for the keys that count."""
    try:
        _check_depth(text)
        loader = Loader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise _Described("expected a YAML of keys and values, such as `train: images/train`")
        _check_nodes(root)
        loader.flatten_mapping(root)
        found: dict[str, Any] = {}
        for key, value in root.value:
            if (name := key.value) not in KEYS and name != "validation":
                continue
            found[name] = value if name == "names" else _value(loader, name, value)
        return found
    except yaml.YAMLError as e:
        raise _Described(f"no YAML: {' '.join(str(e).split())}") from e
    except RecursionError as e:
        raise _Described("nested too deeply") from e


def _value(loader: Any, name: str, node: yaml.Node) -> Any:
    try:
        value = loader.construct_object(node, deep=True)
    except (ValueError, TypeError, OverflowError) as e:
        raise _Described(f"`{name}` cannot be read: {e}") from e
    return None if value == "None" else value


def _check_depth(text: str) -> None:
    """Before anything is built, which is done by recursion."""
    depth = 0
    for event in yaml.parse(text, Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise _Described(f"nested more than {DEPTH} deep")


def _check_nodes(root: yaml.Node) -> None:
    """Aliases repeat what they stand for, and may repeat themselves."""
    left, waiting = NODES, [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > DEPTH:
            raise _Described(f"more than {NODES:,} values, or nested more than {DEPTH} deep, aliases counted")
        if node.tag not in TAGS:
            raise _Described(f"{node.tag} stands for an object (line {node.start_mark.line + 1})")
        waiting += [(child, depth + 1) for child in _children(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _Described(f"`{key.value}` is there twice (line {key.start_mark.line + 1})")
                seen.add(key.value)
            yield from (key, value)


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    if "validation" in found:
        found.setdefault("val", found.pop("validation"))
    for key in ("train", "val"):
        if key not in found:
            raise _Described(f"'{key}:' key missing: expected a folder of images, or a text file that lists them")
    for key in ("path", *SPLITS):
        _check_place(key, found.get(key))
    names, nc = _names(found.pop("names", None)), _count("nc", found.get("nc"), CLASSES)
    if names is None:
        if nc is None:
            raise _Described("expected 'names' or 'nc': a list of the classes, or how many there are")
        names = {i: f"class_{i}" for i in range(nc)}
    if nc is not None and len(names) != nc:
        raise _Described(f"'names' length {len(names)} and 'nc: {nc}' must match")
    channels = _count("channels", found.get("channels"), CHANNELS) or 3
    shape = found.get("kpt_shape")
    if shape is not None and (not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_small, shape))):
        raise _Described(f"`kpt_shape`: expected two counts, got {_short(shape)}")
    found = {key: value for key, value in found.items() if key not in ("kpt_shape", "flip_idx") or value is not None}
    return {**found, "names": names, "nc": len(names), "channels": channels}


def _check_place(key: str, value: Any) -> None:
    places = value if isinstance(value, list) and key != "path" else [value] if value is not None else []
    for place in places:
        if not isinstance(place, str):
            raise _Described(f"`{key}`: expected a path, got {_short(place)}")
        if "\0" in place or len(place) > 4096:
            raise _Described(f"`{key}`: {_short(place)} is no path")
        if said := elsewhere(place):
            raise _Described(f"`{key}`: {said}")


def _count(key: str, value: Any, most: int) -> int | None:
    """A whole number, also where it is written as 10.0 or '10'."""
    if value is None:
        return None
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number % 1 or not 1 <= number <= most:
        raise _Described(f"`{key}`: expected a whole number from 1 to {most:,}, got {_short(value)}")
    return int(number)


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10_000


def _names(node: yaml.Node | None) -> dict[int, str] | None:
    """As typed: `yes` is a name, no truth, and 01 is not 1."""
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null", "None")):
        return None
    if isinstance(node, yaml.SequenceNode):
        names = dict(enumerate(map(_name, node.value)))
    elif isinstance(node, yaml.MappingNode):
        pairs = [(_class(key), _name(value)) for key, value in node.value]
        names = dict(sorted(pairs))
        if len(names) != len(pairs):
            raise _Described("`names` has one class twice")
    else:
        raise _Described("`names`: expected a list, or a name for each number")
    if not 1 <= len(names) <= CLASSES:
        raise _Described(f"`names`: expected 1 to {CLASSES:,} classes, got {len(names)}")
    if list(names) != list(range(len(names))):
        raise _Described(f"`names`: expected the numbers 0 to {len(names) - 1}, got {_short(list(names))}")
    return check_class_names(names)  # codes of ImageNet become words


def _class(key: yaml.Node) -> int:
    text = key.value if isinstance(key, yaml.ScalarNode) else ""
    if not re.fullmatch(r"[0-9]{1,6}(\.0+)?", text):
        raise _Described(f"`names`: expected the number of a class, got {_short(text or 'a collection')}")
    return int(text.partition(".")[0])


def _name(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _Described(f"`names`: expected text for each class, got a collection (line {node.start_mark.line + 1})")
    return "".join(c if c.isprintable() else " " for c in node.value)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
