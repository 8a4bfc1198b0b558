"""What an unknown setting may have meant: one of another section, an argument of Ultralytics, a name misspelt."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import yaml

from yolo_slim.config.arguments import IDLE, OURS
from yolo_slim.config.experiment import Config, section

FIRST = ("finetune", "prune", "export", "sparse_train", "original")
"""Sections that are meant most often, the likeliest first; the others follow as they are listed."""

ARGUMENTS = "finetune.train"
"""Where arguments of Ultralytics' trainer are given, most often."""

MOST = 3
"""Suggestions that one message makes."""

ALIKE, NEAR = 0.75, 0.5
"""How alike two names are at least, from 0 to 1: whichever section they are of, and within one section."""


def meant(path: list[str]) -> list[str]:
    """Dotted keys that an unknown one may have meant, the likeliest first.

    Args:
        path: the steps of the unknown key.
    """
    *outer, last = path
    last = last[:100]
    beside = list(found.model_fields) if (found := section(outer)) else []
    every = {".".join(each): each[-1] for each in _keys([])}
    same = sorted((key for key, name in every.items() if name == last), key=_place)
    if within := [key for key in same if outer and key.startswith(".".join(outer) + ".")]:
        return within[:MOST]
    if last in _arguments() - OURS - IDLE:
        own = ".".join([*outer, "train"])
        return [f"{own}.{last}"] if "train" in beside else [f"{ARGUMENTS}.{last}", *same][:MOST]
    if same:
        return same[:MOST]
    if near := get_close_matches(last, beside, n=1, cutoff=ALIKE):
        return [".".join([*outer, *near])]
    if near := get_close_matches(last, set(every.values()), n=1, cutoff=ALIKE):
        return sorted((key for key, name in every.items() if name == near[0]), key=_place)[:MOST]
    return [".".join([*outer, *near]) for near in [get_close_matches(last, beside, n=1, cutoff=NEAR)] if near]


def _keys(path: list[str]) -> Iterator[list[str]]:
    """Every setting and every section below a place, as steps."""
    for name in (section(path) or Config).model_fields:
        yield [*path, name]
        if section([*path, name]) is not None:
            yield from _keys([*path, name])


def _place(key: str) -> tuple[int, int]:
    """Where a key comes among those of the same name: the likelier section first, and there what lies less deep."""
    top = key.partition(".")[0]
    return (FIRST.index(top) if top in FIRST else len(FIRST), key.count("."))


def _arguments() -> set[str]:
    """Names of Ultralytics' arguments, from its own YAML: importing it takes seconds."""
    found = importlib.util.find_spec("ultralytics")
    for place in (found.submodule_search_locations or []) if found else []:
        try:
            return set(yaml.safe_load((Path(place) / "cfg" / "default.yaml").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            continue
    return set()
