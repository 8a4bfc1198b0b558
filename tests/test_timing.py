"""Latency targets, end to end: layers are timed once, kept beside the runs, and the cut keeps to what they tell."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny import PX, refused, run
from torch import nn

import yolo_slim
from yolo_slim import SlimError, checkpoint
from yolo_slim.channels import Costs, LayerTable, trace
from yolo_slim.config import read_config
from yolo_slim.console import captured
from yolo_slim.pruning.choose import findings
from yolo_slim.timing.beside import Comparison
from yolo_slim.timing.layers import measured_table, random_widths, read
from yolo_slim.timing.quiet import Machine
from yolo_slim.timing.runner import Runner

pytest_plugins = ["tiny"]

NO_TABLE = LayerTable(1, 1, {}, ()), 1.0
RUNTIMES = ("onnxruntime", "torch")


def typed(model: Path, runs: Path, runtime: str = "onnxruntime") -> list[str]:
    """A cut to a share of the latency, its layers timed as quickly as may be."""
    settings = {
        "model": model,
        "imgsz": PX,
        "runs": runs,
        "name": runtime,
        "sparse_train.epochs": 0,
        "prune.criterion": "l1",
        "prune.round_to": 1,
        "prune.min_channels": 2,
        "prune.target.latency": 0.9,
        "latency.runtime": runtime,
        "latency.samples": 8,
        "latency.runs": 5,
        "latency.threads": 1,
    }
    return [f"{key}={value}" for key, value in settings.items()]


@pytest.fixture(scope="module")
def runs(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables of two runtimes: one that runs exported files, and PyTorch."""
    folder = tmp_path_factory.mktemp("clock")
    for runtime in RUNTIMES:
        answer = run("prune", *typed(original, folder, runtime))
        assert answer.code == 0, answer
        assert f"latency of layers in {runtime}, 1 threads: kept in" in answer.out
        assert f"measured in {runtime}: latency x0.800 (predicted x0." in answer.out
    return folder


class Steady:
    """By which every cut takes the same."""

    def one(self, slim: nn.Module) -> Comparison:
        return Comparison((10.0, 1.0), 0.8)


@pytest.fixture(autouse=True, scope="module")
def steady() -> Iterator[None]:
    """A machine on which every cut is as fast as the next: what layers take is measured, what comes of it is not.

    Four detectors are exported and timed for a table; fewer than eight cannot be asked for.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yolo_slim.timing.layers.random_widths", lambda wiring, _: random_widths(wiring, 4))
        patch.setattr("yolo_slim.timing.targets.comparator", lambda *_: Steady())
        patch.setattr("yolo_slim.timing.targets.CLOSE", 1e9)
        yield


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_cut_keeps_to_what_the_layers_tell(original: Path, runs: Path, runtime: str) -> None:
    (file,) = (runs / "latency").glob(f"{runtime}-*.json")
    table, wiring = read(file), trace(checkpoint.load(original), PX)
    record = json.loads((runs / runtime / "pruned" / "stage.json").read_text())
    widths = {row["layer"]: row["after"] for row in record["details"]["widths"]}
    keeps = {name: width for g in wiring.groups for name in g.producers if (width := widths[name])}
    plan = [next(keeps[p] for p in g.producers) if g.producers else g.size for g in wiring.groups]
    costs = Costs(wiring)
    told = [float(table.many(costs, k[None])[0]) for k in (np.array(plan), costs.full)]
    achieved = record["details"]["achieved"]
    assert achieved["latency"] == pytest.approx(told[0] / told[1]) and achieved["latency"] <= 0.9
    assert achieved["latency_ms"] == pytest.approx(told[0])
    assert record["details"]["measured"] == {"latency": 0.8, "latency_ms": 8.0}
    assert table.layers.keys() == wiring.convs.keys()
    kept = json.loads(file.read_text())
    assert kept["runtime"] == runtime and kept["threads"] == 1 and kept["imgsz"] == PX and kept["device"]
    assert kept["baseline_ms"] > 0


def test_layers_are_timed_once(original: Path, runs: Path) -> None:
    (file,) = (runs / "latency").glob("onnxruntime-*.json")
    before = file.stat().st_mtime_ns
    answer = run("prune", *typed(original, runs), "prune.target.latency=0.95")
    assert answer.code == 0 and "kept in" not in answer.out
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"layers": {"a": 1}}'])
def test_a_damaged_table_is_measured_anew(
    original: Path, runs: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = (runs / "latency").glob("torch-*.json")
    (tmp_path / "latency").mkdir()
    (tmp_path / "latency" / kept.name).write_text(damage)
    table = read(kept)
    monkeypatch.setattr("yolo_slim.timing.layers.measured_table", lambda *_, **__: (table, 1.0))
    answer = run("prune", *typed(original, tmp_path, "torch"))
    assert answer.code == 0 and "holds no table of layers" in answer.out and "measured anew" in answer.out
    assert read(tmp_path / "latency" / kept.name) == table


def test_a_table_of_another_format_is_none(
    original: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "latency", tmp_path / "latency")
    monkeypatch.setattr("yolo_slim.timing.layers.FORMAT", 0)
    assert "kept in" in run("prune", *typed(original, tmp_path, "torch")).out


def test_the_detector_that_is_cut_is_the_one_that_is_timed(loaded: nn.Module, slim: Path, tmp_path: Path) -> None:
    """Whatever else lies in the run folder or is named as the model."""
    words = [word for word in typed(slim, tmp_path, "torch") if not word.startswith("name=")]
    config, asked = read_config(None, words), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "yolo_slim.timing.layers.measured_table", lambda detector, *_, **__: asked.append(detector) or NO_TABLE
        )
        findings(config, loaded)
    assert asked == [loaded]


def test_pytorch_is_timed_on_the_device_and_others_on_the_cpu() -> None:
    torch, other = (Runner.of(runtime, 2, PX, "0,1") for runtime in ("torch", "openvino"))
    assert (torch.where, other.where) == ("cuda:0", "cpu")
    assert (torch.name, other.name) == ("torch on cuda:0", "openvino")


def test_another_runtime_is_another_cut(original: Path, runs: Path) -> None:
    again = run("prune", *typed(original, runs))
    assert again.code == 0
    assert "done before" in run("prune", *typed(original, runs)).out
    other = run("prune", *typed(original, runs), "latency.runtime=torch")
    assert other.code == 0 and "pruned: done before" not in other.out


def test_out_of_reach_is_refused_with_the_least_there_is(original: Path, runs: Path) -> None:
    answer = run("prune", *typed(original, runs), "prune.target.latency=0.001", "name=far")
    refused(answer, "cannot be met", "latency x0.001", "lowest possible: x0.")
    assert list((runs / "far").rglob("pruned.pt")) == []


def test_from_python_there_is_no_table(original: Path) -> None:
    with pytest.raises(SlimError, match="yolo-slim prune"):
        yolo_slim.prune(checkpoint.load(original), imgsz=PX, target={"latency": 0.5})


def test_what_other_programs_write_is_shown_only_where_they_fail(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with captured():
        subprocess.run(["sh", "-c", "echo out; echo err >&2"], check=True)
    print("after")
    assert capfd.readouterr() == ("before\nafter\n", "")
    with pytest.raises(subprocess.CalledProcessError), captured():
        subprocess.run(["sh", "-c", "echo what is wrong >&2; exit 3"], check=True)
    assert capfd.readouterr() == ("", "what is wrong\n")


def test_a_sample_of_a_slow_machine_is_taken_again(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers as well, and none of them are those of another detector."""
    detector, slow = checkpoint.load(original), iter([60.0, 60.0, 90.0, 60.0, 60.0])  # three, one again, and the whole
    times = lambda ready, runs, **_: {"whole": [now := next(slow)], "narrow": [6.0], "slim": [now / 2]}  # noqa: E731
    monkeypatch.setattr("yolo_slim.timing.quiet.measure.interleaved", times)
    monkeypatch.setattr(Machine, "wait", lambda machine, pauses: pauses)
    monkeypatch.setattr("yolo_slim.timing.quiet.RETAKES", 2)
    fitted = []
    monkeypatch.setattr("yolo_slim.timing.layers.fit_layers", lambda *of: fitted.append(of))
    _, baseline = measured_table(detector, trace(detector, PX), Runner("torch", 1, PX), samples=8, runs=20)
    assert baseline == 60.0 and next(slow, None) is None
    ((_, keeps, samples),) = fitted
    assert len(keeps) == len(samples) == 4
    assert [sum(sample.values()) for sample in samples] == pytest.approx([60.0, 30.0, 30.0, 30.0])
