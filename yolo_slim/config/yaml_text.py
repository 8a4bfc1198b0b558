"""YAML text as plain values, within bounds: each key once, nothing constructed, text settings as they are typed."""

from __future__ import annotations

import re
from typing import Any

import yaml

from yolo_slim.config.hints import inside, item, model_in, takes_several, takes_text
from yolo_slim.config.values import DEEPEST
from yolo_slim.errors import plain

MOST = 10_000
"""Values that are read, those that aliases repeat included."""

DIGITS = 40
"""Of a number, at most: Python itself refuses thousands."""

CORE = "tag:yaml.org,2002:"
NULLS = ("null", "Null", "NULL", "~")


class Unreadable(ValueError):
    """Why a text is no YAML of settings, with the line where that can be told."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers, so that 1e-3 is one, 010 is ten and no date or 1:30 is; and 1.1's yes, no, on and off."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.seen = self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """The next node, unless there are too many or it lies too deep."""
        self.seen, self.depth = self.seen + 1, self.depth + 1
        if self.seen > MOST:
            raise Unreadable(f"more than {MOST:,} values")
        if self.depth > DEEPEST:
            raise Unreadable(f"line {self.peek_event().start_mark.line + 1}: deeper than {DEEPEST} within one another")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
    ("int", r"[-+]?\d[\d_]*|0x[\da-fA-F]+|0o[0-7]+", list("-+0123456789")),
    ("float", r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(CORE + _tag, re.compile(f"(?:{_pattern})$", re.ASCII), _first)


def parse(text: str, annotation: Any) -> Any:
    """A file's text as values.

    Args:
        text: of a YAML.
        annotation: of what it is to hold.

    Raises:
        Unreadable: no YAML, several documents, too much of it, a key that is there twice, tags of other programs.
    """
    node = _composed(text)
    return None if node is None else _Reader().value(node, annotation)


def parse_word(text: str, annotation: Any) -> Any:
    """The value of a word on the command line: a text as it is typed, all else as YAML; null is no value.

    A text in quotes, all of it, is what is within them.

    Raises:
        Unreadable: nothing, or what YAML cannot read.
    """
    if not text.strip():
        raise Unreadable("expected a value; null stands for none")
    if takes_text(annotation) and not (takes_several(annotation) and text.lstrip()[0] in "[{"):
        return _typed(text)
    node = _composed(text)
    if node is None:  # YAML takes it for a comment, which nobody types here
        return text
    rest = text[node.end_mark.index :].strip()
    if not rest:
        return _Reader().value(node, annotation)
    if isinstance(node, yaml.ScalarNode) and node.style is None and node.tag == f"{CORE}str":  # so is the rest
        return text
    raise Unreadable(f"nothing may follow the value, got {plain(rest)}")


def _typed(text: str) -> str | None:
    if text in NULLS:
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            node = _composed(text)
        except Unreadable:
            return text
        if isinstance(node, yaml.ScalarNode) and node.style and node.end_mark.index == len(text):
            return node.value
    return text


def _composed(text: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise Unreadable(where + plain(" ".join(filter(None, (e.context, e.problem))))) from e
    except yaml.reader.ReaderError as e:
        raise Unreadable(f"character {e.position + 1} is U+{e.character:04X}, which YAML does not allow") from e
    except (yaml.YAMLError, OverflowError, IndexError) as e:
        raise Unreadable(plain(e)) from e
    except ValueError as e:
        raise e if isinstance(e, Unreadable) else Unreadable(plain(e)) from e
    finally:
        if loader:
            loader.dispose()


class _Reader:
    """Nodes to values; counts them, as an alias of an alias can stand for millions."""

    def __init__(self) -> None:
        self.made = 0

    def value(self, node: yaml.Node, annotation: Any, path: tuple[str, ...] = ()) -> Any:
        """Of a node at a dotted place."""
        self.made += 1
        if self.made > MOST:
            raise Unreadable(f"{_line(node)}: aliases come to more than {MOST:,} values")
        if len(path) > DEEPEST:
            raise Unreadable(f"{_line(node)}: deeper than {DEEPEST} within one another; does an alias hold itself?")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, annotation)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{CORE}seq":
            return [self.value(each, item(annotation), (*path, str(i))) for i, each in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == f"{CORE}map":
            return self.mapping(node, annotation, path)
        raise Unreadable(f"{_line(node)}: no tags are known here, got {plain(node.tag)}")

    def mapping(self, node: yaml.MappingNode, annotation: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """Of names and values, each name once; `<<` brings those of another in that are not given here."""
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == f"{CORE}merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise Unreadable(f"{_line(key)}: expected a name before the colon, got several values")
            if not key.tag.startswith(CORE):
                raise Unreadable(f"{_line(key)}: no tags are known here, got {plain(key.tag)}")
            name, line = key.value, key.start_mark.line + 1
            if name in lines:
                where = plain(".".join((*path, name)))
                raise Unreadable(f"{where} is there twice, in lines {lines[name]} and {line}: leave one of them")
            lines[name] = line
            if _is_empty(value) and model_in(inside(annotation, name)):
                continue  # a section of which every line is a comment
            found[name] = self.value(value, inside(annotation, name), (*path, name))
        for other in merged:
            values = self.value(other, annotation, (*path, "<<"))
            if not isinstance(values, dict):
                raise Unreadable(f"{_line(other)}: << brings in names and values, got something else")
            found = {**values, **found}
        return found


def _scalar(node: yaml.ScalarNode, annotation: Any) -> Any:
    text, tag = node.value, node.tag.removeprefix(CORE)
    if tag == "null" and text in (*NULLS, ""):
        return None
    if tag in ("str", "merge") or (takes_text(annotation) and tag in ("bool", "int", "float")):
        return text
    try:
        if tag == "bool":
            return {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}[text.lower()]
        if tag in ("int", "float") and len(text) > DIGITS:
            raise Unreadable(f"{_line(node)}: expected a number of {DIGITS} digits at most, got {len(text)} characters")
        if tag == "int":
            return _whole(text.replace("_", ""))
        if tag == "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower()))
    except (KeyError, ValueError) as e:
        raise e if isinstance(e, Unreadable) else Unreadable(f"{_line(node)}: {plain(text)} is no {tag}") from e
    raise Unreadable(f"{_line(node)}: no tags are known here, got {plain(node.tag)}")


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and not node.value


def _whole(text: str) -> int:
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
