"""scripts/bench_peers.py: nothing is made twice, nothing stale is shown, and Torch-Pruning is used as it should be."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import script
from torch import nn
from training_helpers import PX, draw_shapes, saved, tiny

from yolo_slim import SlimError, checkpoint
from yolo_slim.channels import relative_difference
from yolo_slim.measure import cost

torch_pruned, bench = map(script, ("torch_pruned", "bench_peers"))


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., argparse.Namespace]:
    """The command line of a run in tmp_path."""
    (tmp_path / "model.pt").write_bytes(b"the model")

    def read(*words: str) -> argparse.Namespace:
        common = ["--model", str(tmp_path / "model.pt"), "--data", "cells.yaml", "--runs", str(tmp_path / "runs")]
        return bench.read_arguments([*common, *words])

    return read


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Parts are made at once, of invented figures; returns which were."""
    made = []

    def maker(name: str) -> Callable[[Any], dict]:
        def make(job: Any) -> dict[str, Any]:
            if name == "trained":
                bench.part(job, "cut")
            made.append((name, job.key))
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / "start.pt").touch()
            found = {"params": 1e6, "share": job.flops, "map50_95": 0.1 * (job.seed + 1), "epochs": job.args.epochs}
            return {**found, "bare": 0.05} if name == "cut" else found

        return make

    monkeypatch.setattr(bench, "MAKE", {name: maker(name) for name in bench.MAKE})
    return made


def test_the_first_seed_of_every_row_comes_first(arguments: Callable) -> None:
    order = [(j.seed, j.recipe) for j in bench.jobs(arguments("--recipes", "original,l1,random", "--seeds", "0", "1"))]
    assert order == [(0, "original"), (0, "l1"), (0, "random"), (1, "l1"), (1, "random")]


def test_the_table_grows_and_says_what_is_missing(arguments: Callable, makers: list) -> None:
    words = ("--recipes", "original,l1", "--seeds", "0", "1", "2")
    everything = arguments(*words)
    for job in bench.jobs(everything)[:3]:  # the original, and two seeds of l1
        bench.part(job, "trained")
    shown = bench.table(everything)
    assert "| L1 norms, global (`l1`) | 1.000 | 0.500 ± 0.000 | – | 0.050 ± 0.000 | 0.150 ± 0.071 |" in shown
    assert "| 20 | 0.150 ± 0.071 | 2 of 3 |" in shown
    assert shown.endswith("Still missing: l1 x0.5 (seed 2)")
    bench.make(everything)
    assert "Still missing" not in bench.table(everything)
    assert len(makers) == len(set(makers)) == 2 * 4


def test_a_budget_is_a_table_of_its_own_and_shows_what_is_kept(arguments: Callable, makers: list) -> None:
    args = arguments("--table", "cut", "--seeds", "1", "--recipes", "original,l1,longer,scratch_e,tp_bnscale_reg")
    bench.make(args)
    assert {name for name, _ in makers} == {"cut"}, "no training"
    shown = bench.table(args)
    assert shown.count("FLOPs ×0.75, cells") == shown.count("FLOPs ×0.5, cells") == 1
    assert shown.count("| 0.050 | 0.200 | 100% |") == 2 + 2
    assert "scratch" not in shown
    assert "tp_" not in shown


def test_a_finished_row_is_never_made_again(arguments: Callable, makers: list) -> None:
    bench.make(arguments("--recipes", "l1"))
    before = list(makers)
    bench.make(arguments("--recipes", "l1"))
    assert makers == before


def test_a_row_cut_short_in_training_keeps_its_cut(
    arguments: Callable, makers: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench.MAKE["trained"]

    def killed(job: Any) -> dict:
        bench.part(job, "cut")
        raise KeyboardInterrupt

    monkeypatch.setitem(bench.MAKE, "trained", killed)
    args = arguments("--recipes", "l1", "--seeds", "0")
    with pytest.raises(KeyboardInterrupt):
        bench.make(args)
    monkeypatch.setitem(bench.MAKE, "trained", real)
    bench.make(args)
    assert [name for name, _ in makers] == ["cut", "trained"]


@pytest.mark.parametrize(
    ("change", "remade"),
    [
        pytest.param(lambda b, a: setattr(a, "epochs", 3), ["trained"], id="epochs do not change the cut"),
        pytest.param(lambda b, a: Path(a.model).write_bytes(b"another"), ["cut", "trained"], id="the detector"),
        pytest.param(lambda b, a: setattr(a, "imgsz", 640), ["cut", "trained"], id="the size of images"),
        pytest.param(
            lambda b, a: b.RECIPES.update(l1=b.Recipe("L1", "slim", ("prune.criterion=l2",))),
            ["cut", "trained"],
            id="the recipe",
        ),
        pytest.param(
            lambda b, a: b.RECIPES.update(l1=b.Recipe("another title", "slim", b.RECIPES["l1"].words)), [], id="a title"
        ),
    ],
)
def test_rows_made_of_something_else_are_missing_and_remade(
    change: Callable, remade: list[str], arguments: Callable, makers: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "RECIPES", dict(bench.RECIPES))
    args = arguments("--recipes", "l1", "--seeds", "0")
    bench.make(args)
    makers.clear()
    bench.sum_of.cache_clear()
    change(bench, args)
    assert ("Still missing" in bench.table(args)) == bool(remade)
    bench.make(args)
    assert [name for name, _ in makers] == remade


def test_a_refused_recipe_stops_no_other(arguments: Callable, makers: list, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench.MAKE["trained"]

    def refuse(job: Any) -> dict:
        if job.recipe == "ours_landing":
            raise SlimError("no such mode")
        return real(job)

    monkeypatch.setitem(bench.MAKE, "trained", refuse)
    refused = bench.make(arguments("--recipes", "ours_landing,l1", "--seeds", "0"))
    assert refused == ["cells x0.5 seed 0 ours_landing: not available: no such mode"]
    assert makers[-1] == ("trained", "cells x0.5 seed 0 l1")


def test_a_kept_table_is_read_without_the_detector(arguments: Callable, makers: list, tmp_path: Path) -> None:
    args = arguments("--recipes", "l1", "--seeds", "0", "--print")
    bench.make(args)
    Path(args.model).unlink()
    bench.sum_of.cache_clear()
    assert "| 1 of 1 |" in bench.table(args) and "Still missing" not in bench.table(args)
    assert "Still missing" in bench.table(arguments("--recipes", "l1", "--seeds", "0", "--print", "--epochs", "3"))


def test_print_makes_nothing(arguments: Callable, makers: list, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    model = arguments().model
    words = ["--model", model, "--data", "cells.yaml", "--runs", str(tmp_path / "runs"), "--seeds", "0"]
    bench.main([*words, "--print", "--recipes", "l1,next_smaller"])
    said = capsys.readouterr().out
    assert "Still missing: l1 x0.5 (seed 0)" in said
    assert "For yolov5n there is none" in said
    assert not makers
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [("--recipes", "l1,l3"), ("--model", "gone.pt"), ("--smaller", "gone.pt")])
def test_a_slip_on_the_command_line_shows_at_once(words: tuple[str, str], arguments: Callable) -> None:
    with pytest.raises(SystemExit) as stop:
        arguments(*words)
    assert stop.value.code == 2


def test_rows_of_another_process_are_kept(arguments: Callable, makers: list) -> None:
    args = arguments("--recipes", "l1,random", "--seeds", "0")
    one, other = bench.jobs(args)
    bench.part(one, "trained")
    rows = json.loads(Path(args.rows).read_text())
    bench.part(other, "trained")
    assert json.loads(Path(args.rows).read_text()).items() >= rows.items()


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        pytest.param([0.5], [0.4], f"is {bench.OPEN} `l1` (+0.100); against `original` -0.100.", id="one seed each"),
        pytest.param([0.49, 0.51], [0.4], f"is {bench.OPEN} `l1` (+0.100);", id="one seed of theirs"),
        pytest.param([0.5], [0.5], f"is {bench.NOT_AHEAD} `l1` (+0.000); against", id="a draw is not ahead"),
        pytest.param([0.45, 0.55], [0.45, 0.45], f"is {bench.NOT_AHEAD} `l1` (+0.050)", id="within our spread"),
        pytest.param([0.45, 0.55], [0.45], f"is {bench.NOT_AHEAD} `l1` (+0.050)", id="within the only spread"),
        pytest.param([0.5, 0.5], [0.41, 0.55], f"is {bench.NOT_AHEAD} `l1` (+0.020)", id="within their spread"),
        pytest.param([0.49, 0.51], [0.44, 0.46], f"is {bench.AHEAD} `l1` (+0.050);", id="beyond both"),
    ],
)
def test_the_table_says_in_words_whether_ours_is_ahead(mine: list, theirs: list, said: str) -> None:
    results = {"original": [0.6], "ours": mine, "ours_landing": [0.9], "l1": theirs, "random": []}
    verdict = bench.verdict("ours", results)
    assert said in verdict
    assert "landing" not in verdict
    assert "random" not in verdict


@pytest.mark.parametrize(
    ("left", "best"),
    [
        pytest.param(lambda r: 1 - r, 0.5, id="smooth"),
        pytest.param(lambda r: round(8 * (1 - r)) / 8, 0.5, id="in steps, one at the target"),
        pytest.param(lambda r: round(7 * (1 - r)) / 7, 3 / 7, id="in steps, none at the target"),
        pytest.param(lambda r: 0.2 if r > 0.01 else 1.0, 0.2, id="a cliff"),
    ],
)
def test_the_budget_is_met_from_below_and_as_nearly_as_can_be(left: Callable, best: float) -> None:
    share = torch_pruned.within(lambda ratio: (left(ratio), left(ratio)), 0.5)
    assert share <= 0.5
    assert share == pytest.approx(best, abs=1e-3)


def test_a_ratio_that_breaks_the_detector_is_too_much() -> None:
    def cut(ratio: float) -> tuple[float, float]:
        if ratio > 0.6:
            raise RuntimeError("a layer without channels")
        return 1 - ratio, 1 - ratio

    assert torch_pruned.within(cut, 0.5) == pytest.approx(0.5, abs=1e-3)


def test_a_budget_out_of_reach_is_refused() -> None:
    with pytest.raises(SlimError, match=r"x0\.5"):
        torch_pruned.within(lambda ratio: (0.9, None), 0.5)


@pytest.mark.parametrize(
    ("epochs", "whole", "slim", "expected"),
    [
        pytest.param(100, 20, 8, 200, id="250, capped at twice as many"),
        pytest.param(90, 20, 12.8, 140, id="in between"),
        pytest.param(20, 1, 1, 20, id="nothing was cut"),
    ],
)
def test_scratch_b_costs_what_the_original_would(epochs: int, whole: float, slim: float, expected: int) -> None:
    assert bench.scratch_epochs(epochs, whole, slim) == expected


def test_from_scratch_nothing_is_left_of_the_weights_but_the_fixed_ones(tmp_path: Path) -> None:
    trained = tiny(tmp_path)
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    fresh = bench.reinitialised(copy.deepcopy(trained)).state_dict()
    same = {k for k, v in fresh.items() if torch.equal(v, before[k])}
    assert "model.13.dfl.conv.weight" in same
    assert not {k for k in same if k.endswith("conv.weight")} - {"model.13.dfl.conv.weight"}
    assert all(bool((v == 1).all()) for k, v in fresh.items() if k.endswith(("bn.weight", "running_var")))
    assert fresh["model.13.cv2.0.2.bias"].eq(2).all(), "as Ultralytics begins"


# ---------------------------------------------------------------------------------------------------------------------
# Torch-Pruning


KINDS = [("magnitude", "global"), ("bnscale", "global"), ("groupnorm_max", "global"), ("magnitude", "layer")]


@pytest.mark.parametrize(("kind", "scope"), KINDS)
def test_torch_pruning_cuts_correctly(kind: str, scope: str, tmp_path: Path) -> None:
    """Its cut detector is the original with the removed channels silenced, as ours is: a comparison of equals."""
    pytest.importorskip("torch_pruning")
    whole = tiny(tmp_path).eval()
    for norm in (m for m in whole.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.3)
        norm.running_mean.normal_(0, 0.3)
    narrow = copy.deepcopy(whole)
    torch_pruned.pruner(narrow, kind, scope, PX, 0.4).step()
    silenced, gone = copy.deepcopy(whole), 0
    norms = {n: m for n, m in silenced.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        gone += silence(norm, narrow.get_submodule(name))
    assert gone
    assert cost(narrow, PX).macs < cost(whole, PX).macs
    image = torch.rand(1, 3, PX, PX, dtype=torch.float64)
    assert relative_difference(silenced.double().eval(), narrow.double().eval(), image) < 1e-9
    assert len(narrow.float().train()(torch.zeros(2, 3, PX, PX))) == 3
    widths = [m.num_features % 8 for m in narrow.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(widths)


def silence(norm: nn.BatchNorm2d, kept: nn.BatchNorm2d) -> int:
    """Zero the channels of which nothing is left, known by their numbers in the norm; returns how many."""
    left = set(channels(kept))
    gone = torch.tensor([channel not in left for channel in channels(norm)])
    assert int((~gone).sum()) == kept.num_features
    norm.weight.data[gone] = 0
    norm.bias.data[gone] = 0
    return int(gone.sum())


def channels(norm: nn.BatchNorm2d) -> list[tuple[float, ...]]:
    """What the norm knows of each channel."""
    return list(zip(*(t.tolist() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)), strict=True))


def test_without_torch_pruning_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(SlimError, match="pip install torch-pruning"):
        torch_pruned.package()


@pytest.mark.parametrize(("recipe", "epochs"), [("scratch_b", 1), ("tp_bnscale_reg", 2)])
def test_a_row_for_real(recipe: str, epochs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if recipe.startswith("tp_"):
        pytest.importorskip("torch_pruning")
    data = draw_shapes(tmp_path / "data")
    model = saved(tiny(tmp_path), tmp_path / "model.pt")
    words = ["--model", str(model), "--data", data, "--imgsz", str(PX), "--runs", str(tmp_path / "runs")]
    words += ["--seeds", "0", "--epochs", str(epochs), "--flops", "0.8", "--recipes", recipe]
    bench.main(words)
    (job,) = bench.jobs(bench.read_arguments(words))
    row = bench.read_rows(job.args)[job.key]
    assert row["trained"]["epochs"] == epochs
    assert row["trained"]["split"] == "test"
    assert row["cut"]["share"] <= 0.8
    assert ("before" in row["cut"]) == (epochs == 2)
    assert "Still missing" not in capsys.readouterr().out
    assert checkpoint.is_slim(checkpoint.load(job.folder / "trained.pt"))
