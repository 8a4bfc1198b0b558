"""Settings from a YAML and from words, merged and checked; and settings as the words one types for them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from yolo_slim.config.experiment import Config, section
from yolo_slim.config.hints import inside, is_choice, names_single_values
from yolo_slim.config.near import meant
from yolo_slim.config.yaml_text import Unreadable, parse, parse_word
from yolo_slim.errors import SlimError, check_file, plain, shown, why

LARGEST_FILE = 250_000
"""Bytes of a configuration: the template, with all there is to say, has 15,000."""

TOLD = 30
"""Mistakes that one message tells; the others are counted."""

Words = dict[tuple[str, ...], str]
"""Where the words so far lead -> the word."""


def read_config(path: str | Path | None, settings: list[str]) -> Config:
    """Settings from a YAML and from `dotted.key=value` words, of which the words win.

    Raises:
        SlimError: every error at once, each with its key and, for an unknown one, the nearest known.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = _file(path)
    before: Words = {}
    for word in settings:
        _set(values, word, before)
    return check(values, plain(path) if path is not None else "command line")


def check(values: dict[str, Any], source: str = "settings") -> Config:
    """Settings as a nested dict, checked.

    Raises:
        SlimError: all that is wrong with them.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as e:
        told = list(dict.fromkeys(map(_explain, e.errors(include_url=False))))
        more = [f"and {len(told) - TOLD} more"] if len(told) > TOLD else []
        raise SlimError(f"{source}:\n" + "\n".join(f"  {line}" for line in [*told[:TOLD], *more])) from e


def _file(path: str | Path) -> dict[str, Any]:
    try:
        values = parse(_text(path), Config)
    except Unreadable as e:
        raise SlimError(f"{plain(path)} is not YAML with settings: {e}") from e
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SlimError(f"expected settings (key: value) in {plain(path)}, got a {type(values).__name__}")
    return values


def _text(path: str | Path) -> str:
    check_file(path, "a configuration")
    try:
        with Path(path).open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError as e:
        raise SlimError(f"cannot read the configuration {plain(path)}: {why(e, path)}") from e
    except ValueError as e:  # NUL in the name
        raise SlimError(f"cannot read the configuration {plain(path)}: {e}") from e
    if len(raw) > LARGEST_FILE:
        raise SlimError(f"{plain(path)} is no configuration: it has more than {LARGEST_FILE:,} bytes")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Unreadable("it begins as UTF-16 does; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise Unreadable(f"byte {e.start + 1} is not UTF-8; save it as UTF-8") from e


def _set(values: dict[str, Any], word: str, before: Words) -> None:
    key, equals, text = word.partition("=")
    path, annotation = _place(key)
    if not equals or not all(path):
        raise SlimError(f"expected key=value, e.g. prune.ratio=0.5, got {shown(word)}")
    *outer, last = path
    for i, step in enumerate(outer, 1):
        inner = values.get(step)
        if is_choice(_annotation(path[:i]), inner):
            inner = None  # auto, say, which stands for a section: what is said of the section comes later
        if inner is not None and not isinstance(inner, dict):
            raise SlimError(
                f"{plain(word)}: {plain('.'.join(outer[:i]))} is given as {shown(inner)}, in which nothing is"
            )
        values[step] = dict(inner or {})
        values = values[step]
    try:
        values[last] = parse_word(text, annotation)
    except Unreadable as e:
        raise SlimError(f"cannot read the value of {plain(key)}, {shown(text)}: {e}") from e
    _say_what_is_replaced(path, word, before)


def _place(key: str) -> tuple[tuple[str, ...], Any]:
    """The steps of a dotted key, and the annotation of what is there."""
    steps, annotation = key.split("."), Config
    for i, step in enumerate(steps):
        if names_single_values(annotation):  # a name may hold dots itself
            return (*steps[:i], ".".join(steps[i:])), inside(annotation, step)
        annotation = inside(annotation, step)
    return tuple(steps), annotation


def _say_what_is_replaced(path: tuple[str, ...], word: str, before: Words) -> None:
    for earlier in [each for each in before if each[: len(path)] == path]:
        if (old := before.pop(earlier)) != word:
            print(f"{plain(old)} is replaced by {plain(word)}, which comes later")
    before[path] = word


def _explain(error: Any) -> str:
    """One pydantic error as a line for the person who must fix it."""
    where = [str(part) for part in error["loc"]]
    key = ".".join(map(plain, where))
    if error["type"] == "extra_forbidden":
        near = meant(where)
        return f"{key}: unknown setting" + (f"; did you mean {' or '.join(near)}?" if near else "")
    if error["type"] == "missing":
        return f"{key}: needed, e.g. {key}=best.pt"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "model_type":
        message = "expected a section, {name: value, ...}"
    got = "" if error["type"] == "value_error" else f", got {shown(error['input'])}"
    return f"{key}: {message}{got}" if key else message


def words(settings: dict[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """Nested settings as one types them: `read_config` gives the same settings for these words."""
    found = []
    for name, value in settings.items():
        here = (*path, name)
        if isinstance(value, dict) and value and section(list(here)) is not None:
            found += words(value, here)
        else:
            found.append(f"{'.'.join(here)}={_typed(value, _annotation(here))}")
    return found


def _typed(value: Any, annotation: Any) -> str:
    """A value as a word that reads as that value: a text without quotes where it can be."""
    try:
        if isinstance(value, str) and value.isprintable() and parse_word(value, annotation) == value:
            return value
    except Unreadable:
        pass
    # As YAML escapes characters; JSON knows halves of some alone.
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in json.dumps(value, ensure_ascii=False))


def _annotation(path: tuple[str, ...]) -> Any:
    annotation: Any = Config
    for step in path:
        annotation = inside(annotation, step)
    return annotation
