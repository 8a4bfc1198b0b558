"""Model cards that someone else wrote: one message where they are none, and no control characters where they are."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PX, refused, run
from torch import nn

from yolo_slim import checkpoint, record
from yolo_slim.console import Terminal
from yolo_slim.deploy import card_in
from yolo_slim.errors import SlimError
from yolo_slim.formats.cards import card_of
from yolo_slim.formats.writing import write_whole
from yolo_slim.report import markdown, page
from yolo_slim.stages.inspect import history, plan_of
from yolo_slim.text import lines, printable, tidy

pytest_plugins = ["tiny", "handmade"]

STEP = {"stage": "pruned", "settings": {}, "params": 3, "flops": 5.0}

WRONG = {
    "a text": ("x", "card"),
    "a list": ([], "card"),
    "a number": (3, "card"),
    "a source that is a text": ({"source": "best.pt"}, "card.source"),
    "a source without its sum": ({"source": {"file": "best.pt"}}, "card.source.sha256"),
    "a file that is a number": ({"weights": {"file": 3, "sha256": "a"}}, "card.weights.file"),
    "steps that are a number": ({"steps": 3}, "card.steps"),
    "a step that is a text": ({"steps": ["x"]}, "card.steps.0"),
    "a step without its stage": ({"steps": [{"settings": {}}]}, "card.steps.0.stage"),
    "settings that are a list": ({"steps": [{**STEP, "settings": []}]}, "card.steps.0.settings"),
    "parameters that are a text": ({"steps": [{**STEP, "params": "3"}]}, "card.steps.0.params"),
    "fewer than no parameters": ({"steps": [{**STEP, "params": -3}]}, "card.steps.0.params"),
    "FLOPs that are none": ({"steps": [{**STEP, "flops": float("nan")}]}, "card.steps.0.flops"),
    "mAP that is a list": ({"steps": [{**STEP, "map50_95": [1]}]}, "card.steps.0.map50_95"),
    "versions that are a list": ({"versions": ["2.0"]}, "card.versions"),
    "a version that is a number": ({"versions": {"torch": 2}}, "card.versions.torch"),
    "a plan that is a dict": ({"plan": {}}, "card.plan"),
    "a plan of texts": ({"plan": [{"model.0.conv": "x"}]}, "card.plan.0"),
    "a plan that keeps less than nothing": ({"plan": [{"model.0.conv": [-1]}]}, "card.plan.0"),
    "a plan of what was cut": ({"plan": [{"a": [0]}, {"a": [7]}]}, "keeps more of a"),
}


@pytest.mark.parametrize(("card", "said"), WRONG.values(), ids=WRONG)
def test_a_card_that_is_none_in_a_checkpoint(card: Any, said: str, original: Path, tmp_path: Path) -> None:
    ckpt = checkpoint.read(original)
    write_whole({**ckpt, checkpoint.CARD: card}, tmp_path / "mine.pt")
    refused(run("inspect", tmp_path / "mine.pt", f"imgsz={PX}"), tmp_path / "mine.pt", "model card", said)


@pytest.mark.parametrize(("card", "said"), WRONG.values(), ids=WRONG)
def test_a_card_that_is_none_in_an_exported_file(card: Any, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "slim_openvino_model"
    folder.mkdir()
    (folder / "metadata.yaml").write_text(json.dumps({"yolo_slim": json.dumps(card)}))
    if card != []:
        refused(run("inspect", folder), folder, "model card", said)


BENIGN = [
    {},
    {"steps": []},
    {"versions": {"torch": "2"}},
    {"source": {"file": "a.pt", "sha256": "b"}},
    {"steps": [{"stage": "original", "settings": {}}]},
    {"steps": [{**STEP, "map50_95": 0.5, "split": "test", "note": "of another version"}], "more": [1]},
    {"steps": [{**STEP, "map50_95": None}], "source": None, "plan": [{"a": [0, 2]}, {"a": [1]}]},
]


@pytest.mark.parametrize("card", BENIGN)
def test_a_card_of_another_version_is_told_as_far_as_it_goes(card: dict) -> None:
    assert card_of(card) == card
    assert isinstance(history(card_of(card)), list)
    assert isinstance(plan_of(card.get("plan") or [], {}), list)


NASTY = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202egnp.exe\r\n\x00[bold]x[/nothing]"
"""Sets a terminal's title, its colour, clears it, turns the order of letters, and is no markup of rich's."""


def test_a_terminal_is_told_nothing_by_a_card(original: Path, tmp_path: Path) -> None:
    card = {"source": {"file": NASTY, "sha256": NASTY}, "versions": {"yolo-slim": NASTY}}
    card |= {"steps": [{**STEP, "stage": NASTY, "settings": {NASTY: NASTY}, "map50_95": 0.5, "split": NASTY}]}
    write_whole({**checkpoint.read(original), checkpoint.CARD: card}, tmp_path / "mine.pt")
    answer = run("inspect", tmp_path / "mine.pt", f"imgsz={PX}")
    assert answer.code == 0, answer
    assert "[bold]x[/nothing]" in answer.out, "and what looks like markup is shown as it is"
    assert not [c for c in answer.out if c in "\x1b\x07\x9b\u202e\r\x00"]


def test_a_terminal_is_told_nothing_by_a_name(detector: nn.Module, tmp_path: Path) -> None:
    """Of a layer, or of the file itself."""
    detector.yaml["slim"] = {"full": {k: detector.yaml[k] for k in ("backbone", "head")}, "cuts": [{NASTY: [0]}]}
    (tmp_path / "[bold]a[").mkdir()
    path = tmp_path / "[bold]a[" / "[red].pt"  # [/...] closes what was not opened: rich raises
    torch.save({"model": detector, "ema": None, "train_args": {}}, path)
    answer = run("inspect", path, f"imgsz={PX}")
    assert answer.code == 0, answer
    assert "[bold]a[/[red].pt" in answer.out.replace("\n", "")
    assert not [c for c in answer.out if c in "\x1b\x07\x9b\u202e\r\x00"]


@pytest.mark.parametrize("name", ["[red]x", "[/]", "[/bold]", "a[b", "[bold", "x]", "[link=http://a]b"])
def test_a_path_is_no_markup(name: str, capsys: pytest.CaptureFixture) -> None:
    terminal = Terminal(highlight=False, soft_wrap=True)
    terminal.print(f"[bold]done[/]: {name}\x1b[31m")
    assert capsys.readouterr().out.removeprefix("[bold]").replace("[/]:", ":").strip().endswith(f"{name}[31m")


def test_a_page_tells_nobody_anything(report: dict, tmp_path: Path) -> None:
    """Names of classes, of files and of stages, in report.md and in report.html."""
    report["rows"][0]["stage"] = report["export"]["files"][0]["file"] = NASTY
    report["name"] = report["data"] = NASTY
    for row in report["rows"]:
        row["per_class"] = [{"id": 0, "name": NASTY, "images": 1, "labels": 1, "ap50_95": 0.5}]
    shown = tidy(report)
    for text in (markdown(shown), page(shown, tmp_path)):
        record.write_text(tmp_path / "page", text)
        found = (tmp_path / "page").read_text(encoding="utf-8")
        assert not [c for c in found if c in "\x1b\x07\x9b\u202e\r\x00"]
        assert "gnp.exe" in found
    assert "]0;owned[31mred2Jgnp.exe [bold]x[/nothing]" in markdown(shown), "on one line"


def test_a_message_tells_a_terminal_nothing(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mmine.pt"
    path.write_bytes(b"x")
    with pytest.raises(SlimError, match=r"\[31mmine.pt is not a readable checkpoint") as caught:
        checkpoint.load(path)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Ärger 猫 🚀", "Ärger 猫 🚀"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("a\tb\nc", "a b c"),
        ("a\r\nb", "a b"),
        ("\x1b[0m\x00\x07", "[0m"),
        ("\u2028\u2029\ufeff", ""),
        ("\ud800x", "x"),
    ],
)
def test_what_is_shown_of_a_text(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_of_a_message_stay() -> None:
    assert lines("a\n\tb\x1b[1m") == "a\n\tb[1m"
    assert str(SlimError("a\nb\x07")) == "a\nb"


# ---------------------------------------------------------------------------------------------------------------------
# Exported files


def engine(length: bytes, text: bytes = b"{}") -> bytes:
    return length + text + b"the engine"


ENGINES = {
    "2 GB of text": (engine(b"\xff\xff\xff\x7f"), "2,147,483,647 bytes of text"),
    "less than nothing": (engine(b"\xff\xff\xff\xff"), "-1 bytes of text"),
    "nothing": (engine(b"\x00\x00\x00\x00"), "0 bytes of text"),
    "more than there is": (engine(b"\xff\x00\x00\x00"), "255 bytes of text"),
    "no text": (engine(b"\x02\x00\x00\x00", b"\xff\xff"), "cannot read the metadata"),
    "a list": (engine(b"\x02\x00\x00\x00", b"[]"), "no table"),
    "deep lists": (engine((200_000).to_bytes(4, "little"), b"[" * 200_000), "cannot read the metadata"),
    "two bytes": (b"\x01\x00", "cannot read the metadata"),
    "empty": (b"", "cannot read the metadata"),
}


@pytest.mark.parametrize(("content", "said"), ENGINES.values(), ids=ENGINES)
def test_a_tensorrt_file_that_says_too_much(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.engine").write_bytes(content)
    refused(run("inspect", tmp_path / "mine.engine"), "mine.engine", said)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = {
    "aliases of aliases": (f"{BOMB}yolo_slim: *i\n", "without end"),
    "deep lists": ("[" * 5000, "without end"),
    "Python": ("yolo_slim: !!python/object/apply:os.system ['true']\n", "is no YAML"),
    "a list": ("- 1\n", "no table"),
    "a key twice": ("a: 1\na: 2\n", "says a twice"),
    "a card that is no text": ("yolo_slim: {a: 1}\n", "expected a text"),
    "a card that is no JSON": ("yolo_slim: '{'\n", "cannot read the metadata"),
    "a card of deep lists": (f"yolo_slim: '{'[' * 100_000}'\n", "cannot read the metadata"),
    "a date that is none": ("date: 2021-02-30\n", "is no YAML"),
    "8 MB": ("#" * 8_000_000, "bytes"),
}


@pytest.mark.parametrize(("text", "said"), YAMLS.values(), ids=YAMLS)
def test_a_folder_whose_metadata_say_too_much(text: str, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine_ncnn_model"
    folder.mkdir()
    (folder / "metadata.yaml").write_text(text)
    refused(run("inspect", folder), folder, said)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.torchscript", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("mine/extra/config.txt", b" " * 50_000_000)
    refused(run("inspect", tmp_path / "mine.torchscript"), "50,000,000 bytes")


@pytest.mark.parametrize("name", ["mine.onnx", "mine.torchscript", "mine.tflite"])
def test_bytes_that_are_none_of_it(name: str, tmp_path: Path) -> None:
    for content in (b"", b"\x00" * 100, b"PK\x03\x04" + b"\xff" * 100, b"\x0a" * 5000):
        (tmp_path / name).write_bytes(content)
        answer = run("inspect", tmp_path / name)
        assert answer.code == 2 or "carries no model card" in answer.out, answer


def test_a_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "mine.onnx").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SlimError, match="GB"):
        card_in(tmp_path / "mine.onnx")
    (tmp_path / "mine.onnx").rename(tmp_path / "mine.pt")
    with pytest.raises(SlimError, match="no detector is as large"):
        checkpoint.load(tmp_path / "mine.pt")
