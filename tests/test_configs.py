"""The YAML files we ship: each can be run, and the template tells all there is to set."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from yolo_slim.config import Config, read_config, section

CONFIGS = Path(__file__).parents[1] / "configs"
TEMPLATE = CONFIGS / "template.yaml"

EXAMPLES = {
    "name": "results of one's own",
    "model": "needed by a new run",
    "data": "left out only for `prune` alone",
    "prune.target": "one of target and ratio is needed",
    "prune.ratio": "one of target and ratio is needed",
}
"""Settings of the template that are no defaults, each with its reason."""

SPEAK = {"train", "epochs", "formats", "images", "layers"}
"""Settings that need no comment: their names say it, or the line above does."""


def settings() -> dict[str, Any]:
    """Every setting of every section: dotted key -> its field."""
    found = {}
    for name, field in Config.model_fields.items():
        inner = section([name])
        found |= {f"{name}.{key}": f for key, f in inner.model_fields.items()} if inner else {name: field}
    return found


def lines() -> list[tuple[str, str, str]]:
    """The template's settings in order, also those in a comment line: dotted key, value, comment with what follows."""
    found: list[tuple[str, str, str]] = []
    above = ""
    for line in TEMPLATE.read_text().splitlines():
        match = re.match(r"(  )?(?:# )?(\w+): *(\{.*?\}|\[.*?\]|[^\s#]*) *(#.*)?$", line)
        if not match:
            if found and line.startswith("   ") and line.strip().startswith("#"):  # a comment goes on
                key, value, comment = found[-1]
                found[-1] = key, value, comment + line
            continue
        inside, name, value, comment = match.groups()
        if inside is None:
            above = name
        found.append((f"{above}.{name}" if inside else name, value, comment or ""))
    return [entry for entry in found if section([entry[0]]) is None]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_can_be_read(path: Path) -> None:
    config = read_config(path, [])
    assert config.prune.ratio is not None or config.prune.target is not None or config.prune.layers


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_opens_with_the_command_to_type(path: Path) -> None:
    head = path.read_text().partition("\n\n")[0].splitlines()
    comment = " ".join(line for line in head if line.startswith("#"))
    assert re.search(r"yolo-slim \w+ \S*configs/|make \w+", comment)


def test_the_template_names_every_setting_once() -> None:
    assert Counter(key for key, _, _ in lines()) == Counter(settings().keys())


@pytest.mark.parametrize("key", sorted(settings().keys() - EXAMPLES.keys()))
def test_the_template_shows_the_default(key: str) -> None:
    shown = {k: yaml.safe_load(v) for k, v, _ in lines()}
    default = settings()[key].get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        shown[key] = type(default).model_validate(shown[key])
    assert shown[key] == default
    assert type(shown[key]) is type(default)


@pytest.mark.parametrize("key", ["prune.target", "prune.ratio", "data"])
def test_what_the_template_only_shows_has_no_default(key: str) -> None:
    assert settings()[key].default is None


@pytest.mark.parametrize("key", sorted(key for key in settings() if section(key.split("."))))
def test_the_template_names_what_is_inside_a_setting(key: str) -> None:
    _, value, comment = next(line for line in lines() if line[0] == key)
    inside = section(key.split("."))
    assert [name for name in inside.model_fields if not re.search(rf"\b{name}\b", value + comment)] == []
    if example := re.search(r"\{.*?\}", comment.partition(" #")[0]):  # of the first line
        shown = inside.model_validate(yaml.safe_load(example[0]))
        assert shown == inside()


@pytest.mark.parametrize("key", sorted(key for key in settings() if key.rpartition(".")[2] not in SPEAK))
def test_the_template_says_what_a_setting_means(key: str) -> None:
    assert len(next(comment for k, _, comment in lines() if k == key)) > 10
