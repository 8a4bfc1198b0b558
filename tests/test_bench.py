"""The bench: every runtime on both detectors, and the layers that are behind their FLOPs named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny import PX, contents, refused, run

from yolo_slim import deploy
from yolo_slim.channels import trace
from yolo_slim.checkpoint import load
from yolo_slim.deploy.profile import by_layer, in_openvino, module_of
from yolo_slim.report import bench_markdown, bench_rows, bench_sentences
from yolo_slim.stages.bench import gathered

pytest_plugins = ["tiny"]

LAYERED = ["torch", "onnxruntime", "openvino"]
RUNTIMES = [*LAYERED, "torchscript", "ncnn", "opencv"]


@pytest.mark.parametrize(
    ("node", "module"),
    [
        pytest.param("/model.0/conv/Conv", "model.0.conv", id="a convolution"),
        pytest.param("/model.0/conv/Conv_output_0_nchwc", "model.0.conv", id="in onnxruntime's blocks"),
        pytest.param("/model.0/act/Mul/QuickGeluFusion/", "model.0.act", id="a fused activation"),
        pytest.param("/model.2/m/m.0/cv1/conv/Conv/WithoutBiases", "model.2.m.0.cv1.conv", id="in a list, OpenVINO"),
        pytest.param("/model.24/cv2.0/cv2.0.1/conv/Conv", "model.24.cv2.0.1.conv", id="in a list of lists"),
        pytest.param("images_abcd_acdb_/model.0/conv/Conv", "model.0.conv", id="a reordering before it"),
        pytest.param("/model.9/m_1/MaxPool_output_0_nchwc", "model.9.m_1", id="a pool"),
        pytest.param("__module.model.2.m.0.cv1.conv/aten::_convolution/Convolution", "model.2.m.0.cv1.conv", id="IR"),
        pytest.param("x_abcd_acdb___module.model.0.conv/aten::a/C", "model.0.conv", id="IR, a reordering before it"),
        pytest.param("__module.model.24/aten::sigmoid/Sigmoid", "model.24", id="IR, the head's own"),
        pytest.param("ReorderOutput_token_246", "", id="nobody's"),
    ],
)
def test_operators_are_known_by_their_modules(node: str, module: str) -> None:
    assert module_of(node) == module


def test_a_layers_time_holds_its_activation_and_nothing_is_lost() -> None:
    nodes = {
        "/model.0/conv/Conv": 1.0,
        "/model.0/act/Mul": 2.0,
        "/model.2/cv1/conv/Conv": 4.0,
        "/model.2/Concat": 8.0,
        "Reorder": 16.0,
        "/model.3/cv2.0/cv2.0.2/Conv": 32.0,
    }
    convs = ["model.0.conv", "model.2.cv1.conv", "model.2.cv2.conv", "model.3.cv2.0.2", "model.3.cv2.1.2"]
    assert by_layer(nodes, convs) == {
        "model.0.conv": 3.0,
        "model.2.cv1.conv": 4.0,
        "model.2.cv2.conv": 0.0,
        "model.3.cv2.0.2": 32.0,
        "model.3.cv2.1.2": 0.0,
        "": 24.0,
    }


@pytest.fixture(scope="module")
def benched(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run folder with its bench, and the words that made it."""
    runs = tmp_path_factory.mktemp("bench")
    words = [f"model={original}", f"imgsz={PX}", f"runs={runs}", "name=b", "sparse_train.epochs=0", "prune.ratio=0.4"]
    assert run("prune", *words, "prune.criterion=l1").code == 0
    chosen = [*words, "bench.threads=1", "bench.runs=6"]
    answer = run("bench", *chosen)
    assert answer.code == 0, answer
    assert "onnxruntime" in answer.out and "bench.md" in answer.out
    return runs / "b" / "bench", chosen


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bench.json").read_text())


def test_every_runtime_times_both_detectors(benched: tuple[Path, list[str]]) -> None:
    rows = content(benched[0])["rows"]
    assert [(r["runtime"], r["stage"]) for r in rows] == [
        (n, stage) for n in RUNTIMES for stage in ("original", "slim")
    ]
    for r in rows:
        assert r["batch"] == 1
        assert r["threads"] == 1 and r["version"]
        assert 0 < r["latency_ms"]["p10"] <= r["latency_ms"]["median"] <= r["latency_ms"]["p90"]


def test_every_layer_is_timed_before_and_after(benched: tuple[Path, list[str]], original: Path) -> None:
    convs = trace(load(original), PX).convs
    assert list(content(benched[0])["layers"]) == LAYERED
    for runtime, layers in content(benched[0])["layers"].items():
        assert [layer["layer"] for layer in layers] == list(convs), runtime
        for key in ("before_ms", "after_ms"):
            assert all(layer[key] >= 0 for layer in layers) and sum(layer[key] for layer in layers) > 0, runtime
            # OpenVINO counts in microseconds: a layer of these may take none.
            assert runtime == "openvino" or all(layer[key] > 0 for layer in layers), runtime
        assert all(0 < layer["macs_after"] <= layer["macs_before"] for layer in layers)
        assert sum(layer["macs_after"] for layer in layers) < sum(layer["macs_before"] for layer in layers)


def test_what_openvino_executes_once_takes_nothing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that only the uncounted run names has no times left to take the median of."""
    runs = iter([{"conv": 9, "first": 5}, {"conv": 3}, {"conv": 1, "late": 4}, {"conv": 2}])

    class Request:
        def infer(self, _: list[object]) -> None:
            self.profiling_info = [
                SimpleNamespace(
                    node_name=name, status=SimpleNamespace(name="EXECUTED"), real_time=timedelta(milliseconds=ms)
                )
                for name, ms in next(runs).items()
            ]

    model = SimpleNamespace(create_infer_request=Request)
    monkeypatch.setattr("yolo_slim.deploy.profile.openvino_model", lambda *_, **__: model)
    assert in_openvino(Path("any.xml"), 1, np.zeros(1), 3) == {"conv": 2.0, "first": 0.0, "late": 0.0}


def test_it_is_not_done_twice(benched: tuple[Path, list[str]]) -> None:
    answer = run("bench", *benched[1])
    assert answer.code == 0 and "bench: done before" in answer.out


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        pytest.param([], 0, id="one that cannot is left out, and said"),
        pytest.param(["bench.runtimes=[torchscript,opencv]"], 2, id="unless it was asked for"),
    ],
)
def test_a_runtime_that_cannot_run_it(
    asked: list[str], code: int, benched: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: Path, threads: int) -> Callable[[object], None]:
        def run(images: object) -> None:
            raise ZeroDivisionError("no such operator")

        return run

    left = {name: replace(r, open=broken) if name == "opencv" else r for name, r in deploy.RUNTIMES.items()}
    monkeypatch.setattr("yolo_slim.deploy.runtimes.RUNTIMES", {n: left[n] for n in ("torchscript", "opencv")})
    folder = benched[0]
    before = contents(folder)
    answer = run("bench", *benched[1], *asked, "bench.runs=3")
    assert answer.code == code and "opencv, batch 1" in answer.out + answer.err and "no such" in answer.out + answer.err
    if code:
        refused(answer)
        assert contents(folder) == before, "what was measured before stays"
    else:
        assert {r["runtime"] for r in content(folder)["rows"]} == {"torch", "torchscript"}


@pytest.mark.parametrize("other", ["yolo_slim.measure.chip", "yolo_slim.deploy.version_of"])
def test_another_machine_or_version_makes_it_stale(
    other: str, benched: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*benched[1], "bench.runtimes=[torchscript]", "bench.runs=3"]
    assert run("bench", *words).code == 0
    assert "done before" in run("bench", *words).out
    monkeypatch.setattr(other, lambda *_: "another")
    answer = run("bench", *words)
    assert answer.code == 0 and "done before" not in answer.out


def test_left_out_of_run_it_says_how_to_ask_for_it(benched: tuple[Path, list[str]]) -> None:
    words = [word for word in benched[1] if not word.startswith("bench.")]
    refused(run("bench", *words, "bench=null"), "bench: null", "bench.runs=50")


@pytest.mark.parametrize("runtime", ["onnxruntime", "ncnn"])
def test_several_images_at_a_time(runtime: str, benched: tuple[Path, list[str]]) -> None:
    answer = run("bench", *benched[1], f"bench.runtimes=[{runtime}]", "bench.batches=[2]", "bench.runs=3")
    assert answer.code == 0, answer
    assert [(r["batch"], r["stage"]) for r in content(benched[0])["rows"]] == [(2, "original"), (2, "slim")]


def test_without_a_slim_detector_there_is_nothing_to_compare(original: Path, tmp_path: Path) -> None:
    refused(run("bench", f"model={original}", f"runs={tmp_path}"), "nothing slim", "yolo-slim prune")


def layer(name: str, macs: tuple[int, int], ms: tuple[float, float]) -> dict[str, Any]:
    return dict(zip(("layer", "macs_before", "macs_after", "before_ms", "after_ms"), (name, *macs, *ms), strict=True))


BENCH = {
    "name": "mine",
    "imgsz": 64,
    "runs": 6,
    "flops": {"original": 200, "slim": 100},
    "rows": [
        {
            "runtime": "openvino",
            "threads": 2,
            "batch": 1,
            "stage": stage,
            "version": "1.2",
            "device": "a chip",
            "latency_ms": {"p10": m, "median": m, "p90": m},
        }
        for stage, m in (("original", 10.0), ("slim", 8.0))
    ],
    "layers": {
        "openvino": [
            layer("model.0.conv", (100, 50), (4.0, 2.0)),  # as promised
            layer("model.1.conv", (100, 50), (4.0, 3.0)),  # 1 ms behind
            layer("model.2.conv", (100, 50), (2.0, 2.0)),  # 1 ms behind, after it
            layer("model.3.conv", (100, 50), (2.0, 0.5)),  # ahead
        ]
    },
}


def test_what_share_of_the_flops_cut_became_speed() -> None:
    assert bench_rows(BENCH) == [["openvino", "2", "1", "10.0 [10.0–10.0]", "8.00 [8.00–8.00]", "1.25×", "40%"]]


def test_a_busy_machine_is_owned_up_to() -> None:
    loud = copy.deepcopy(BENCH)
    loud["rows"][1]["latency_ms"] |= {"p10": 4.0, "p90": 8.1}
    assert bench_sentences(loud)[0].startswith("The machine was busy: in openvino the slowest tenth of the runs")
    assert bench_rows(loud)[0][-2:] == ["busy", "–"], "what is noise is compared with nothing"
    assert "model.1" not in bench_markdown(loud), "and of layers nothing is said"
    loud["rows"][1]["latency_ms"] |= {"p10": 4.1}
    assert bench_sentences(loud) == []


def test_layers_behind_their_flops_are_named_the_worst_first() -> None:
    page = bench_markdown(BENCH)
    late = page[page.index("## Layers behind their FLOPs") : page.index("## Layers in openvino")]
    assert [line for line in late.splitlines() if line.startswith("| `")] == [
        "| `model.1.conv` | openvino | ×0.50 | 4.00 | 2.00 | 3.00 |",
        "| `model.2.conv` | openvino | ×0.50 | 2.00 | 1.00 | 2.00 |",
    ]
    assert "| `model.1.conv` | ×0.50 | 4.00 | 2.00 | 3.00 |" in page and "a chip" in page


def test_factors_count_for_the_layer_they_stand_for() -> None:
    whole = ["model.1.conv", "model.2.cv1.conv", "model.2.m.0.cv1.conv", "model.9.cv2.0.2"]
    slim = {"model.1.0": 2, "model.1.1.conv": 3, "model.2.cv1.conv": 7, "model.2.m.0.cv1.0": 5, "model.9.cv2.0.2": 11}
    expected = {"model.1.conv": 5, "model.2.cv1.conv": 7, "model.2.m.0.cv1.conv": 5, "model.9.cv2.0.2": 11}
    assert gathered(slim, whole) == expected
