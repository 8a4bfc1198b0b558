"""scripts/bench_latency.py, by a clock that is made up: it prints its tables, and owns up to what is beyond a bound."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import PX, script
from torch import nn

from yolo_slim.channels import LayerTable, trace
from yolo_slim.measure import cost
from yolo_slim.timing.beside import Comparison

pytest_plugins = ["tiny"]

bench = script("bench_latency")


def as_flops(detector: nn.Module, *_: object, **__: object) -> tuple[LayerTable, float]:
    """A table by which time is FLOPs."""
    convs = trace(detector, PX).convs
    sizes = {name: np.prod([len(c.inputs), len(c.outputs)]) for name, c in convs.items()}
    layers = {name: (0.0, 0.0, 0.0, c.macs / sizes[name], 0.0, 0.0, 0.0) for name, c in convs.items()}
    return LayerTable(1, 1, layers, (0.0, 0.0, 0.0)), 1.0


@pytest.mark.parametrize(("slower", "code"), [(1.0, 0), (1.3, 1)])
def test_what_is_beyond_its_bound_is_the_exit_code(
    slower: float, code: int, original, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = cost(bench.checkpoint.load(original), PX).macs
    monkeypatch.setattr(bench, "measured_table", as_flops)
    found = lambda slim: Comparison((1.0, 0.1), slower * cost(slim, PX).macs / whole)  # noqa: E731
    monkeypatch.setattr(bench.Comparator, "now", lambda by, slim: by.machine.seen.append((1.0, 0.1)) or found(slim))
    words = ["--model", str(original), "--imgsz", str(PX), "--runtimes", "torch", "--threads", "1", "--cuts", "2"]
    assert bench.main([*words, "--latency", "0.7", "--flops", "0.7"]) == code
    shown = capsys.readouterr().out
    assert "random cut" in shown and "| latency ×0.7 | 1 |" in shown and "Largest error" in shown
    assert ("MISSED: a prediction is 2" in shown) == bool(code) == ("All within" not in shown)


def test_a_runtime_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--runtimes", "ncnn"])
    assert "onnxruntime" in capsys.readouterr().err
