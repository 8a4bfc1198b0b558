"""Modes of sparse training as a user meets them: a plan travels from stage to stage, or a message says what to do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_pipeline import PRUNE, run
from training_helpers import PX, draw_shapes, saved, tiny

from yolo_slim import checkpoint, record
from yolo_slim.channels import Plan, cut, relative_difference, silent, trace
from yolo_slim.config import Prune, read_config
from yolo_slim.errors import SlimError
from yolo_slim.formats.door import cuts_of
from yolo_slim.importance import Evidence
from yolo_slim.pruning.choose import choose, evidence_from
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.pruning.plan import cost_of
from yolo_slim.stages.sparse_train import _plan
from yolo_slim.training.landing import MADE_UP


class Sparse:
    """Sparse training and pruning in one mode, on an untrained tiny detector."""

    def __init__(self, folder, mode, *more):
        net = tiny(folder)
        with torch.no_grad():
            for m in net.modules():
                if isinstance(m, torch.nn.BatchNorm2d):
                    m.weight.uniform_(0.5, 1.5)
                    m.bias.uniform_(-0.5, 0.5)
        saved(net, folder / "model.pt")
        self.folder = folder / "runs" / mode
        training = "{batch: 4, nbs: 4, optimizer: SGD, warmup_epochs: 0, workers: 0}"
        self.words = [
            *(f"model={folder / 'model.pt'}", f"data={draw_shapes(folder)}", f"imgsz={PX}", f"name={mode}"),
            *(f"runs={folder / 'runs'}", "sparse_train.epochs=2", "sparse_train.min_steps=0"),
            *(
                f"sparse_train.mode={mode}",
                f"sparse_train.train={training}",
                "prune.target.flops=0.6",
                "prune.criterion=l1",
            ),
            *(f"prune.{k}={v}" for k, v in PRUNE.items()),
            *more,
        ]
        self.before = run("prune", *self.words) if mode in ("targeted", "soft") else None
        self.output = "".join(self.did(stage) for stage in ("sparse-train", "prune"))

    def did(self, stage, *more):
        """A stage that comes to its end; what it says."""
        code, output = run(stage, *self.words, *more)
        assert code == 0, output
        return output

    def record(self, stage):
        return record.read(self.folder / stage)

    def detector(self, stage):
        return checkpoint.load(self.record(stage).output(self.folder / stage))

    def plan(self, stage):
        return json.loads(self.record(stage).output(self.folder / stage, "plan").read_text())["outputs"]

    def taken(self):
        """What the pruned detector tells that was taken out of it."""
        (cut,) = cuts_of(self.detector("pruned"))
        return cut


@pytest.fixture(scope="module")
def targeted(tmp_path_factory):
    return Sparse(tmp_path_factory.mktemp("targeted"), "targeted")


@pytest.fixture(scope="module")
def soft(tmp_path_factory):
    return Sparse(tmp_path_factory.mktemp("soft"), "soft", "prune.criterion=l2")


# ---------------------------------------------------------------------------------------------------------------------
# Targeted


def test_it_lands_what_the_prune_section_would_remove_from_the_original(targeted):
    config, original = read_config(None, targeted.words), targeted.detector("original")
    found = choose(original, trace(original, PX), config.prune, evidence_from(config, original))
    assert targeted.plan("plan") == Plan.of(trace(original, PX), found.kept).outputs != {}
    assert targeted.record("pruned").details["achieved"]["flops"] == pytest.approx(found.achieved["flops"])
    assert targeted.record("pruned").details["asked"] == {"flops": 0.6}


def test_pruning_follows_the_plan_and_loses_nothing(targeted):
    assert targeted.taken() == targeted.plan("sparse") == targeted.plan("plan")
    before, after = targeted.detector("sparse"), targeted.detector("pruned")
    assert relative_difference(before, after, torch.rand(2, 3, PX, PX)) < 1e-5
    done = targeted.record("pruned")
    assert done.details["lossless"] and "following the plan" in targeted.output and "nothing is lost" in targeted.output
    assert "mAP50-95 before the cut" in targeted.output
    assert done.metrics["map50_95"] == pytest.approx(targeted.record("sparse").metrics["map50_95"], abs=1e-4)
    assert done.metrics["flops"] / targeted.record("original").metrics["flops"] <= 0.6


def test_what_has_landed_is_neither_absorbed_nor_recalibrated(targeted):
    before, after = targeted.detector("sparse"), targeted.detector("pruned")
    wiring = trace(before, PX)
    kept = Plan(targeted.plan("sparse")).kept(wiring)
    assert silent(before, wiring, kept)
    plain = cut(before, wiring, kept).state_dict()
    assert all(torch.equal(v, plain[k]) for k, v in after.state_dict().items())


def test_what_stays_lands_on_the_way_to_where_recovery_would_put_it(tmp_path):
    """Without a learning rate the landed weights are as far as drift goes between a bare cut and a refitted one."""
    still = "{batch: 4, nbs: 4, optimizer: SGD, warmup_epochs: 0, workers: 0, lr0: 0, weight_decay: 0, momentum: 0}"
    landed = Sparse(tmp_path, "targeted", f"sparse_train.train={still}", "prune.reconstruct=lstsq")
    config, original = read_config(None, landed.words), landed.detector("original")
    evidence, bare = evidence_from(config, original), {"reconstruct": "none", "absorb": "none"}
    sections = config.prune.model_copy(update=bare), config.prune
    cuts = [dict(cut_to_plan(original, s, PX, evidence).model.named_parameters()) for s in sections]
    moved = 0
    for name, p in landed.detector("pruned").named_parameters():
        before, after = (cut[name] for cut in cuts)
        assert torch.allclose(p, before + MADE_UP * (after - before), rtol=1e-3, atol=2e-3), name
        moved += not torch.allclose(p, before, rtol=1e-2, atol=1e-2)
    assert moved > 5, "or this shows nothing"


def test_the_plan_is_an_input_of_pruning(targeted):
    for stage in ("sparse", "pruned"):
        assert any(path.endswith("plan.json") for path in targeted.record(stage).inputs)
    assert "done before" in targeted.did("prune") and "done before" in targeted.did("sparse-train")


def test_the_plan_is_a_step_of_its_own(targeted, whole_blocks, tmp_path):
    assert "plan: done before" in targeted.did("plan")
    assert run("plan", *whole_blocks, f"runs={tmp_path}", "sparse_train.epochs=0", "prune.depth.blocks=1")[0] == 0
    made = json.loads((tmp_path / "slim" / "plan" / "plan.json").read_text())
    assert made["format"] == 2 and made["outputs"] and not (tmp_path / "slim" / "pruned").exists()
    code, output = run("prune", *whole_blocks, f"runs={tmp_path}", "sparse_train.epochs=0", "prune.depth.blocks=1")
    assert code == 0 and "plan: done before" in output
    pruned = checkpoint.load(tmp_path / "slim" / "pruned" / "pruned.pt")
    assert cuts_of(pruned) == [made["outputs"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["sparse_train.mode=soft"], "soft ends with the plan that is followed", id="soft"),
        pytest.param(["sparse_train.epochs=0", "prune.iterations.rounds=2"], "plans for itself", id="rounds"),
    ],
)
def test_who_plans_for_itself_needs_no_plan(whole_blocks, tmp_path, words, said):
    code, output = run("plan", *whole_blocks, f"runs={tmp_path}", *words)
    assert code == 2 and said in " ".join(output.split()) and not list(tmp_path.rglob("plan.json"))


def test_without_sparse_training_the_original_is_pruned(targeted):
    code, output = targeted.before
    assert code == 0 and "without sparse training: the original is pruned" in output


@pytest.mark.parametrize("mode", ["soft", "uniform"])
def test_another_mode_than_that_of_the_training(targeted, mode):
    """A plan is followed in the mode that made it; a mode without plans takes the weights as they are."""
    code, output = run("prune", *targeted.words, f"sparse_train.mode={mode}", f"runs={targeted.folder.parent}")
    if mode == "soft":
        assert code == 2 and "was trained with sparse_train.mode=targeted" in " ".join(output.split())
    else:
        assert code == 0 and "following the plan" not in output
        assert targeted.did("prune"), "and back"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["prune.target.flops=0.5"], "target", id="another budget"),
        pytest.param(["prune.criterion=l2"], "criterion", id="another criterion"),
        pytest.param(["prune.exclude=[model.0]"], "exclude", id="other layers"),
    ],
)
def test_a_plan_for_another_budget_is_refused(targeted, words, said):
    code, output = run("prune", *targeted.words, *words)
    text = " ".join(output.split())
    assert code == 2 and f"{said}:" in text
    assert "Run `yolo-slim sparse-train` again" in text and "sparse_train.mode=uniform" in text
    assert "Traceback" not in output


def test_another_budget_lands_anew(targeted, tmp_path):
    """The training begins again: its plan is part of its settings."""
    config = read_config(None, [*targeted.words, "prune.target.flops=0.5"])
    old = targeted.record("plan").settings["target"]
    assert {k: v for k, v in old.items() if v is not None} == {"flops": 0.6} and old != config.prune.model_dump()[
        "target"
    ]
    assert "recalibrate" not in targeted.record("plan").settings, "recovery has no say"


def test_a_run_of_version_0_1_is_gone_on_with(targeted, tmp_path):
    """Its plan was the outputs alone, and its sparse training told of the `prune:` section among its settings."""
    folder, done = tmp_path / "targeted" / "sparse", targeted.record("sparse")
    shutil.copytree(targeted.folder, folder.parent, ignore=shutil.ignore_patterns("plan", "pruned"))
    (folder / "plan.json").write_text(json.dumps(targeted.plan("sparse")))
    details = {k: v for k, v in done.details.items() if k != "chosen"}
    settings = {**done.settings, "prune": {**done.details["chosen"], "iterations": {"rounds": 1}}}
    sums = {**done.sums, "plan": record.sha256(folder / "plan.json")}
    record.write(folder, replace(done, details=details, settings=settings, sums=sums))
    code, output = run("prune", *targeted.words, f"runs={tmp_path}")
    assert code == 0 and "following the plan" in output and "nothing is lost" in output
    code, output = run("prune", *targeted.words, f"runs={tmp_path}", "prune.target.flops=0.5")
    assert code == 2 and "Run `yolo-slim sparse-train` again" in " ".join(output.split())


def test_a_training_that_stops_before_it_has_landed_is_refused(targeted):
    config, detector = read_config(None, targeted.words), targeted.detector("original")
    kept = torch.tensor(Plan(targeted.plan("sparse")).kept(trace(detector, PX)))
    with pytest.raises(SlimError, match=r"stopped after epoch 1, before its landing was over.*patience"):
        _plan({"kept": kept, "epoch": 0}, detector, config)


# ---------------------------------------------------------------------------------------------------------------------
# Refused before hours of training, not after


@pytest.fixture(scope="module")
def whole_blocks(tmp_path_factory):
    """Words for a run of the detector of `tiny`, which has residual branches, with gradual pruning over 2 epochs."""
    folder = tmp_path_factory.mktemp("blocks")
    model = saved(tiny(folder), folder / "model.pt")
    words = [f"model={model}", f"data={draw_shapes(folder)}", f"imgsz={PX}"]
    words += ["sparse_train.mode=targeted", "sparse_train.epochs=2", "sparse_train.min_steps=0"]
    return [*words, "prune.target.flops=0.6", "prune.criterion=l1", *(f"prune.{k}={v}" for k, v in PRUNE.items())]


@pytest.mark.parametrize("stage", ["run", "sparse-train"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["prune.depth.blocks=1"], "targeted lands channels, not residual", id="blocks"),
        pytest.param(["prune.depth.blocks=auto", "sparse_train.mode=soft"], "soft lands channels", id="blocks, soft"),
        pytest.param(["prune.iterations.rounds=2"], "cuts little by little: choose one", id="rounds"),
        pytest.param(
            ["prune.iterations.rounds=2", "prune.depth.blocks=1", "sparse_train.mode=uniform"],
            "takes residual branches out in one go",
            id="rounds and blocks",
        ),
    ],
)
def test_what_a_cut_cannot_follow_is_not_trained_for(whole_blocks, tmp_path, stage, words, said):
    code, output = run(stage, *whole_blocks, f"runs={tmp_path}", *words)
    assert code == 2 and said in " ".join(output.split()) and "Traceback" not in output
    assert not list(tmp_path.rglob("sparse"))


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"target": {"size_mb": 0.3}}, id="megabytes"),
        pytest.param({"ratio": 0.3, "exclude": ["model.3"]}, id="a ratio of what is not excluded"),
        pytest.param({"ratio": 0.3, "layers": {"model.3.*": 0.1}}, id="a ratio of what has no share of its own"),
    ],
)
def test_a_plan_that_is_followed_is_told_as_one_that_is_chosen(tmp_path, asked):
    detector, chosen = tiny(tmp_path), Prune.model_validate({"criterion": "l1", **PRUNE, **asked})
    wiring = trace(detector, PX)
    found = choose(detector, wiring, chosen, Evidence())
    followed = cost_of(Plan.of(wiring, found.kept), detector, wiring, wiring, chosen)
    assert np.array_equal(followed.kept, found.kept) and not found.kept.all()
    assert followed.achieved == pytest.approx(found.achieved)
    assert followed.asked.keys() == found.asked.keys() <= followed.achieved.keys()


def test_a_landed_plan_is_not_cut_in_rounds(targeted):
    code, output = run("prune", *targeted.words, "prune.iterations.rounds=2")
    assert code == 2 and "iterations" in output and "Traceback" not in output


# ---------------------------------------------------------------------------------------------------------------------
# The others


def test_soft_pruning_cuts_the_last_selection_and_recovers(soft):
    assert soft.taken() == soft.plan("sparse") != {}
    detector = soft.detector("sparse")
    wiring = trace(detector, PX)
    kept = Plan(soft.plan("sparse")).kept(wiring)
    conv = next(c for c in wiring.convs.values() if not kept[c.outputs].all())
    assert (detector.get_submodule(conv.name).weight[~kept[conv.outputs]] == 0).all()
    assert not soft.record("pruned").details["lossless"], "its batch norms still give constants: absorbed, recalibrated"
    assert soft.before[0] == 0


def test_polarization_is_pruned_like_any_other(tmp_path):
    done = Sparse(tmp_path, "polarization", "prune.criterion=bn_scale", "sparse_train.strength=0.8")
    assert "plan" not in done.record("sparse").outputs
    scales = np.concatenate([m.weight.detach() for m in done.detector("sparse").modules() if hasattr(m, "running_var")])
    assert (scales >= 0).all() and (scales == 0).any()
    details = done.record("sparse").details
    assert 0 < details["share_below"] < 1 and 0 < details["threshold"] < 0.5
    assert f"{details['share_below']:.1%} of the channels lie below it" in done.output
    assert f"prune.ratio={details['share_below']:.3f}" in done.output
    assert done.record("pruned").details["achieved"]["flops"] <= 0.6
