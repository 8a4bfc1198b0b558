"""Pruning in rounds: it comes to what one cut comes to, each round has its record, and it stops where it is told to."""

from __future__ import annotations

import contextlib
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_kill import EPOCHS, Command
from torch import nn
from training_helpers import PX, draw_shapes, saved, tiny, widths, wiring_of

import yolo_slim
from yolo_slim import SlimError, checkpoint, record
from yolo_slim.channels import SCHEDULES, Plan, Start, cut, replay
from yolo_slim.cli import main
from yolo_slim.config import Prune, read_config
from yolo_slim.importance import Evidence
from yolo_slim.measure import NOT_MEASURED, cost
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.record import Record
from yolo_slim.stages.rounds import _asked, prune_in_rounds

FLOORS = {"round_to": 4, "min_channels": 4}
WEIGHTS = {"criterion": "l1", "reconstruct": "none", "recalibrate": 8}
"""Scored and recovered quickly: what is looked at here is the order of things."""


def varied(folder: Path) -> nn.Module:
    """A detector whose scales and shifts differ, so that there is something to choose and to prove."""
    detector = tiny(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in (m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.1, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
    return detector


# ---------------------------------------------------------------------------------------------------------------------
# Schedules and composition


@pytest.mark.parametrize(
    ("schedule", "keep", "kept"),
    [
        pytest.param("exponential", 0.25, [0.5, 0.25], id="a half twice is a quarter"),
        pytest.param("exponential", 0.064, [0.4, 0.16, 0.064], id="the same share each time"),
        pytest.param("linear", 0.25, [0.625, 0.25], id="as much each time"),
        pytest.param("linear", 0.2, [0.8, 0.6, 0.4, 0.2], id="a fifth each time"),
        pytest.param("cubic", 0.2, [1 - 0.4625, 0.3, 1 - 0.7875, 0.2], id="AGP: removed .4625 .7 .7875 .8"),
        pytest.param("exponential", 0.5, [0.5], id="one round is all of it"),
        pytest.param("exponential", 0.0, [0.0, 0.0], id="nothing left of a layer, from the start"),
    ],
)
def test_oracles(schedule: str, keep: float, kept: list[float]) -> None:
    assert [SCHEDULES[schedule](keep, k / len(kept)) for k in range(1, len(kept) + 1)] == pytest.approx(kept)


@given(keep=st.floats(0, 1), rounds=st.integers(1, 12), schedule=st.sampled_from(sorted(SCHEDULES)))
def test_a_schedule_falls_to_what_was_asked(keep: float, rounds: int, schedule: str) -> None:
    kept = [SCHEDULES[schedule](keep, k / rounds) for k in range(1, rounds + 1)]
    assert kept[-1] == keep
    assert all(a >= b - 1e-12 for a, b in pairwise([1.0, *kept]))


def test_every_schedule_may_be_asked_for() -> None:
    for schedule in SCHEDULES:
        assert Prune.model_validate({"iterations": {"schedule": schedule}}).iterations.schedule == schedule


@given(st.lists(st.sets(st.integers(0, 29)), max_size=4), st.integers(1, 30))
def test_composed_is_one_cut_after_the_other(choices: list[set[int]], width: int) -> None:
    channels, cuts = np.arange(width), []
    for chosen in choices:
        stay = sorted(i for i in chosen if i < len(channels))
        cuts.append({"a": stay})
        channels = channels[stay]
    whole = Plan.composed(cuts).outputs
    assert whole.get("a", list(range(width))) == channels.tolist()


def test_composed_keeps_what_no_cut_names() -> None:
    assert Plan.composed([{"a": [0, 2, 4, 5]}, {"a": [1, 3], "b": [0]}, {"b": [0]}]).outputs == {"a": [2, 5], "b": [0]}


# ---------------------------------------------------------------------------------------------------------------------
# Rounds without training come to what one cut comes to: every setting refers to the detector before the first


def in_rounds(detector: nn.Module, chosen: Prune) -> tuple[nn.Module, list[dict], list[dict], list[dict]]:
    """Cut in rounds, with nothing between them: the detector; of each round its cut, shares asked and achieved."""
    start, cuts, asked, achieved = wiring_of(detector), [], [], []
    for k in range(1, chosen.iterations.rounds + 1):
        wanted, settings = _asked(chosen, k / chosen.iterations.rounds, achieved[-1] if achieved else {})
        pruned = cut_to_plan(detector, settings, PX, Evidence(), start=Start(start, Plan.composed(cuts)))
        detector = pruned.model
        now = {name: len(kept) for name, kept in pruned.kept.items()}
        cuts.append({n: pruned.kept[n] for n, c in pruned.trace.convs.items() if now[n] < len(c.outputs)})
        asked.append(wanted)
        achieved.append(pruned.cost.achieved)
    return detector, cuts, asked, achieved


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        pytest.param({"ratio": 0.4, "round_to": 1, "min_channels": 1}, "linear", id="ratio, to the channel"),
        pytest.param({"target": {"flops": 0.5}, **FLOORS}, "exponential", id="FLOPs, widths rounded"),
        pytest.param({"target": {"flops": 0.6, "params": 0.5}, **FLOORS}, "cubic", id="two budgets"),
        pytest.param({"target": {"flops": 0.6}, "min_keep": 0.6, **FLOORS}, "linear", id="floors are shares of uncut"),
        pytest.param({"ratio": 0.5, "scope": "layer", **FLOORS}, "exponential", id="the same share of every group"),
        pytest.param({"layers": {"model.3.*": 0.5, "model.1": 1.0}, "ratio": 0.2, **FLOORS}, "cubic", id="by layer"),
        pytest.param({"layers": {"model.4": 0.5}, **FLOORS}, "linear", id="a layer alone, no budget"),
        pytest.param({"target": {"params": 0.7}, "exclude": ["model.0"], **FLOORS}, "cubic", id="a layer left out"),
    ],
)
def test_many_rounds_come_to_what_one_comes_to(tmp_path, settings, schedule):
    """The scores stay as they are here, so the channels kept must be the very same."""
    detector = varied(tmp_path)
    once = cut_to_plan(detector, Prune(criterion="bn_scale", **settings), PX, Evidence())
    chosen = Prune(criterion="bn_scale", **settings, iterations={"rounds": 3, "schedule": schedule})
    final, cuts, asked, achieved = in_rounds(detector, chosen)
    assert widths(final) == widths(once.model) != widths(detector)
    whole = Plan.composed(cuts).outputs
    assert {name: whole.get(name, kept) for name, kept in once.kept.items()} == once.kept
    assert achieved[-1] == pytest.approx(once.cost.achieved)
    for wanted, got in zip(asked, achieved, strict=True):
        assert all(got[key] <= share for key, share in wanted.items() if key in ("flops", "params"))


@pytest.mark.parametrize(("name", "whole", "final"), [("size_mb", 8.0, 2.0), ("latency_ms", 40.0, 10.0)])
def test_what_is_asked_in_a_unit_falls_from_what_there_was(name: str, whole: float, final: float) -> None:
    chosen = Prune(target={name: final}, iterations={"rounds": 2})
    asked = [_asked(chosen, done, {}, {name: whole}) for done in (0.5, 1.0)]
    assert [a[name] for a, _ in asked] == pytest.approx([whole / 2, final])
    assert [getattr(settings.target, name) for _, settings in asked] == pytest.approx([whole / 2, final])


def test_another_runtime_makes_other_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time is asked for; without that it decides nothing."""
    monkeypatch.setattr("yolo_slim.stages.rounds.run_stage", lambda config, stage, settings, *_: settings)
    words = ["model=x.pt", "data=x.yaml", "prune.iterations.rounds=2"]

    def settings(*more: str) -> dict:
        return prune_in_rounds(read_config(None, [*words, *more]), tmp_path / "x.pt")

    timed = [settings("prune.target.latency=0.5", f"latency.runtime={name}") for name in ("torch", "openvino")]
    counted = [settings("prune.target.flops=0.5", f"latency.runtime={name}") for name in ("torch", "openvino")]
    assert timed[0] != timed[1] and counted[0] == counted[1]


def test_shares_are_those_of_the_uncut_detector(tmp_path):
    """Round by round, against thop on the detectors themselves; what one has cut, the next does not bring back."""
    detector = varied(tmp_path)
    chosen = Prune(criterion="bn_scale", target={"flops": 0.4}, **FLOORS, iterations={"rounds": 3})
    before, last = cost(detector, PX), widths(detector)
    start, cuts = wiring_of(detector), []
    for k in range(1, 4):
        _, settings = _asked(chosen, k / 3, {})
        pruned = cut_to_plan(detector, settings, PX, Evidence(), start=Start(start, Plan.composed(cuts)))
        detector, cuts = pruned.model, detector_cuts(pruned.model)
        assert pruned.cost.before.macs == before.macs and pruned.cost.after.macs == cost(detector, PX).macs
        assert pruned.cost.achieved["flops"] == pytest.approx(cost(detector, PX).macs / before.macs)
        assert pruned.cost.achieved["flops"] <= 0.4 ** (k / 3)
        assert all(now <= then for name in last for now, then in zip(widths(detector)[name], last[name], strict=True))
        last = widths(detector)


def detector_cuts(detector: nn.Module) -> list[dict[str, list[int]]]:
    """Every cut in order, as the detector itself keeps them."""
    return detector.yaml["slim"]["cuts"] if checkpoint.is_slim(detector) else []


def test_a_round_that_has_nothing_to_do_cuts_nothing(tmp_path):
    """Coarse steps overshoot, and the next round finds its share already reached."""
    detector = varied(tmp_path)
    settings = {"target": {"flops": 0.8}, "round_to": 16}
    final, cuts, asked, achieved = in_rounds(
        detector, Prune(criterion="bn_scale", **settings, iterations={"rounds": 6})
    )
    idle = [k for k, made in enumerate(cuts) if not made]
    assert idle and all(achieved[k] == achieved[k - 1] for k in idle if k)
    assert all(got["flops"] <= wanted["flops"] for wanted, got in zip(asked, achieved, strict=True))
    assert widths(final) == widths(cut_to_plan(detector, Prune(criterion="bn_scale", **settings), PX, Evidence()).model)


def test_scores_are_read_from_the_detector_as_it_is_by_now(tmp_path):
    """A channel that mattered little at the start and much after fine-tuning stays."""
    detector = varied(tmp_path)
    chosen = Prune(criterion="bn_scale", ratio=0.5, round_to=1, min_channels=1, min_keep=0)
    start = wiring_of(detector)
    less = chosen.model_copy(update={"ratio": 0.25})
    first = cut_to_plan(detector, less, PX, Evidence(), start=Start(start, Plan({})))
    with torch.no_grad():  # the order of those that are left turns round
        for norm in (m for m in first.model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.copy_(2 - norm.weight)
    left = Plan.composed(detector_cuts(first.model))
    second = cut_to_plan(first.model, chosen, PX, Evidence(), start=Start(start, left))
    scale = first.model.get_submodule("model.0.bn").weight.detach()
    gone = sorted(set(range(len(scale))) - set(second.kept["model.0.conv"]))
    assert gone and scale[second.kept["model.0.conv"]].min() > scale[gone].max()
    assert second.cost.achieved["channels"] == pytest.approx(0.5, abs=0.01)


# ---------------------------------------------------------------------------------------------------------------------
# The stage, on a small data set

MAPS = {"original": 0.80, "1/cut": 0.30, "1/finetuned": 0.78, "2/cut": 0.20, "2/finetuned": 0.70, "3/cut": 0.10}
"""What the validator is made to say, by the end of the folder's name."""


CAME_FROM: dict[int, Path] = {}
"""id of a detector -> the file that it was read from, the last that had this id."""


def accuracy(detector: nn.Module, data: str, imgsz: int, split: str, device: str) -> dict[str, Any]:
    """Stands for validation, whose word is all the stop rule hears."""
    value = next((v for name, v in MAPS.items() if str(CAME_FROM[id(detector)].parent).endswith(name)), 0.4)
    seen = {"images": 4, "labelled_images": 4, "labels": 9, "blind_images": 0, "per_class": [], "replicates": []}
    unsure = {"map50_95_low": None, "map50_95_high": None}
    return {
        **dict.fromkeys(NOT_MEASURED, 0.5),
        **seen,
        **unsure,
        "map50": value,
        "map50_95": value if split == "val" else value / 2,
    }


class InRounds:
    """`yolo-slim STAGE` with three rounds of an epoch each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs" / "rounds"
        settings = {
            "name": "rounds",
            "model": str(saved(varied(folder), folder / "model.pt")),
            "data": draw_shapes(folder),
            "imgsz": PX,
            "runs": str(folder / "runs"),
            "seed": 3,
            "sparse_train": {"epochs": 0},
            "prune": {"target": {"flops": 0.5}, "iterations": {"rounds": 3, "epochs": 1}, **FLOORS, **WEIGHTS},
            "finetune": {"epochs": 1, "train": {"batch": 4, "nbs": 4, "optimizer": "SGD"}},
            "report": {"latency_runs": 1},
        }
        self.config = folder / "rounds.yaml"
        self.config.write_text(yaml.safe_dump(settings))

    def __call__(self, stage: str, *words: str) -> tuple[int, str]:
        """(exit code, what it says)."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main([stage, str(self.config), *words])
        return code, out.getvalue()

    def record(self, stage: str) -> Record:
        """What a stage has written."""
        found = record.read(self.folder / stage)
        assert found is not None, stage
        return found

    def detector(self, stage: str) -> nn.Module:
        """The weights of a finished stage."""
        return checkpoint.load(self.record(stage).output(self.folder / stage))

    def times(self) -> dict[str, int]:
        """Every file below `pruned` with the time it was written."""
        files = (p for p in (self.folder / "pruned").rglob("*") if p.is_file())
        return {str(p.relative_to(self.folder)): p.stat().st_mtime_ns for p in files}


CUTS, TUNINGS = ([f"pruned/rounds/{k}/{what}" for k in ks] for what, ks in (("cut", (1, 2, 3)), ("finetuned", (1, 2))))


@pytest.fixture(scope="module")
def patched():
    """Validation says what `MAPS` says."""
    with pytest.MonkeyPatch.context() as patch:
        load = checkpoint.load

        def remembered(path: Path | str, weights: str | None = None) -> nn.Module:
            detector = load(path, weights)
            CAME_FROM[id(detector)] = Path(path)
            return detector

        patch.setattr(checkpoint, "load", remembered)
        patch.setattr("yolo_slim.runs.rows.accuracy", accuracy)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, patched) -> tuple[InRounds, str]:
    """Three rounds, pruned: (the command, what it said). Read only."""
    command = InRounds(tmp_path_factory.mktemp("rounds"))
    code, output = command("prune")
    assert code == 0, output
    return command, output


def test_each_round_cuts_what_the_one_before_has_fine_tuned(made):
    command, _ = made
    stages = ["original", *(s for pair in zip(CUTS, [*TUNINGS, None], strict=True) for s in pair if s)]
    for before, after in pairwise(stages):
        assert command.record(before).sums["weights"] in command.record(after).inputs.values()
    assert not (command.folder / "pruned/rounds/3/finetuned").exists(), "that is for the finetune stage"
    for cut_, tuned in zip(CUTS, TUNINGS, strict=False):
        assert widths(command.detector(cut_)) == widths(command.detector(tuned))
        assert command.record(tuned).settings["epochs"] == 1


def test_rounds_are_judged_on_val_and_the_result_on_test(made):
    command, _ = made
    assert {command.record(stage).metrics["split"] for stage in (*CUTS, *TUNINGS)} == {"val"}
    assert command.record("pruned").metrics["split"] == "test"


def test_the_record_holds_every_setting_that_decides(made):
    command, _ = made
    settings = command.record("pruned").settings
    assert settings.keys() == {*Prune.model_fields, "imgsz", "data", "finetune"}
    assert settings["seed"] == 0 and settings["finetune"] == {
        "train": {"batch": 4, "nbs": 4, "optimizer": "SGD"},
        "distill": "auto",
        "seed": 3,
    }


def test_the_details_list_every_round(made):
    command, _ = made
    details = command.record("pruned").details
    found = details["iterations"]
    assert (found["split"], found["map50_95_original"], found["stopped"]) == ("val", 0.80, None)
    whole = command.record("original").metrics["macs"]
    assert [r["round"] for r in found["rounds"]] == [1, 2, 3]
    for k, (r, stage) in enumerate(zip(found["rounds"], CUTS, strict=True), 1):
        assert r["asked"] == {"flops": pytest.approx(0.5 ** (k / 3))}
        assert r["achieved"]["flops"] == pytest.approx(cost(command.detector(stage), PX).macs / whole)
        assert r["achieved"]["flops"] <= r["asked"]["flops"] < command.record(stage).details["looser"]["flops"]
        assert r["map50_95_cut"] == MAPS[f"{k}/cut"] and r["map50_95_finetuned"] == MAPS.get(f"{k}/finetuned")
        assert r["masked_vs_cut"] < 1e-5
    assert details["asked"] == {"flops": 0.5} and details["achieved"] == found["rounds"][-1]["achieved"]
    assert details["masked_vs_cut"] == max(r["masked_vs_cut"] for r in found["rounds"])
    assert details["epochs"] == 2


def test_the_terminal_shows_the_rounds(made):
    _, output = made
    shown = output.split("after the cut")[-1]
    for part in ("flops ×0.794", "flops ×0.630", "flops ×0.500", "0.780 (−2.0)", "0.200 (−60.0)", "0.100 (−70.0)"):
        assert part in shown


def test_the_result_is_the_last_cut(made):
    command, _ = made
    result, last = command.detector("pruned").state_dict(), command.detector(CUTS[-1]).state_dict()
    assert all(torch.equal(v, result[k]) for k, v in last.items()) and result.keys() == last.keys()


def test_plan_json_is_one_cut_of_the_original(made):
    command, _ = made
    detector, before = command.detector("pruned"), command.detector("original")
    kept = json.loads((command.folder / "pruned" / "plan.json").read_text())["outputs"]
    assert kept == Plan.composed(detector_cuts(detector)).outputs and len(detector_cuts(detector)) == 3
    wiring = wiring_of(before)
    assert widths(cut(before, wiring, Plan(kept).kept(wiring))) == widths(detector)
    told = {w["layer"]: (w["before"], w["after"]) for w in command.record("pruned").details["widths"]}
    assert told == {name: (w[1], widths(detector)[name][1]) for name, w in widths(before).items()}


def test_the_same_again_does_nothing(made):
    command, _ = made
    before = command.times()
    code, output = command("prune", "finetune.epochs=7")  # of the stage that follows
    assert code == 0 and "pruned: done before, nothing has changed" in output
    assert command.times() == before


def test_a_lost_result_is_put_together_from_the_rounds(made):
    command, _ = made
    (command.folder / "pruned" / "stage.json").unlink()
    before = command.times()
    code, output = command("prune")
    assert code == 0
    for stage in (*CUTS, *TUNINGS):
        assert f"{stage}: done before, nothing has changed" in output
    assert {path for path, t in command.times().items() if before.get(path) != t} == {
        "pruned/pruned.pt",
        "pruned/plan.json",
        "pruned/stage.json",
    }


def test_the_report_shows_the_rounds(made):
    command, _ = made
    assert command("report")[0] == 0
    found = json.loads((command.folder / "report" / "report.json").read_text())
    assert found["iterations"] == command.record("pruned").details["iterations"]
    assert found["rows"][-1]["stage"] == "pruned" and found["rows"][-1]["train_epochs"] == 2
    page = (command.folder / "report" / "report.md").read_text()
    assert "## Rounds" in page and "| 2 | flops ×0.630 |" in page and "0.700 (−10.0)" in page
    assert "![rounds](rounds.svg)" in page and (command.folder / "report" / "rounds.svg").is_file()


# ---------------------------------------------------------------------------------------------------------------------
# Another setting: only what it changes is done again. These tests come last: they change the folder.


def done_before(output: str) -> set[str]:
    return {stage for stage in (*CUTS, *TUNINGS) if f"{stage}: done before" in output}


@pytest.mark.parametrize(
    ("drop", "result", "stopped"),
    [
        pytest.param(0.2, CUTS[2], None, id="all within"),
        pytest.param(0.1, CUTS[2], None, id="as far as allowed is not farther"),
        pytest.param(
            0.05, TUNINGS[0], "round 2 of 3, fine-tuned, is 10.0 points of mAP50-95 (val) below", id="round 2"
        ),
    ],
)
def test_the_stop_rule(made, drop, result, stopped):
    command, _ = made
    code, output = command("prune", f"prune.iterations.stop_if_map_drop={drop}")
    assert code == 0, output
    assert done_before(output) >= {*CUTS[:2], *TUNINGS}, "only the choice is made again"
    details = command.record("pruned").details
    found = details["iterations"]
    assert (found["stopped"] is None) == (stopped is None)
    weights, expected = command.detector("pruned").state_dict(), command.detector(result).state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in expected.items())
    if stopped:
        assert stopped in found["stopped"] and "5.0 were allowed; the result is round 1" in found["stopped"]
        assert stopped in " ".join(output.split())
        assert [r["map50_95_finetuned"] for r in found["rounds"]] == [0.78, 0.70], "the round too far is shown as well"
        assert details["achieved"] == found["rounds"][0]["achieved"] and details["epochs"] == 1
        kept = json.loads((command.folder / "pruned" / "plan.json").read_text())["outputs"]
        assert detector_cuts(command.detector("pruned")) == [kept]
        assert details["asked"] == found["rounds"][0]["asked"]


def test_no_round_within_the_limit_is_an_error_that_says_what_to_do(made):
    command, _ = made
    before = command.times()
    code, output = command("prune", "prune.iterations.stop_if_map_drop=0.01")
    assert code == 2 and "Traceback" not in output
    said = " ".join(output.split())
    assert "round 1 of 3, fine-tuned, is 2.0 points" in said and "stop_if_map_drop" in said
    assert command.times() == before


def test_a_setting_of_the_tuning_keeps_the_first_cut(made):
    command, _ = made
    code, output = command("prune", "finetune.train.lr0=0.005")
    assert code == 0, output
    assert done_before(output) == {CUTS[0]}


def test_another_number_of_rounds_is_done_anew(made):
    command, _ = made
    code, output = command("prune", "prune.iterations.rounds=2")
    assert code == 0, output
    assert not done_before(output)
    found = command.record("pruned").details["iterations"]["rounds"]
    assert [r["asked"]["flops"] for r in found] == pytest.approx([0.5**0.5, 0.5])


def test_one_round_is_the_plain_cut(made):
    """No rounds are listed, and the settings of rounds are no reason to do it again."""
    command, _ = made
    code, output = command("prune", "prune.iterations.rounds=1")
    assert code == 0, output
    assert "iterations" not in command.record("pruned").details
    assert "done before" in command("prune", "prune.iterations.rounds=1", "prune.iterations.schedule=cubic")[1]


# ---------------------------------------------------------------------------------------------------------------------
# Branches that go


def test_a_branch_that_empties_in_the_first_round_stays_gone(tmp_path, patched):
    """It is told of, and the rounds that follow count nothing of it."""
    command, block = InRounds(tmp_path), "model.3.m.0"
    floors = ["prune.min_keep=0", "prune.min_channels=0", "prune.iterations.rounds=2"]
    code, output = command("prune", *floors, f"prune.layers={{{block}.cv1: 1.0}}")
    assert code == 0, output
    details = command.record("pruned").details
    assert block in command.record(CUTS[0]).details["blocks"] and block in details["blocks"]
    after = {w["layer"]: w["after"] for w in details["widths"]}
    assert after[f"{block}.cv1.conv"] == after[f"{block}.cv2.conv"] == 0
    before, detector = command.detector("original"), command.detector("pruned")
    assert after.keys() == widths(before).keys()
    assert {name: n for name, n in after.items() if n} == {name: w[1] for name, w in widths(detector).items()}
    achieved = cost(detector, PX).macs / cost(before, PX).macs
    # but the norm at the branch's end, which the first round's wiring goes on counting: four operations an element
    assert achieved <= details["achieved"]["flops"] == pytest.approx(achieved, rel=1e-3)
    kept = json.loads((command.folder / "pruned" / "plan.json").read_text())["outputs"]
    assert widths(replay(before, PX, Plan(kept))) == widths(detector)


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def test_rounds_need_data(tmp_path):
    saved(varied(tmp_path), tmp_path / "model.pt")
    words = [f"model={tmp_path / 'model.pt'}", f"runs={tmp_path / 'runs'}", f"imgsz={PX}", "sparse_train.epochs=0"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["prune", *words, "prune.ratio=0.3", "prune.iterations.rounds=2"])
    assert code == 2 and "needs a data set" in out.getvalue()
    assert not (tmp_path / "runs" / "slim" / "pruned").exists()


def test_the_python_function_cuts_once(tmp_path):
    detector = varied(tmp_path)
    with pytest.raises(SlimError, match=r"cuts once and trains nothing, but iterations.rounds is 2"):
        yolo_slim.prune(detector, imgsz=PX, ratio=0.3, iterations={"rounds": 2})
    once: dict[str, Any] = {"ratio": 0.3, **FLOORS}
    assert yolo_slim.prune(detector, imgsz=PX, **once, iterations={"rounds": 1}).kept == (
        yolo_slim.prune(detector, imgsz=PX, **once).kept
    )


# ---------------------------------------------------------------------------------------------------------------------
# SIGKILL


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Command, list[str]]:
    """Killed inside a round's training, then between two rounds, then run to the end: (command, its outputs)."""
    rounds = {"ratio": 0.3, "iterations": {"rounds": 2, "epochs": EPOCHS}, **FLOORS, **WEIGHTS}
    folder = tmp_path_factory.mktemp("killed")
    command = Command(folder, "prune", prune=rounds, sparse_train={"epochs": 0})
    tuning = command.runs / TUNINGS[0]
    outputs = [
        command.kill_when(lambda output: (tuning / "train" / "weights" / "last.pt").exists()),
        command.kill_when(lambda output: (tuning / record.FILE).exists()),
    ]
    return command, [*outputs, command.to_the_end()]


def test_a_kill_inside_a_round_costs_an_epoch(killed):
    _, (_, second, _) = killed
    assert f"{CUTS[0]}: done before" in second
    assert "going on after epoch" in second


def test_a_kill_between_rounds_costs_nothing(killed):
    _, (_, _, third) = killed
    assert f"{CUTS[0]}: done before" in third and f"{TUNINGS[0]}: done before" in third
    assert "going on after epoch" not in third and "Starting training" not in third


def test_what_comes_out_is_whole(killed):
    command, _ = killed
    done = record.read(command.runs / "pruned")
    assert done is not None and len(done.details["iterations"]["rounds"]) == 2
    kept = json.loads((command.runs / "pruned" / "plan.json").read_text())["outputs"]
    slim = checkpoint.load(command.runs / "pruned" / "pruned.pt")
    assert kept == Plan.composed(detector_cuts(slim)).outputs
    assert done.details["achieved"]["channels"] <= 0.7 + 0.01
    assert not [p for p in command.runs.rglob("*.part*")]
