"""A record that is not as it was written is none, whatever stands there instead; and none reaches out of its folder."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from yolo_slim import record
from yolo_slim.record import FILE, Record, read, sha256, versions, write


@pytest.fixture
def done(tmp_path: Path) -> Record:
    """The record of a stage whose output is in tmp_path; not written yet."""
    (tmp_path / "slim.pt").write_bytes(b"weights")
    sums = {"weights": sha256(tmp_path / "slim.pt")}
    return Record("pruned", {"ratio": 0.5}, {"a.pt": "12ab"}, {"weights": "slim.pt"}, sums, {}, 1.5, versions())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("[" * 100_000 + "]" * 100_000, id="too deep"),
        pytest.param('{"seconds": ' + "1" * 10_000 + "}", id="a number of 10,000 digits"),
        pytest.param('"text"', id="a text"),
        pytest.param("null", id="null"),
        pytest.param('{"sum": []}', id="a sum that is none"),
        pytest.param("NaN", id="no number"),
    ],
)
def test_whatever_stands_there_is_no_record(tmp_path: Path, done: Record, content: str) -> None:
    write(tmp_path, done)
    (tmp_path / FILE).write_text(content)
    assert read(tmp_path) is record.stated(tmp_path) is None


def test_a_record_that_would_be_waited_for_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    assert read(tmp_path) is None


def test_a_record_that_fills_a_disk_is_none(tmp_path: Path) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(1 << 40)
    assert read(tmp_path) is None


@pytest.mark.parametrize("key", ["settings", "inputs", "outputs", "sums", "metrics", "details", "seconds", "replaced"])
def test_a_record_with_anything_changed_is_none(tmp_path: Path, done: Record, key: str) -> None:
    """Even one that adds up, if it is of another shape."""
    write(tmp_path, done)
    content = json.loads((tmp_path / FILE).read_text())
    for value in (None, [], "x", 7, {"a": [1]}):
        if value == content[key]:
            continue
        (tmp_path / FILE).write_text(json.dumps({**content, key: value}))
        assert record.stated(tmp_path) is None
    for value in (None, "x", {"a": [1]} if key in ("inputs", "outputs", "sums") else "x"):
        write(tmp_path, replace(done, **{key: value}))
        assert read(tmp_path) is None


@pytest.mark.parametrize(
    "output", ["../secret.txt", "a/../../secret.txt", "{folder}/secret.txt", "link", ".", "", "\0"]
)
def test_outputs_are_in_the_folder_or_there_is_no_record(tmp_path: Path, done: Record, output: str) -> None:
    """They are not read, hashed or deleted."""
    folder, secret = tmp_path / "pruned", tmp_path / "secret.txt"
    folder.mkdir()
    secret.write_text("mine")
    (folder / "link").symlink_to(secret)
    output = output.replace("{folder}", str(tmp_path))
    write(folder, replace(done, outputs={"weights": output}, sums={"weights": sha256(secret)}))
    assert read(folder) is None
    record.remove(folder, output)
    assert secret.read_text() == "mine" and (folder / FILE).exists()
