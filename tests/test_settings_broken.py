"""Settings that are broken, or made to break what reads them: one message, soon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from yolo_slim.config import read_config
from yolo_slim.config.reading import LARGEST_FILE
from yolo_slim.config.yaml_text import MOST
from yolo_slim.errors import SlimError

MODEL = "model: a.pt\n"


def told(folder: Path, text: str | bytes, *typed: str) -> str:
    """What is said of a file that is wrong: one message of few lines, and short ones."""
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SlimError) as caught:
        read_config(path, list(typed))
    said = str(caught.value)
    assert len(said) < 6_000
    assert said.replace("\n", "").isprintable()
    return said


def taken(folder: Path, text: str, *typed: str) -> dict[str, Any]:
    """What is read from a file and words, without defaults."""
    path = folder / "mine.yaml"
    path.write_text(text)
    return read_config(path, list(typed)).model_dump(exclude_defaults=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"imgsz: {'9' * 5_000}", ["line 2", "a number of 40 digits"], id="thousands of digits"),
        pytest.param(f"seed: -{'9' * 5_000}", ["line 2", "a number of 40 digits"], id="a negative one"),
        pytest.param(f"seed: 0x{'f' * 5_000}", ["line 2", "a number of 40 digits"], id="in hexadecimal"),
        pytest.param(f"imgsz: '{'9' * 5_000}'", ["imgsz", "integer"], id="in quotes"),
        pytest.param("imgsz: 2021-02-30", ["imgsz", "2021-02-30"], id="a day that there is not"),
        pytest.param("imgsz: 1:30", ["imgsz", "1:30"], id="a number of minutes"),
        pytest.param("imgsz: !!int x", ["line 2", "x is no int"], id="a tag that lies"),
        pytest.param("imgsz: !!float ''", ["line 2", "is no float"], id="a tag of nothing"),
        pytest.param("dynamic: !!bool 3", ["line 2", "3 is no bool"], id="no yes and no no"),
        pytest.param("imgsz: !!null 3", ["line 2", "tags"], id="null that is something"),
        pytest.param("x: !!python/object/apply:os.system [ls]", ["line 2", "tags"], id="a call"),
        pytest.param("x: !!python/name:os.system", ["line 2", "tags"], id="a name of Python"),
        pytest.param("x: !!binary aGk=", ["line 2", "tags"], id="bytes"),
        pytest.param("x: !!set {a, b}", ["line 2", "tags"], id="a set"),
        pytest.param("x: !mine 3", ["line 2", "tags"], id="a tag of one's own"),
        pytest.param("!mine x: 3", ["line 2", "tags"], id="a tag on a key"),
        pytest.param("name: a\0b", ["U+0000"], id="NUL"),
        pytest.param('runs: "a\\0b"', ["runs", "control characters"], id="NUL, escaped"),
        pytest.param('runs: "a\\x1b[2Jb"', ["runs", "control characters"], id="an escape sequence"),
        pytest.param('runs: "a\\nb"', ["runs", "control characters"], id="a second line"),
        pytest.param('runs: "a\\ud800b"', ["runs", "control characters"], id="half a character"),
        pytest.param('"a\\x07b": 3', ["unknown setting"], id="a key that rings"),
        pytest.param('x: "\\UFFFFFFFF"', ["is not YAML"], id="a character that there is not"),
        pytest.param("x: " + "[" * 100_000, ["line 2", "deeper"], id="deep lists"),
        pytest.param("x: " + "[" * 900 + "]" * 900, ["line 2", "deeper"], id="deep lists, closed"),
        pytest.param("x: " + "{a: " * 5_000, ["line 2", "deeper"], id="deep names"),
        pytest.param("x:\n" + "".join(" " * i + "- \n" for i in range(1, 400)), ["deeper"], id="deep lists, in lines"),
        pytest.param("x: " + "- " * 9_000, ["line 2"], id="a list of lists on one line"),
        pytest.param("x: &a [*a]", ["line 2", "an alias hold itself"], id="a list in itself"),
        pytest.param("x: &a {b: *a}", ["line 2", "an alias hold itself"], id="names in themselves"),
        pytest.param("x: &a {<<: *a}", ["line 2", "an alias hold itself"], id="merged with itself"),
        pytest.param("x: *nobody", ["line 2", "nobody"], id="an alias of nothing"),
        pytest.param("<<: 3", ["line 2", "brings in names and values"], id="merged with a number"),
        pytest.param("finetune: {distill: {features: [[]]}}", ["finetune.distill.features", "names"], id="no name"),
        pytest.param("finetune: {distill: {features: [{a: 1}]}}", ["features", "names"], id="no name either"),
        pytest.param("finetune: {distill: {features: {mimic: true}}}", ["features", "mimic"], id="yes, for a weight"),
        pytest.param(f"finetune: {{distill: {{outputs: {{box: {10**30}}}}}}}", ["outputs", "box"], id="a huge weight"),
        pytest.param("? [1, 2]\n: 3", ["line 2", "expected a name"], id="a list for a key"),
        pytest.param("? {a: 1}\n: 3", ["line 2", "expected a name"], id="names for a key"),
        pytest.param("1: 3", ["1: unknown setting"], id="a number for a key"),
        pytest.param("prune: {null: 3, yes: 4}", ["prune.null", "prune.yes"], id="nothing and yes for keys"),
        pytest.param("---\nmodel: b.pt", ["single document"], id="two documents"),
        pytest.param("%YAML 1.1\n---\nx: 1", ["is not YAML"], id="a directive too late"),
        pytest.param("\n".join(f"k{i}: 1" for i in range(MOST)), ["more than 10,000 values"], id="many keys"),
        pytest.param("\n".join(f"k{i}: 1" for i in range(100)), ["k0: unknown", "and 70 more"], id="100 mistakes"),
        pytest.param("a" * 200_000 + ": 3", ["is not YAML"], id="a long key"),
        pytest.param("? " + "a" * 200_000 + "\n: 3", ["unknown setting"], id="a long key, marked as one"),
        pytest.param("runs: " + "a" * 200_000, ["runs", "a path"], id="a long text"),
        pytest.param("#" * LARGEST_FILE, ["250,000 bytes"], id="a large file"),
    ],
)
def test_broken_yaml_is_one_message(tmp_path: Path, text: str, expected: list[str]) -> None:
    said = told(tmp_path, MODEL + text)
    assert str(tmp_path / "mine.yaml") in said
    assert [part for part in expected if part not in said] == []


def test_aliases_that_come_to_billions(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "aliases come to more than 10,000 values" in told(tmp_path, "\n".join(lines))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("model: a.pt".encode("utf-16"), "save it as UTF-8", id="UTF-16"),
        pytest.param("model: a.pt".encode("utf-16-be"), "U+0000", id="UTF-16 that does not say so"),
        pytest.param("model: ä.pt".encode("latin-1"), "byte 8 is not UTF-8", id="Latin-1"),
        pytest.param(b"\x1f\x8b\x08\x00\x00", "byte 2 is not UTF-8", id="gzip"),
    ],
)
def test_other_encodings(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in told(tmp_path, content)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert taken(tmp_path, "\ufeffmodel: a.pt") == {"model": "a.pt"}


def test_merged_names_are_read_and_those_beside_them_win(tmp_path: Path) -> None:
    text = f"{MODEL}original: {{train: &t {{batch: 3, lr0: 0.5}}}}\nfinetune: {{train: {{<<: *t, lr0: 0.1}}}}"
    assert taken(tmp_path, text)["finetune"]["train"] == {"batch": 3, "lr0": 0.1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("imgsz: 64\nimgsz: 96", "imgsz is there twice, in lines 2 and 3", id="at the top"),
        pytest.param("prune:\n  ratio: 0.3\n  ratio: 0.4", "prune.ratio is there twice, in lines 3 and 4", id="inside"),
        pytest.param("finetune: {train: {lr0: .1,\n lr0: .2}}", "finetune.train.lr0", id="an Ultralytics argument"),
        pytest.param("prune: {layers: {a: .1, 'a': .2}}", "prune.layers.a", id="once in quotes"),
        pytest.param("prune: {ratio: .3}\nprune: {scope: layer}", "prune is there twice", id="a section"),
        pytest.param("x: [{b: 1, b: 2}]", "x.0.b is there twice", id="in a list"),
    ],
)
def test_a_key_that_is_there_twice(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in told(tmp_path, MODEL + text)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param(["imgsz=64", "imgsz=96"], "imgsz=64 is replaced by imgsz=96", id="another value"),
        pytest.param(["prune.ratio=0.3", "prune={scope: layer}"], "prune.ratio=0.3 is replaced", id="a whole section"),
        pytest.param(["imgsz=64", "imgsz=64"], "", id="the same again"),
        pytest.param(["prune={scope: layer}", "prune.ratio=0.3"], "", id="one more setting of a section"),
    ],
)
def test_a_word_that_replaces_another_is_told(
    typed: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    read_config(None, ["model=a.pt", *typed])
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(expected) and bool(said.out) == bool(expected)


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("prune: 0.5", "prune.ratio=0.4", "prune is given as 0.5"),
        ("finetune: {distill: {features: mimic}}", "finetune.distill.features.cwd=2", "is given as 'mimic'"),
    ],
)
def test_a_word_does_not_drop_what_is_no_section(tmp_path: Path, text: str, word: str, expected: str) -> None:
    assert expected in told(tmp_path, MODEL + text, word)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, kind in ((tmp_path / "pipe.yaml", "a pipe"), ("/dev/null", "a device"), ("/dev/zero", "a device")):
        with pytest.raises(SlimError, match=f"expected a configuration in a file, got {kind}"):
            read_config(path, [])


@pytest.mark.parametrize("path", ["a\0b.yaml", "x" * 5_000, "a/" * 4_000])
def test_paths_that_no_file_can_have(path: str) -> None:
    with pytest.raises(SlimError, match="cannot read the configuration"):
        read_config(path, [])
