"""Settings as a YAML to be read and changed: every one with what it means, those at their default behind a mark."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from yolo_slim.config.experiment import Config, section
from yolo_slim.config.yaml_text import parse

WIDTH = 100
"""Columns of a comment."""

PLAIN = re.compile(r"[\w./+-]+")
"""Texts that may do without quotes."""


def commented(chosen: Mapping[str, Any], head: list[str], notes: Mapping[str, str]) -> str:
    """The text of a configuration.

    Args:
        chosen: dotted key -> value, of the settings that are no defaults.
        head: lines of the comment that it begins with.
        notes: dotted key -> what is to be said of it beside its meaning.
    """
    return "\n".join([*(f"# {line}".rstrip() for line in head), "", *_lines(Config, (), chosen, notes)]).rstrip() + "\n"


def _lines(
    model: type[BaseModel], path: tuple[str, ...], chosen: Mapping[str, Any], notes: Mapping[str, str]
) -> Iterator[str]:
    indent = "  " * len(path)
    for name, field in model.model_fields.items():
        here = (*path, name)
        if here == ("init",):  # it has done its work
            continue
        key, inner = ".".join(here), section(list(here))
        if inner is not None and key not in chosen and has_lines(here):
            yield from ([""] if not path else [])
            about = " ".join((inner.__doc__ or "").split())
            yield from _comment(": ".join(filter(None, [field.description, about])), indent)
            yield f"{indent}{name}:"
            yield from _lines(inner, here, chosen, notes)
            continue
        yield from _comment("; ".join(filter(None, [field.description or "", notes.get(key)])), indent)
        yield f"{indent}{name}: {written(chosen[key])}" if key in chosen else _at_default(field, name, indent)


def has_lines(path: tuple[str, ...]) -> bool:
    """Whether the settings of a section stand in lines of their own: not where it is left out by default."""
    outer = section(list(path[:-1]))
    field = outer.model_fields.get(path[-1]) if outer else None
    return field is not None and isinstance(field.default, BaseModel)


def _at_default(field: Any, name: str, indent: str) -> str:
    return f"{indent}#{name}: {written(field.get_default(call_default_factory=True))}"


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
    )


def written(value: Any) -> str:
    """A value as a YAML holds it, on one line."""
    if isinstance(value, str):
        bare = PLAIN.fullmatch(value) and parse(value, Any) == value
        return value if bare else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)
