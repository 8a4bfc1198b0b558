"""A Darknet detector through every stage, and out again: as a cfg and weights, as a checkpoint, as ONNX."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path

import darknet_nets as nets
import pytest
import torch
from tiny import contents, refused, run
from torch import Tensor, nn

import yolo_slim
from yolo_slim import checkpoint
from yolo_slim.formats.darknet import DarknetModel
from yolo_slim.formats.darknet.net import read_net

pytest_plugins = ["tiny"]

PX = 64
CFG = (
    nets.net(PX, PX)
    + nets.conv(16, 3, 2)
    + nets.conv(24, 3, 2)
    + nets.conv(16, 1)
    + nets.conv(24, 3)
    + nets.section("shortcut", from_=-3, activation="linear")
    + nets.conv(32, 3, 2)
    + nets.conv(48, 3, 2)
    + nets.head("2,3", 4)
    + nets.section("route", layers=-4)
    + nets.conv(24, 1)
    + nets.section("upsample", stride=2)
    + nets.section("route", layers="-1,4")
    + nets.conv(32, 3)
    + nets.head("0,1", 4)
)
"""A backbone with a shortcut, and two maps as in YOLOv3-tiny."""
QUICK = ("prune.target.flops=0.6", "prune.round_to=2", "prune.min_channels=2", "prune.calib_images=4")
TRAINED = (
    "sparse_train.mode=targeted",
    "sparse_train.epochs=1",
    "sparse_train.min_steps=0",
    "finetune.epochs=1",
    "report.latency_runs=1",
)
FILES = ("export.formats=[torchscript]", "export.images=2", "export.map_tolerance=1", "bench=null")


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net with random weights. Read it only."""
    return nets.written(tmp_path_factory.mktemp("darknet"), CFG)


def answers(detector: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return detector(image)[0]


@pytest.fixture(scope="module")
def gone_through(cfg: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has come to its end."""
    runs = tmp_path_factory.mktemp("runs")
    answer = run("run", f"model={cfg}", f"data={data}", f"runs={runs}", *QUICK, *TRAINED, *FILES)
    assert answer.code == 0, answer
    return runs / "slim"


@pytest.mark.parametrize("stage", ["pruned", "finetuned"])
def test_a_slim_cfg_lies_beside_the_checkpoint(gone_through: Path, stage: str) -> None:
    name = {"pruned": "pruned", "finetuned": "slim"}[stage]
    described, stored = (checkpoint.load(gone_through / stage / f"{name}{end}") for end in (".cfg", ".pt"))
    assert isinstance(described, DarknetModel) and isinstance(stored, DarknetModel)
    image = nets.image(described)
    assert torch.equal(answers(described, image), answers(stored, image))
    before, after = read_net(CFG), read_net((gone_through / stage / f"{name}.cfg").read_text())
    widths = [[layer.values["filters"] for layer in net.convs] for net in (before, after)]
    assert sum(widths[1]) < sum(widths[0]) and all(b <= a for a, b in zip(*widths, strict=True))


def test_the_card_tells_the_way(gone_through: Path) -> None:
    steps = [step["stage"] for step in checkpoint.card(gone_through / "finetuned" / "slim.cfg")["steps"]]
    assert steps == ["original", "sparse", "pruned", "finetuned"]
    assert steps == [s["stage"] for s in checkpoint.card(gone_through / "finetuned" / "slim.pt")["steps"]]


def test_the_report_compares_it_with_the_original(gone_through: Path) -> None:
    rows = json.loads((gone_through / "report" / "report.json").read_text())["rows"]
    assert rows[-1]["params"] < rows[0]["params"] and rows[-1]["flops"] < rows[0]["flops"]


def test_nothing_is_done_twice(gone_through: Path, cfg: Path, data: Path) -> None:
    before = contents(gone_through)
    words = (f"model={cfg}", f"data={data}", f"runs={gone_through.parent}", *QUICK, *TRAINED, *FILES)
    answer = run("run", *words)
    assert answer.code == 0 and answer.out.count("done before") == 7, answer.out
    assert contents(gone_through) == before


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("inspect", ()),
        ("sensitivity", ("prune.sensitivity.images=2", "prune.sensitivity.ratios=[0.5]")),
        ("sweep", ("sweep.flops=[0.7]", "sweep.criteria=[l1]", "sweep.workers=1", "report.latency_runs=1")),
        ("prune", ("prune.fisher=labels",)),
        ("prune", ("prune.criterion=taylor",)),
        ("prune", ("prune.iterations.rounds=2", "prune.iterations.epochs=1")),
    ],
)
def test_a_stage_by_itself(stage: str, more: tuple[str, ...], cfg: Path, data: Path, tmp_path: Path) -> None:
    answer = run(stage, f"model={cfg}", f"data={data}", f"runs={tmp_path}", "sparse_train.epochs=0", *QUICK, *more)
    assert answer.code == 0, answer


def test_a_slim_one_is_pruned_again(gone_through: Path) -> None:
    slim = yolo_slim.load(gone_through / "finetuned" / "slim.cfg")
    again = yolo_slim.prune(slim, imgsz=PX, ratio=0.3, criterion="l1", round_to=1, min_channels=1)
    assert again.difference < 1e-9 and again.cost.achieved["flops"] < 0.9


# ---------------------------------------------------------------------------------------------------------------------
# Convert


@pytest.mark.parametrize("name", ["net.pt", "net.torchscript"])
def test_it_becomes_another_kind_of_file(name: str, cfg: Path, tmp_path: Path) -> None:
    answer = run("convert", f"model={cfg}", f"convert.to={tmp_path / name}")
    assert answer.code == 0 and "answers differ by" in answer.out, answer
    assert (tmp_path / name).is_file()


def test_there_and_back_it_is_the_same_to_the_byte(cfg: Path, tmp_path: Path) -> None:
    for model, to in ((cfg, "a.pt"), (tmp_path / "a.pt", "b.cfg")):
        assert run("convert", f"model={model}", f"convert.to={tmp_path / to}").code == 0
    for end in (".cfg", ".weights"):
        assert filecmp.cmp(tmp_path / f"b{end}", cfg.with_suffix(end), shallow=False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param([], ["convert.to", "needed"], id="nowhere"),
        pytest.param(["convert.to=x.engine"], ["x.engine", ".cfg", ".onnx", "yolo-slim export"], id="not without loss"),
        pytest.param(["convert.to=x"], ["convert.to=x", ".pt"], id="no kind"),
    ],
)
def test_what_cannot_be_converted(words: list[str], told: list[str], cfg: Path) -> None:
    refused(run("convert", f"model={cfg}", *words), *told)


def test_others_do_not_become_darknet(original: Path, tmp_path: Path) -> None:
    refused(run("convert", f"model={original}", f"convert.to={tmp_path / 'x.cfg'}", f"imgsz={PX}"), "x.cfg", ".pt")


# ---------------------------------------------------------------------------------------------------------------------
# What does not come in


def test_weights_that_are_not_there(cfg: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.cfg").write_text(CFG)
    answer = run("prune", f"model={tmp_path / 'alone.cfg'}", f"data={data}", f"runs={tmp_path / 'runs'}", *QUICK)
    refused(answer, "no weights beside", "alone.weights")
    assert not (tmp_path / "runs").exists()


def test_weights_that_lie_elsewhere(cfg: Path, data: Path, tmp_path: Path) -> None:
    """They are named; others are another detector, and what was made of the first is done again."""
    (tmp_path / "alone.cfg").write_text(CFG)
    content = cfg.with_suffix(".weights").read_bytes()
    (tmp_path / "far.weights").write_bytes(content)
    words = [f"model={tmp_path / 'alone.cfg'}", f"weights={tmp_path / 'far.weights'}", f"runs={tmp_path / 'runs'}"]
    words += [f"data={data}", "sparse_train.epochs=0", *QUICK]
    assert run("prune", *words).code == 0
    assert run("prune", *words).out.count("done before") == 3
    (tmp_path / "far.weights").write_bytes(content[:-4] + b"\0\0\0\0")
    again = run("prune", *words)
    assert again.code == 0 and "far.weights" in again.out and "done again" in again.out, again


def test_weights_that_were_named_once_are_the_run_s(cfg: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.cfg").write_text(CFG)
    far = Path(shutil.copy(cfg.with_suffix(".weights"), tmp_path / "far.weights"))
    words = [f"runs={tmp_path / 'runs'}", f"imgsz={PX}", *QUICK]
    first = run("prune", f"model={tmp_path / 'alone.cfg'}", f"weights={far}", *words)
    assert first.code == 0, first
    for again in ([], [f"model={tmp_path / 'alone.cfg'}"]):
        answer = run("prune", *again, *words)
        assert (answer.code, answer.out.count("done before")) == (0, 3), answer
    other = Path(shutil.copy(far, tmp_path / "other.weights"))
    assert run("prune", f"weights={other}", *words).code == 0
    far.unlink()
    assert run("prune", *words).code == 0


def test_a_name_in_capitals(cfg: Path, tmp_path: Path) -> None:
    shutil.copy(cfg, tmp_path / "NET.CFG")
    shutil.copy(cfg.with_suffix(".weights"), tmp_path / "NET.weights")
    assert "convolutions in" in run("inspect", tmp_path / "NET.CFG").out


@pytest.mark.parametrize("name", ["net.weights", "net.pt"])
def test_a_pointer_that_stands_for_a_large_file(name: str, tmp_path: Path) -> None:
    """What a clone holds without Git LFS."""
    (tmp_path / "net.cfg").write_text(CFG)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 1384268\n")
    model = tmp_path / ("net.cfg" if name.endswith(".weights") else name)
    refused(run("inspect", model), name, "git lfs pull")


def test_what_is_no_cfg_by_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "net.cfg").write_text("<!DOCTYPE html>")
    refused(run("inspect", tmp_path / "net.cfg"), "Darknet .cfg", "[net]")


def test_a_byte_order_mark(cfg: Path, tmp_path: Path) -> None:
    """Some editors begin a text with one, and neither Darknet nor OpenCV reads that."""
    (tmp_path / "net.cfg").write_bytes(b"\xef\xbb\xbf" + CFG.encode())
    shutil.copy(cfg.with_suffix(".weights"), tmp_path / "net.weights")
    refused(run("inspect", tmp_path / "net.cfg"), "net.cfg", "line 1", "byte-order mark")


def test_weights_of_what_has_none(original: Path, cfg: Path) -> None:
    words = [f"model={original}", f"weights={cfg.with_suffix('.weights')}", f"imgsz={PX}"]
    refused(run("inspect", *words), "weights=", "Darknet .cfg", "leave it out")


def test_a_section_that_is_not_understood(data: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.cfg").write_text(CFG.replace("[upsample]", "[reorg3d]"))
    (tmp_path / "odd.weights").write_bytes(b"\0" * 400)
    line = CFG[: CFG.index("[upsample]")].count("\n") + 1
    refused(run("inspect", tmp_path / "odd.cfg"), "odd.cfg", f"line {line}", "reorg3d")
