"""The whole way, from an untrained YAML to the report: every stage's record, and what a change sets going again."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from training_helpers import (
    ARGUMENTS,
    CLASSES,
    PX,
    Killed,
    draw_shapes,
    killed_after,
    saved,
    tiny,
    watched,
    widths,
    wiring_of,
    write_yaml,
)
from ultralytics import YOLO

import yolo_slim
from yolo_slim import SlimError, SlimTrainer, checkpoint, record
from yolo_slim.channels import Plan, cut
from yolo_slim.cli import main
from yolo_slim.config import read_config
from yolo_slim.measure import NOT_MEASURED, cost
from yolo_slim.row import Row
from yolo_slim.stages.report import report_stage
from yolo_slim.training.folder import train_in

ROWS = ["original", "sparse", "pruned", "finetuned"]
STAGES = [*ROWS, "plan", "export", "bench", "report"]
MEASURED = {"params", "macs", "flops", "file_mb", "split", "images", "labels", "per_class", *NOT_MEASURED}
MEASURED |= {"replicates", "replicates_at_25"}
PRUNE = {"round_to": 4, "min_channels": 4}


def run(*words: object) -> tuple[int, str]:
    """The command line in this process: (exit code, what it says)."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([str(word) for word in words])
    return code, out.getvalue()


def times(folder: Path) -> dict[str, int]:
    """Every file with the time it was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


class Whole:
    """A finished run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs" / "whole"
        training = {"batch": 4, "nbs": 4, "optimizer": "SGD"}
        settings = {
            "name": "whole",
            "model": write_yaml(folder),
            "data": draw_shapes(folder),
            "imgsz": PX,
            "runs": str(folder / "runs"),
            "original": {"epochs": 1, "train": training},
            "sparse_train": {"mode": "uniform", "epochs": 2, "strength": 0.4, "train": training},
            "prune": {"ratio": 0.3, "recalibrate": 8, **PRUNE},
            "finetune": {"epochs": 1, "distill": {"teacher": "original"}, "train": training},
            "report": {"latency_runs": 2},
            "export": {"images": 2},
            "bench": {"runtimes": ["torch"], "runs": 3},
        }
        self.config = folder / "whole.yaml"
        self.config.write_text(yaml.safe_dump(settings))
        self.code, self.output = run("run", self.config)

    def record(self, stage: str) -> record.Record:
        """What a stage has written last."""
        found = record.read(self.folder / stage)
        assert found is not None, f"{stage} has no record, or its outputs are not as it says"
        return found

    def report(self) -> dict:
        """report.json."""
        return json.loads((self.folder / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Read only."""
    return Whole(tmp_path_factory.mktemp("whole"))


# ---------------------------------------------------------------------------------------------------------------------
# One run


def test_it_comes_to_the_end(whole):
    assert whole.code == 0, whole.output
    assert sorted(p.name for p in whole.folder.iterdir()) == sorted([*STAGES, "log.txt", "run.json"])
    assert not [p for p in whole.folder.rglob("*") if ".part" in p.name]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leaves_a_record(whole, stage):
    done = whole.record(stage)
    assert done.stage == stage and done.seconds > 0
    assert done.versions.keys() >= {"yolo-slim", "ultralytics", "torch", "python"}
    assert done.outputs.keys() == done.sums.keys() and done.outputs
    assert all((whole.folder / stage / path).is_file() for path in done.outputs.values())
    assert done.inputs and all(len(total) == 64 for total in done.inputs.values())


@pytest.mark.parametrize(
    ("stage", "inputs"),
    [
        ("original", []),  # trained from a YAML, which its settings name
        ("sparse", ["original"]),
        ("pruned", ["sparse"]),
        ("finetuned", ["pruned", "original"]),  # the second one teaches
        ("export", ["finetuned"]),
        ("bench", ["original", "finetuned"]),
        ("report", ROWS),
    ],
)
def test_every_stage_starts_from_the_one_before(whole, stage, inputs):
    """By content: what went in is what that stage has written."""
    written = [whole.record(name).sums["weights"] for name in inputs]
    used = {total for path, total in whole.record(stage).inputs.items() if path.endswith(".pt")}
    assert used == set(written)


@pytest.mark.parametrize(("stage", "rate"), [("original", 0.1), ("sparse", 0.0), ("finetuned", 0.0)])
def test_only_biases_of_an_untrained_detector_start_fast(whole, stage, rate):
    """Ultralytics' default for them undoes a trained detector in its first epoch."""
    arguments = yaml.safe_load((whole.folder / stage / "train" / "args.yaml").read_text())
    assert arguments["warmup_bias_lr"] == rate


@pytest.mark.parametrize("stage", ROWS)
def test_metrics_bear_the_names_of_the_report(whole, stage):
    metrics = whole.record(stage).metrics
    assert metrics.keys() == MEASURED
    assert metrics["flops"] == 2 * metrics["macs"] > 0 and metrics["split"] == "test"
    row = next(row for row in whole.report()["rows"] if row["stage"] == stage)
    assert {k: row[k] for k in MEASURED} == metrics, "measured again, the same"
    detector = checkpoint.load(whole.folder / stage / whole.record(stage).outputs["weights"])
    assert metrics["params"] == cost(detector, PX).params and metrics["macs"] == cost(detector, PX).macs


def test_rows_of_the_report(whole):
    rows = whole.report()["rows"]
    assert [row["stage"] for row in rows] == ROWS
    for row in rows:
        assert row.keys() >= {"stage", "weights", "latency_ms", *MEASURED}
        assert Path(row["weights"]).is_file()
        assert all(isinstance(row[k], int) for k in ("params", "macs", "flops"))
        assert all(isinstance(row[k], float) for k in ("file_mb", "map50", "map50_95"))
    bench = json.loads((whole.folder / "bench" / "bench.json").read_text())["rows"]
    timed = {"original": bench[0]["latency_ms"], "finetuned": bench[1]["latency_ms"]}
    assert {row["stage"]: row["latency_ms"] for row in rows if row["latency_ms"]} == timed, "one story of latency"
    params = [row["params"] for row in rows]
    assert params[0] == params[1] > params[2] == params[3]
    assert [row.get("train_epochs") for row in rows] == [1, 2, None, 1]


def test_the_report_says_what_it_was_measured_on(whole):
    report = whole.report()
    assert report["measured_on"].keys() >= {"device", "threads", "batch", "dtype", "imgsz", "runs", "runtime"}
    assert report["imgsz"] == PX and report["split"] == "test" and report["measured_on"]["runs"] == 3
    assert report["measured_on"]["runtime"].startswith("torch "), "as in the benchmark"
    assert [row["epoch"] for row in report["sparsity"]] == [1, 2]
    assert report["sparsity"][-1]["travel"] == pytest.approx(0.4)
    assert len(report["scales"]["before"]) == len(report["scales"]["after"]) > 100
    assert np.mean(report["scales"]["after"]) < np.mean(report["scales"]["before"]) - 0.2
    page = (whole.folder / "report" / "report.md").read_text()
    assert all(stage in page for stage in ROWS)


def test_the_report_names_every_width_and_why_it_stays(whole):
    pruned = checkpoint.load(whole.folder / "pruned" / "pruned.pt")
    found = {w["layer"]: w for w in whole.report()["widths"]}
    assert found.keys() == widths(pruned).keys()
    for name, (_, after) in widths(pruned).items():
        assert found[name]["after"] == after <= found[name]["before"]
    whole_because = {name for name, w in found.items() if w["reason"]}
    assert {"model.13.cv2.0.2", "model.13.cv3.1.2"} <= whole_because
    assert all(found[name]["after"] == found[name]["before"] for name in whole_because)


def test_the_cut_replays_on_the_sparse_weights(whole):
    sparse = checkpoint.load(whole.folder / "sparse" / "sparse.pt")
    kept = json.loads((whole.folder / "plan" / "plan.json").read_text())["outputs"]
    wiring = wiring_of(sparse)
    replayed = cut(sparse, wiring, Plan(kept).kept(wiring))
    assert widths(replayed) == widths(checkpoint.load(whole.folder / "pruned" / "pruned.pt")) != widths(sparse)
    assert {name: len(outputs) for name, outputs in kept.items() if name in widths(replayed)} == {
        name: widths(replayed)[name][1] for name in kept
    }


def test_the_slim_detector_is_the_pruned_one_trained_on(whole):
    pruned, slim = (checkpoint.load(whole.folder / p) for p in ("pruned/pruned.pt", "finetuned/slim.pt"))
    assert widths(slim) == widths(pruned)
    assert any(not torch.equal(a, b) for a, b in zip(slim.parameters(), pruned.parameters(), strict=True))
    assert whole.record("finetuned").details["teacher"].endswith("original.pt")
    stock = YOLO(whole.folder / "finetuned" / "slim.pt")
    assert len(stock.predict(torch.rand(1, 3, PX, PX), imgsz=PX, verbose=False)) == 1


def test_the_report_says_how_everything_was_made(whole):
    steps = {step["stage"]: step for step in whole.report()["lineage"]}
    assert list(steps) == ROWS
    for before, stage in pairwise(ROWS):
        assert steps[stage]["made_from"][0].startswith(f"{before}/"), "each from the one before it"
        assert steps[stage]["sha256"] == whole.record(stage).sums["weights"]
    trained = [steps[stage]["training"] for stage in ROWS]
    assert [of.get("epochs") for of in trained] == [1, 2, None, 1]
    assert trained[3]["optimizer"] != "auto", "what has become of it"
    page = (whole.folder / "report" / "report.html").read_text()
    assert all(str(steps[stage]["file"]) in page and steps[stage]["sha256"][:12] in page for stage in ROWS)


def test_report_json_says_what_its_page_says(whole):
    report, text = whole.report(), (whole.folder / "report" / "report.md").read_text()
    assert f"\n{report['verdict']}\n" in text and report["advice"] and f"- {report['advice'][0]}" in text
    first, last = report["rows"][0], report["rows"][-1]
    assert report["changes"]["f1_at_25"]["difference"] == last["f1_at_25"] - first["f1_at_25"]


def test_rows_of_the_report_are_as_they_are_described(whole):
    """By `Row`, and by the table of docs/report.md, which names every key."""
    text = (Path(__file__).parents[1] / "docs" / "report.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", text.partition("<!-- keys of a row -->")[2].partition("<!-- /keys -->")[0]))
    found = {key for row in whole.report()["rows"] for key in row}
    assert found <= Row.__annotations__.keys() <= told
    assert found >= Row.__annotations__.keys()


def test_the_sparse_weights_are_the_live_ones(whole):
    """Stored in fp16 like every checkpoint, but not the average."""
    last = checkpoint.read(whole.folder / "sparse" / "train" / "weights" / "last.pt")
    sparse = checkpoint.load(whole.folder / "sparse" / "sparse.pt").state_dict()
    average = last["ema"].state_dict()
    assert sparse.keys() == last["live"].keys() == average.keys()
    assert all(torch.equal(v, last["live"][k].half().to(v.dtype)) for k, v in sparse.items() if v.is_floating_point())
    assert any(not torch.equal(v, average[k].to(v.dtype)) for k, v in sparse.items())


def test_the_export_agrees(whole):
    metrics = whole.record("export").metrics
    (file,) = metrics["files"]
    assert file["difference"] <= file["tolerance"] and file["images"] == 2
    assert whole.report()["export"] == metrics


def test_the_command_says_what_it_came_to(whole):
    for stage in ROWS:
        assert f"{stage}: " in whole.output
    assert "asked for channels x0.7" in whole.output and "masked and cut detector differ by" in whole.output


# ---------------------------------------------------------------------------------------------------------------------
# The same again, and something else


@pytest.fixture(scope="module")
def again(whole):
    """The same command a second time: (its output, files before, files after)."""
    before = times(whole.folder)
    code, output = run("run", whole.config)
    assert code == 0
    return output, before, times(whole.folder)


def test_a_second_run_does_nothing_and_says_so(again):
    output, before, after = again
    assert after == before
    for stage in STAGES:
        assert f"{stage}: done before, nothing has changed" in output


@pytest.fixture(scope="module")
def other(whole, again):
    """The same with another prune.ratio: (its output, files before, files after). Changes the run folder for good."""
    before = times(whole.folder)
    code, output = run("run", whole.config, "prune.ratio=0.5")
    assert code == 0, output
    return output, before, times(whole.folder)


def test_another_ratio_redoes_the_cut_and_what_follows_from_it(whole, other):
    output, before, after = other
    changed = {path.split("/")[0] for path in after if after[path] != before.get(path)}
    assert changed == {"plan", "pruned", "finetuned", "export", "bench", "report", "log.txt"}
    for stage in ("original", "sparse"):
        assert f"{stage}: done before, nothing has changed" in output
    assert "asked for channels x0.5" in output
    assert whole.record("pruned").settings["ratio"] == 0.5


def test_what_follows_is_made_from_the_new_cut(whole, other):
    """Fine-tuning that was complete for another cut is not taken for this one's."""
    assert "training was complete" not in other[0]
    pruned, slim = (checkpoint.load(whole.folder / p) for p in ("pruned/pruned.pt", "finetuned/slim.pt"))
    assert widths(slim) == widths(pruned)
    rows = {row["stage"]: row for row in whole.report()["rows"]}
    assert rows["finetuned"]["params"] == rows["pruned"]["params"] == cost(slim, PX).params < rows["sparse"]["params"]


def test_no_row_is_validated_twice(whole, other, monkeypatch):
    """What a stage has measured of its weights, by the same validator on the same split, is the report's."""
    monkeypatch.setattr("yolo_slim.runs.rows.accuracy", lambda *_: pytest.fail("validated again"))
    rows = report_stage(read_config(whole.config, ["prune.ratio=0.5", "report.latency_runs=2"])).metrics["rows"]
    assert [row["map50_95"] for row in rows] == [whole.record(stage).metrics["map50_95"] for stage in ROWS]


def test_the_stages_are_functions_of_a_config(whole, other):
    """From Python, with the same settings as a checked Config: the report finds everything as the command left it."""
    config = read_config(whole.config, ["prune.ratio=0.5"])
    assert report_stage(config).metrics["rows"] == whole.report()["rows"]


# ---------------------------------------------------------------------------------------------------------------------
# Going on with a training, or beginning it anew


class Training:
    """`train_in` for two epochs from an untrained YAML, and the epochs that were trained, over all calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.data = folder / "stage", write_yaml(folder), draw_shapes(folder)
        self.epochs: list[int] = []

    def __call__(self, trainer: type = SlimTrainer, seed: int = 0, **settings: object) -> str:
        """What it says."""
        arguments = {**ARGUMENTS, "data": self.data, "epochs": 2, "seed": seed, "val": False}
        del arguments["plots"]
        counting = watched(trainer, lambda t: self.epochs.append(t.epoch + 1), "on_train_epoch_start")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            weights = train_in(
                self.folder, counting, self.model, settings=settings, inputs=[], extra={}, arguments=arguments
            )
        assert checkpoint.read(weights / "last.pt")["epoch"] == 1
        checkpoint.load(weights / "best.pt")
        return out.getvalue()


def test_a_training_killed_at_its_very_end_is_not_trained_again(tmp_path):
    """After the checkpoint of the last epoch, before best.pt is stripped and the stage's record written."""
    training = Training(tmp_path)
    with pytest.raises(Killed):
        training(killed_after(SlimTrainer, 2))
    assert "training was complete" in training()
    assert training.epochs == [1, 2]


@pytest.mark.parametrize(("change", "epochs"), [({}, [1, 2]), ({"seed": 1}, [1, 1, 2]), ({"strength": 0.2}, [1, 1, 2])])
def test_a_killed_training_goes_on_only_as_it_was_begun(tmp_path, change, epochs):
    training = Training(tmp_path)
    with pytest.raises(Killed):
        training(killed_after(SlimTrainer, 1), strength=0.1)
    output = training(**{"strength": 0.1, **change})
    assert training.epochs == epochs
    assert ("going on after epoch 1 of 2" in output) == (not change)


def test_a_data_set_that_was_changed_is_trained_on_anew(tmp_path):
    """The YAML at the same path names other images now: what was trained on the old ones is not taken for the new."""
    training = Training(tmp_path)
    training()
    described = yaml.safe_load(Path(training.data).read_text())
    Path(training.data).write_text(yaml.safe_dump({**described, "train": described["val"]}))
    training()
    assert training.epochs == [1, 2, 1, 2]


# ---------------------------------------------------------------------------------------------------------------------
# Prune alone, without data


def prune_words(folder: Path, *words: str) -> tuple[object, ...]:
    """`prune` on folder/model.pt."""
    here = ("prune", f"model={folder / 'model.pt'}", f"runs={folder / 'runs'}", "name=alone", f"imgsz={PX}")
    return (*here, *(f"prune.{k}={v}" for k, v in PRUNE.items()), *words)


def test_prune_works_without_data_and_says_so(tmp_path):
    saved(tiny(tmp_path), tmp_path / "model.pt")
    code, output = run(*prune_words(tmp_path, "prune.target.flops=0.6"))
    assert code == 0, output
    assert "no data" in output and "not recalibrated" in output
    done = record.read(tmp_path / "runs" / "alone" / "pruned")
    assert done.metrics["map50"] is None and done.metrics["map50_95"] is None
    before = record.read(tmp_path / "runs" / "alone" / "original").metrics
    assert 0.5 < done.metrics["flops"] / before["flops"] <= 0.6
    assert done.details["achieved"]["flops"] == pytest.approx(done.metrics["flops"] / before["flops"])
    assert done.details["looser"]["flops"] > 0.6, "one channel fewer removed misses the target"
    slim = checkpoint.load(tmp_path / "runs" / "alone" / "pruned" / "pruned.pt")
    assert all(v.isfinite().all() for v in slim.state_dict().values())


def test_another_detector_in_the_same_file_is_another_input(tmp_path):
    model = saved(tiny(tmp_path), tmp_path / "model.pt")
    words = prune_words(tmp_path, "prune.ratio=0.3", "prune.criterion=l1")
    assert run(*words)[0] == 0
    first = checkpoint.load(tmp_path / "runs" / "alone" / "pruned" / "pruned.pt").state_dict()
    os.utime(model)  # touched, not changed
    assert "pruned: done before" in run(*words)[1]
    saved(tiny(tmp_path, seed=1), model)
    code, output = run(*words)
    assert code == 2 and "another experiment" in output, "what the first one came to is not replaced unasked"
    code, output = run(*words, "overwrite=true")
    assert code == 0 and "done before" not in output
    second = checkpoint.load(tmp_path / "runs" / "alone" / "pruned" / "pruned.pt").state_dict()
    assert any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True)
    )


def test_a_cut_that_cannot_be_made_writes_nothing(tmp_path):
    saved(tiny(tmp_path), tmp_path / "model.pt")
    code, output = run(*prune_words(tmp_path, "prune.target.flops=0.01"))
    assert code == 2 and "the target cannot be met" in output and "Traceback" not in output
    assert not list((tmp_path / "runs" / "alone" / "pruned").glob("*"))


# ---------------------------------------------------------------------------------------------------------------------
# The Python interface


def varied(folder: Path) -> nn.Module:
    """A detector whose scales differ, so that there is something to choose."""
    detector = tiny(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in (m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.1, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
    return detector


def test_prune_leaves_its_input_alone(tmp_path):
    detector = varied(tmp_path)
    state, described = copy.deepcopy(detector.state_dict()), copy.deepcopy(detector.yaml)
    trained = [p.requires_grad for p in detector.parameters()]
    calibration = [torch.rand(4, 3, PX, PX)]
    pruned = yolo_slim.prune(detector, imgsz=PX, ratio=0.4, calibration=calibration, **PRUNE)
    assert pruned.model is not detector
    assert detector.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in detector.state_dict().items())
    assert detector.yaml == described and not detector.training
    assert [p.requires_grad for p in detector.parameters()] == trained
    assert all(p.grad is None for p in detector.parameters())


def test_prune_tells_what_it_kept_and_what_that_costs(tmp_path):
    detector = varied(tmp_path)
    pruned = yolo_slim.prune(detector, imgsz=PX, target={"flops": 0.6}, **PRUNE)
    before, after = widths(detector), widths(pruned.model)
    assert pruned.kept.keys() <= before.keys()
    for name, (_, outputs) in after.items():
        kept = pruned.kept.get(name, range(before[name][1]))
        assert len(kept) == outputs and list(kept) == sorted(set(kept)) and max(kept) < before[name][1]
    assert pruned.cost.asked == {"flops": 0.6}
    for found, model in ((pruned.cost.before, detector), (pruned.cost.after, pruned.model)):
        assert (found.params, found.macs) == (cost(model, PX).params, cost(model, PX).macs)
        assert found.flops == 2 * found.macs
    assert pruned.cost.achieved["flops"] == pytest.approx(pruned.cost.after.flops / pruned.cost.before.flops)
    assert pruned.cost.achieved["flops"] <= 0.6
    assert pruned.difference < 1e-5


def test_kept_channels_are_those_with_the_larger_scales(tmp_path):
    detector = varied(tmp_path)
    chosen = {"criterion": "bn_scale", "round_to": 1, "min_channels": 1, "min_keep": 0}
    pruned = yolo_slim.prune(detector, imgsz=PX, ratio=0.4, **chosen)
    scale = detector.get_submodule("model.0.bn").weight.detach()
    kept = pruned.kept["model.0.conv"]
    gone = sorted(set(range(len(scale))) - set(kept))
    assert kept and gone and scale[kept].min() > scale[gone].max()


def test_a_slim_detector_can_be_cut_again(tmp_path):
    first = yolo_slim.prune(varied(tmp_path), imgsz=PX, ratio=0.3, **PRUNE)
    stored = checkpoint.load(checkpoint.save(first.model, tmp_path / "first.pt"))
    second = yolo_slim.prune(stored, imgsz=PX, ratio=0.3, **PRUNE)
    assert second.cost.before.params == first.cost.after.params > second.cost.after.params
    narrower = [n for n, w in widths(second.model).items() if w != widths(first.model)[n]]
    assert len(narrower) > 10
    again = checkpoint.load(checkpoint.save(second.model, tmp_path / "second.pt"))
    assert widths(again) == widths(second.model) and checkpoint.is_slim(again)
    assert len(again.yaml["slim"]["cuts"]) == 2, "each cut in order, beside the full description"
    assert again.yaml["slim"]["full"]["backbone"] == tiny(tmp_path).yaml["backbone"]
    assert len(YOLO(tmp_path / "second.pt").predict(torch.rand(1, 3, PX, PX), imgsz=PX, verbose=False)) == 1


def test_wrong_settings_are_slim_errors(tmp_path):
    detector = varied(tmp_path)
    for wrong in ({}, {"ratio": 1.5}, {"ratio": 0.3, "target": {"flops": 0.5}}):
        with pytest.raises(SlimError):
            yolo_slim.prune(detector, imgsz=PX, **wrong)


# ---------------------------------------------------------------------------------------------------------------------
# Inspect


def test_inspect_shows_every_convolution_and_why_a_width_must_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # wide enough that nothing is folded
    detector = tiny(tmp_path)
    saved(detector, tmp_path / "model.pt")
    code, output = run("inspect", f"model={tmp_path / 'model.pt'}", f"imgsz={PX}")
    assert code == 0
    lines = output.splitlines()
    wiring = wiring_of(detector)
    protected = {name: g.reason for g in wiring.groups if g.reason for name in g.producers}
    assert len(protected) == 5  # two levels of Detect, boxes and classes, and its distribution's convolution
    for conv in wiring.convs.values():
        short = conv.name.removeprefix("model.").removesuffix(".conv")
        row = next(line for line in lines if line.replace("│", " ").split()[:1] == [short])
        assert str(len(conv.outputs)) in row
        if conv.name in protected:
            assert protected[conv.name] in row
    tied = next(line for line in lines if line.replace("│", " ").split()[:1] == ["3.cv1"])
    assert "3.m.0.cv2" in tied and "3.m.1.cv2" in tied
    free = sum(g.size for g in wiring.free)
    assert f"{len(wiring.convs)} convolutions in {len(wiring.groups)} groups" in output
    assert f"{len(wiring.free)} groups with {free} channels may be cut" in output
    assert not (tmp_path / "runs").exists(), "it only looks"


def test_inspect_reads_a_yaml_too(tmp_path):
    code, output = run("inspect", f"model={write_yaml(tmp_path)}", f"imgsz={PX}")
    assert code == 0 and "convolutions in" in output and str(CLASSES) in output
