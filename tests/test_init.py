"""init: a configuration to begin with, that can be read as it stands and with every mark taken away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny import PX, contents, refused, run

from yolo_slim.config import Config, read_config
from yolo_slim.config.commented import written
from yolo_slim.config.yaml_text import parse

pytest_plugins = ["tiny"]

OFF = re.compile(r"^( *)#(\w+): ", re.MULTILINE)


@pytest.fixture
def words(original: Path, data: Path, tmp_path: Path) -> list[str]:
    return [f"model={original}", f"data={data}", f"imgsz={PX}", f"init.to={tmp_path / 'mine.yaml'}"]


def test_it_can_be_read_and_begins_with_what_to_type(
    words: list[str], original: Path, data: Path, tmp_path: Path
) -> None:
    answer = run("init", *words, "name=mine")
    assert answer.code == 0, answer.err
    file = tmp_path / "mine.yaml"
    config = read_config(file, [])
    assert (config.name, config.model, config.data, config.imgsz) == ("mine", str(original), str(data), PX)
    assert config.prune.target and config.prune.target.flops == 0.5
    head = file.read_text().partition("\n\n")[0]
    assert f"yolo-slim run {file} --dry-run" in head
    assert "4 classes" in head and "8 images to train on, 4 in val" in head and f"at {PX} px" in head
    assert "8 images to train on" in answer.out
    assert "a landing needs 120 at least" in " ".join(file.read_text().replace("#", "").split())


def test_all_else_is_a_default_that_can_be_switched_on(words: list[str], tmp_path: Path) -> None:
    assert run("init", *words).code == 0
    file = tmp_path / "mine.yaml"
    as_it_is = read_config(file, [])
    off = {match[2] for match in OFF.finditer(file.read_text())}
    assert {"epochs", "criterion", "formats", "seed", "drop", "landing", "compress"} <= off
    file.write_text(OFF.sub(r"\1\2: ", file.read_text()))
    assert read_config(file, []) == as_it_is
    live = {"name", "model", "data", "imgsz", "device", "prune"}
    assert {n for n in Config.model_fields if getattr(as_it_is, n) != Config.model_fields[n].default} <= live


def test_every_setting_is_there_with_its_meaning(words: list[str], tmp_path: Path) -> None:
    assert run("init", *words).code == 0
    text = " ".join((tmp_path / "mine.yaml").read_text().replace("#", " ").split())
    missing = [
        name
        for name, field in Config.model_fields.items()
        if name != "init" and " ".join((field.description or name).split()) not in text
    ]
    assert missing == []
    for name in ("prune", "finetune", "export"):
        section = Config.model_fields[name].annotation
        told = [f.description for f in section.model_fields.values() if f.description]
        assert [each for each in told if " ".join(each.replace("#", " ").split()) not in text] == []


def test_what_is_given_is_set(words: list[str], tmp_path: Path) -> None:
    given = ["prune.ratio=0.4", "finetune.epochs=7", "export.formats=onnx,openvino", "finetune.train={batch: 4}"]
    assert run("init", *words, *given, "prune.depth={blocks: 1}", "bench=null").code == 0
    config = read_config(tmp_path / "mine.yaml", [])
    assert config.prune.ratio == 0.4 and config.prune.target is None and config.prune.depth.blocks == 1
    assert config.finetune.epochs == 7 and config.finetune.train == {"batch": 4} and config.bench is None
    assert config.export.formats == ["onnx", "openvino"]


def test_a_file_that_is_there_stays(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: kept\n")
    refused(run("init", *words), "mine.yaml is there", "overwrite=true")
    assert (tmp_path / "mine.yaml").read_text() == "name: kept\n"
    assert run("init", *words, "overwrite=true").code == 0
    assert read_config(tmp_path / "mine.yaml", []).name == "slim"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["init.to=mine.txt"], "ends in .yaml"),
        (["model=no.pt"], "no.pt"),
        (["data=no.yaml"], "no.yaml"),
        (["prune.criterio=l1"], "did you mean prune.criterion?"),
    ],
)
def test_what_is_wrong_writes_nothing(words: list[str], tmp_path: Path, more: list[str], said: str) -> None:
    refused(run("init", *words, *more), said)
    assert contents(tmp_path) == {}


def test_without_data_or_for_an_untrained_detector(original: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", f"model={original}").code == 0
    assert read_config("slim.yaml", []).data is None
    answer = run("init", "model=yolov5n.yaml", "name=new")
    assert answer.code == 0 and "trained first" in answer.out
    assert read_config("new.yaml", []).model == "yolov5n.yaml"


@pytest.mark.parametrize(
    "value",
    ["a: b", "#5", "010", "yes", "null", "1e5", "ünï", "a'b", 'say "x"', "", 0.5, None, [1, "no"], {"a.*": "~"}],
)
def test_values_are_read_as_they_were(value: object) -> None:
    assert parse(f"x: {written(value)}", dict)["x"] == value


def test_a_section_of_comments_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nprune:\n  # ratio: 0.4\n  sensitivity:\nbench:\nsweep: \nfinetune: {}\n")
    assert read_config(tmp_path / "a.yaml", []) == Config(name="a")
    (tmp_path / "b.yaml").write_text("bench: null\n")
    assert read_config(tmp_path / "b.yaml", []).bench is None
