"""Numbers have bounds, texts are texts: what is meant is taken, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from yolo_slim.config import SCORING, Config, Prune, check, read_config, section
from yolo_slim.errors import SlimError


def taken(folder: Path, text: str) -> dict[str, Any]:
    """What is read from a file, without defaults."""
    path = folder / "mine.yaml"
    path.write_text(text)
    return read_config(path, []).model_dump(exclude_defaults=True)


def numbers(model: Any = Config, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted key -> JSON schema, of every setting that takes a number, in lists and as values of names too."""
    schema = Config.model_json_schema()

    def walk(node: Any, at: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, list):
            for each in node:
                yield from walk(each, at)
        elif isinstance(node, dict):
            if "$ref" in node:
                yield from walk(schema["$defs"][node["$ref"].rpartition("/")[2]], at)
            if node.get("type") in ("integer", "number"):
                yield ".".join(at), node
            for name, each in node.get("properties", {}).items():
                yield from walk(each, (*at, name))
            for key in ("anyOf", "allOf", "items", "additionalProperties"):
                yield from walk(node.get(key), at)

    yield from walk(schema, path)


def test_every_number_has_both_bounds() -> None:
    found = dict(numbers())
    assert {"imgsz", "prune.layers", "bench.batches", "prune.depth.blocks", "sparse_train.strength"} <= found.keys()
    open_ended = [
        key
        for key, node in found.items()
        if not ({"maximum", "exclusiveMaximum"} & node.keys() and {"minimum", "exclusiveMinimum"} & node.keys())
    ]
    assert open_ended == []


@pytest.mark.parametrize("key", dict(numbers()))
@pytest.mark.parametrize("value", [True, False, 2**31, 2**63, 10**30, -(10**30), float("nan"), float("inf"), "nan"])
def test_no_number_is_a_switch_or_none_or_beyond_all_bounds(key: str, value: object) -> None:
    where: dict[str, Any] = {"model": "a.pt", "data": "a.yaml"}
    *outer, last = key.split(".")
    inner = where
    for step in outer:
        inner = inner.setdefault(step, {})
    shape = str(section(outer).model_fields[last].annotation)
    inner[last] = [value] if shape.startswith("list[") else {"model.2": value} if shape.startswith("dict[") else value
    with pytest.raises(SlimError) as caught:
        check(where)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("imgsz=0640", "imgsz", 640),
        ("imgsz=640.0", "imgsz", 640),
        ("imgsz='640'", "imgsz", 640),
        ("imgsz=1e2", "imgsz", None),
        ("seed=1_000", "seed", 1000),
        ("seed=0x10", "seed", 16),
        ("seed=2147483647", "seed", 2147483647),
        ("export.tolerance=1e-3", "export.tolerance", 0.001),
        ("export.tolerance=.5", "export.tolerance", 0.5),
        ("export.dynamic=yes", "export.dynamic", True),
        ("export.dynamic=off", "export.dynamic", False),
    ],
)
def test_numbers_as_they_are_written(word: str, key: str, value: object) -> None:
    if value is None:
        with pytest.raises(SlimError, match=key):
            read_config(None, ["model=a.pt", word])
        return
    found: Any = read_config(None, ["model=a.pt", word])
    for step in key.split("."):
        found = getattr(found, step)
    assert found == value and type(found) is type(value)


# ---------------------------------------------------------------------------------------------------------------------
# Texts are texts


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("runs", "out #3"),
        ("runs", "it's here #1"),
        ("runs", "a: b"),
        ("runs", "{a: b}"),
        ("runs", "[a, b]"),
        ("runs", " a"),
        ("runs", "*a"),
        ("runs", "&a b"),
        ("runs", "!!int 3"),
        ("runs", "%a"),
        ("runs", "'"),
        ("runs", "a\\b"),
        ("runs", "läufe/实验"),
        ("model", "run: 3/best.pt"),
        ("model", "a=b.pt"),
        ("model", "- a.pt"),
        ("model", "'a' and 'b'"),
        ("data", "x: {y.yaml"),
        ("data", "none"),
        ("name", "20240101"),
        ("name", "007"),
        ("name", "1e5"),
        ("name", "1_000"),
        ("name", "yes"),
        ("name", "0x10"),
        ("name", "2021-02-30"),
        ("device", "0"),
        ("prune.criterion", "my criteria:best"),
        ("finetune.distill.teacher", "big #2.pt"),
        ("finetune.distill.extra_images", "more: images #2"),
        ("sweep.ray_address", "10.0.0.1:6379"),
    ],
)
def test_a_text_is_taken_as_it_is_typed(key: str, text: str) -> None:
    typed = [] if key == "model" else ["model=a.pt"]
    found: Any = read_config(None, [*typed, f"{key}={text}"])
    for step in key.split("."):
        found = getattr(found, step)
    assert found == text


@pytest.mark.parametrize("scalar", ["20240101", "007", "1e5", "yes", "No", "2021-02-30", "0x1F", "1_0", "-1"])
def test_a_yaml_says_a_text_without_quotes(tmp_path: Path, scalar: str) -> None:
    text = f"model: {scalar}\nname: {scalar}\nprune: {{exclude: [{scalar}], layers: {{{scalar}: 0.5}}}}"
    found = taken(tmp_path, text)
    assert found["model"] == found["name"] == scalar
    assert found["prune"] == {"exclude": [scalar], "layers": {scalar: 0.5}}


@pytest.mark.parametrize("word", ['runs="out #3"', "runs='out #3'"])
def test_quotes_around_the_whole_word_are_no_part_of_it(word: str) -> None:
    assert read_config(None, ["model=a.pt", word]).runs == "out #3"


@pytest.mark.parametrize("none", ["null", "~"])
def test_null_still_means_none(none: str) -> None:
    config = read_config(None, ["model=a.pt", "data=x.yaml", f"data={none}", f"prune.criterion={none}"])
    assert config.data is None and config.prune.criterion is None


@pytest.mark.parametrize("key", ["runs", "data", "name", "imgsz", "prune.criterion", "latency.threads", "prune"])
def test_a_word_without_a_value_is_no_setting(key: str) -> None:
    with pytest.raises(SlimError, match="expected a value; null stands for none"):
        read_config(None, ["model=a.pt", f"{key}="])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("imgsz=64 #3", "nothing may follow the value, got #3"),
        ("sweep.flops=[0.5] # x", "nothing may follow the value"),
        ("prune..ratio=0.4", "expected key=value"),
        (".imgsz=64", "expected key=value"),
        ("imgsz", "expected key=value"),
    ],
)
def test_words_that_are_half_read_are_refused(word: str, expected: str) -> None:
    with pytest.raises(SlimError, match=expected):
        read_config(None, ["model=a.pt", word])


def test_a_name_with_dots_is_one_key_wherever_names_have_values() -> None:
    config = read_config(None, ["model=a.pt", "prune.layers.model.2.*=0.1", "finetune.distill.layers.model.4=model.6"])
    assert config.prune.layers == {"model.2.*": 0.1}
    assert config.finetune.distill.layers == {"model.4": "model.6"}


EMPTY = ["model", "data", "runs", "name", "prune.criterion", "finetune.distill.teacher", "sweep.ray_address"]


@pytest.mark.parametrize("key", [*EMPTY, "finetune.distill.extra_images", "finetune.distill.teacher_images"])
@pytest.mark.parametrize("value", ["", "  ", "a\0b", "a\nb", "a\x7fb", "\ud800", "x" * 300, "x/" * 3_000, 3, [], True])
def test_a_text_is_none_or_one_that_can_be_printed(key: str, value: object) -> None:
    where: dict[str, Any] = {"model": "a.pt"}
    *outer, last = key.split(".")
    inner = where
    for step in outer:
        inner = inner.setdefault(step, {})
    inner[last] = value
    with pytest.raises(SlimError, match=key):
        check(where)


@pytest.mark.parametrize("key", ["prune.exclude", "sweep.criteria", "export.int8_float", "finetune.distill.layers"])
def test_texts_in_lists_too(key: str) -> None:
    outer, last = key.rsplit(".", 1)
    with pytest.raises(SlimError, match=key):
        read_config(None, ["model=a.pt", f"{outer}.{last}=['']"])


@pytest.mark.parametrize("name", [".", "..", "a/b", "a.", "NUL", "con.x", "latency", "x" * 129, "ä" * 65, "a b", ""])
def test_names_that_no_run_can_have(name: str) -> None:
    with pytest.raises(SlimError, match="name"):
        check({"model": "a.pt", "name": name})


@pytest.mark.parametrize("name", ["a", "_", "-a", "a.b", "ä", "x" * 128, "latency2", "console"])
def test_names_that_a_run_can_have(name: str) -> None:
    assert check({"model": "a.pt", "name": name}).name == name


def test_a_huge_value_is_told_in_short() -> None:
    for value in (10**5_000, "x" * 10**6, ["x"] * 10**6, {"a": {"b": {"c": {"d": {"e": 1}}}}}):
        with pytest.raises(SlimError) as caught:
            check({"model": "a.pt", "imgsz": value, "unknown": value})
        assert len(str(caught.value)) < 600
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(SlimError, match="no deeper than"):
        check({"model": "a.pt", "prune": {"exclude": circle}})


HOW_MUCH = {"solver", "scope", "ratio", "target", "layers", "min_keep", "min_channels", "round_to", "exclude", "depth"}
HOW_MUCH |= {"device", "rescore", "search"}
AFTER_THE_CUT = {"absorb", "reconstruct", "recalibrate"}


def test_every_setting_of_the_cut_is_known_to_score_or_not() -> None:
    """A scan is made again when one that decides the scores has changed: a new setting has to say whether it does."""
    others = HOW_MUCH | AFTER_THE_CUT | {"sensitivity", "iterations"}
    assert SCORING | others == Prune.model_fields.keys()
    assert not SCORING & others
