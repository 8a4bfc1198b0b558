"""What is added from outside the package works as what is in it: one entry each, named in the settings."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from tiny import refused, run, run_alone
from torch import Tensor, nn

from yolo_slim import checkpoint
from yolo_slim.channels import Trace
from yolo_slim.channels.moments import Moments
from yolo_slim.compress import METHODS, Material, Plan
from yolo_slim.config import choices, read_config
from yolo_slim.deploy import RUNTIMES, Runtime
from yolo_slim.deploy.quantize import QUANTIZERS, Quantizer
from yolo_slim.distill import FEATURES, Pair, Scene, View
from yolo_slim.errors import SlimError
from yolo_slim.importance import CRITERIA, Evidence, Rows, scored
from yolo_slim.mould import duplicate

pytest_plugins = ["tiny"]

SETTINGS = ["imgsz=64", "prune.round_to=4", "prune.min_channels=4", "report.latency_runs=1", "sparse_train.epochs=0"]


@scored(normalize="mean")
def widest(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """The last channels of each group go first."""
    return {group.name: np.arange(float(group.size))[::-1][None] for group in trace.free}


class Means(nn.Module):
    """A loss of maps: the difference of their means."""

    weight = 1.0
    maps_alone = True

    def __init__(self, pair: Pair, *, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar."""
        apart = [(s.mean() - t.mean()).abs() for s, t in zip(student.maps, teacher.maps, strict=True)]
        return torch.stack(apart).mean() ** self.power


@dataclass(frozen=True)
class Rounded:
    """A method: weights of a layer as multiples of a step."""

    help: ClassVar[str] = "rounds the weights of a layer"
    speed: ClassVar[str] = "none"
    changes_layers: ClassVar[bool] = False
    gradual: ClassVar[bool] = False

    layer: str = "model.1.conv"
    to: float = 0.125

    def plan(self, detector: nn.Module, material: Material) -> Plan:
        return Plan({self.layer: {"step": self.to}}, refit={self.layer: self.layer})

    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        made = duplicate(detector)
        weight = made.get_submodule(self.layer).weight
        weight.data = (weight.data / self.to).round() * self.to
        return made

    def prove(self, detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        return {"steps": float(len(compressed.get_submodule(self.layer).weight.unique()))}

    def check(self, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        return {}

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        return weight, moments.fit(weight)[1]

    def describe(self, plan: Plan) -> dict[str, object]:
        return {"layers": len(plan.layers)}

    def hold(self, plan: Plan) -> None:
        return None


def test_a_method(original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "rounded", Rounded)
    words = [f"model={original}", f"runs={tmp_path}", f"data={data}", "imgsz=64", "prune.calib_images=4"]
    answer = run("compress", *words, "compress=[{rounded: {to: 0.25}}]")
    assert answer.code == 0, answer
    weight = checkpoint.load(tmp_path / "slim" / "compressed" / "compressed.pt").get_submodule("model.1.conv").weight
    assert torch.equal(weight, (weight / 0.25).round() * 0.25)
    monkeypatch.undo()
    refused(run("compress", *words, "compress=[rounded]"), "no method 'rounded'")


def test_a_criterion(original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CRITERIA, "widest", widest)
    words = [f"model={original}", f"runs={tmp_path}", *SETTINGS, "prune.criterion=widest", "prune.ratio=0.3"]
    assert run("prune", *words, f"data={data}", "prune.calib_images=4").code == 0
    kept = json.loads((tmp_path / "slim" / "plan" / "plan.json").read_text())["outputs"]
    assert kept and all(stay == list(range(len(stay))) for name, stay in kept.items() if name == "model.0.conv")


def test_a_loss(slim: Path, original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURES, "means", Means)
    words = [f"model={original}", f"runs={tmp_path}", *SETTINGS, f"data={data}", "prune.ratio=0.3"]
    assert run("prune", *words, "prune.criterion=l1", "prune.calib_images=4").code == 0
    lesson = "finetune.distill={features: {means: {power: 1.0, weight: 3}}}"
    answer = run("finetune", *words, "finetune.epochs=1", lesson)
    assert answer.code == 0, answer
    results = (tmp_path / "slim" / "finetuned" / "train" / "results.csv").read_text()
    assert "train/means" in results.splitlines()[0], results


def test_a_runtime(original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Runtime("onnx", "onnxruntime", RUNTIMES["onnxruntime"].open, RUNTIMES["onnxruntime"].layers)
    monkeypatch.setitem(RUNTIMES, "mine", mine)
    words = [f"model={original}", f"runs={tmp_path}", *SETTINGS, f"data={data}", "prune.ratio=0.3"]
    assert run("prune", *words, "prune.criterion=l1", "prune.calib_images=4").code == 0
    answer = run("bench", *words, "bench.runtimes=[mine]", "bench.runs=3")
    assert answer.code == 0, answer
    rows = json.loads((tmp_path / "slim" / "bench" / "bench.json").read_text())["rows"]
    assert {row["runtime"] for row in rows} == {"mine"}
    assert read_config(None, ["model=a.pt", "latency.runtime=mine"]).latency.runtime == "mine"


def test_a_runtime_that_is_gone_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as here:
        here.setitem(RUNTIMES, "mine", Runtime("onnx", "onnxruntime", lambda file, threads: None))
        assert "mine" in choices.RUNTIMES and "mine" not in choices.TIMED_BY_LAYER
    assert "mine" not in choices.RUNTIMES
    with pytest.raises(SlimError, match=r"expected torch, onnxruntime, .* or litert, got 'mine'"):
        read_config(None, ["model=a.pt", "bench.runtimes=[mine]"])


def test_a_quantizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUANTIZERS, "ncnn", Quantizer(lambda source, target, images, floats: None, ("nowhere_to_be",)))
    assert read_config(None, ["model=a.pt", "export.int8=[ncnn]"]).export.int8 == ["ncnn"]
    refused(run("export", "model=tests", "export.int8=[torchscript]"), "expected onnx, openvino or ncnn")


@pytest.mark.parametrize("names", [choices.RUNTIMES, choices.TIMED_BY_LAYER, choices.QUANTIZERS, choices.COMPRESSIONS])
def test_the_names_are_those_of_what_is_there(names: list[str]) -> None:
    there = {
        id(choices.RUNTIMES): list(RUNTIMES),
        id(choices.TIMED_BY_LAYER): [name for name, runtime in RUNTIMES.items() if runtime.layers],
        id(choices.QUANTIZERS): list(QUANTIZERS),
        id(choices.COMPRESSIONS): list(METHODS),
    }
    assert names == there[id(names)]


def test_settings_know_the_names_before_any_of_it_is_imported() -> None:
    """The command line reads its words first: what only `deploy` has registered by then would be refused."""
    written = {}
    for node in ast.parse(Path(choices.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            written[node.targets[0].id] = ast.literal_eval(node.value)
    assert written == {
        name: getattr(choices, name) for name in ("RUNTIMES", "TIMED_BY_LAYER", "QUANTIZERS", "COMPRESSIONS")
    }


def test_a_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine_stage.py").write_text("def count(config): print(f'imgsz {config.imgsz}')\n")
    code = (
        "from yolo_slim.stages import STAGES, Stage; from yolo_slim.cli import main; "
        "STAGES['count'] = Stage('mine_stage:count', 'say the size', (), 'yolo-slim count imgsz=64'); "
        "sys.path.append('.'); sys.exit(main())"
    )
    (tmp_path / "m.pt").touch()
    (tmp_path / "d.yaml").touch()
    answer = run_alone("count", "model=m.pt", "data=d.yaml", "imgsz=64", cwd=tmp_path, code=code)
    assert (answer.code, answer.out) == (0, "imgsz 64\n"), answer
    assert "count         say the size" in run_alone("--help", cwd=tmp_path, code=code).out
