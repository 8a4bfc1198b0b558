"""HoldingTrainer on real, tiny trainings: what a method holds is so at every moment at which anybody may look."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from test_sparse import QUICK, SAVED
from torch import distributed, nn
from training_helpers import ARGUMENTS, PX, Killed, draw_shapes, fit, killed_after, live, saved, tiny, watched
from ultralytics import YOLO

from yolo_slim import checkpoint
from yolo_slim.compress import METHODS, Hold, Material, Plan
from yolo_slim.compress.weights import Weights
from yolo_slim.distill.workers import average_gradients
from yolo_slim.errors import SlimError
from yolo_slim.training.holding import SETTINGS, HoldingDistillTrainer, HoldingTrainer
from yolo_slim.training.plans import save_plan

LAYER = "model.3.cv1.conv"
WEIGHT = f"{LAYER}.weight"
SHARES: list[float] = []
"""What holds were called with."""


@dataclass(frozen=True)
class Held:
    """Holds zeros of one layer; or all of its numbers at plus or minus `signs`, which no average is."""

    signs: float = 0.0
    instead: bool = False

    def __post_init__(self) -> None:
        if self.signs < 0:
            raise ValueError(f"signs: expected a number from 0 on, got {self.signs}")

    def hold(self, plan: Plan) -> Hold | None:
        """What it says above."""
        if plan.layers[LAYER].get("free"):
            return None

        def hold(detector: nn.Module, share: float) -> None:
            SHARES.append(share)
            weight = detector.get_parameter(WEIGHT)
            if self.instead:
                weight.data = weight.data.clone()
            elif self.signs:
                weight.copy_(torch.where(weight < 0, -self.signs, self.signs))
            else:
                weight.mul_(plan.tensors[WEIGHT])

        return hold


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS, "held", Held)
    SHARES.clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return saved(tiny(folder), folder / "start.pt")


@pytest.fixture(scope="module")
def mask(start):
    torch.manual_seed(3)
    return torch.rand_like(checkpoint.load(start).get_parameter(WEIGHT)) > 0.5


@pytest.fixture
def plan(tmp_path, mask):
    return str(save_plan(Plan({LAYER: {}}, {WEIGHT: mask}), tmp_path / "a.plan"))


def held(plan: str, **options: Any) -> dict[str, list]:
    """The settings file of a run."""
    return {SETTINGS: [{"method": "held", "options": options, "plan": plan}]}


def zeros(module: nn.Module, mask: torch.Tensor) -> bool:
    """Whether what is masked is zero, and nothing else is."""
    return torch.equal(module.get_parameter(WEIGHT) != 0, mask)


def everywhere(mask: torch.Tensor):
    """A callback: the detector and its average are held."""

    def check(trainer: HoldingTrainer) -> None:
        assert zeros(trainer.detector, mask) and zeros(trainer.ema.ema, mask)

    return check


@pytest.mark.parametrize("precision", [True, "bf16"])
def test_zeros_stay_zero_at_every_moment(tmp_path, data, start, plan, mask, precision):
    checked = HoldingTrainer
    for event in ("on_train_start", "on_train_batch_end", "on_model_save"):
        checked = watched(checked, everywhere(mask), event)
    before = checkpoint.load(start).get_parameter(WEIGHT)
    trainer = fit(checked, start, tmp_path / "run", data, files=held(plan), amp=precision, **SAVED)
    assert not torch.equal(live(trainer)[WEIGHT], before * mask), "the others were trained"
    # SGD has moved what is zero: its momentum is not, so that nothing but the hold keeps the zeros.
    parameter = trainer.detector.get_parameter(WEIGHT)
    assert trainer.optimizer.state[parameter]["momentum_buffer"][~mask].abs().max() > 0
    for name in ("best.pt", "last.pt"):
        assert zeros(checkpoint.load(tmp_path / "run" / "weights" / name), mask), name


def test_without_the_hold_they_would_not(tmp_path, data, start, plan, mask):
    files = {SETTINGS: []}
    trainer = fit(HoldingTrainer, start, tmp_path / "run", data, epochs=1, files=files, **QUICK)
    assert not zeros(trainer.detector, mask)


def test_the_average_is_held_after_it_has_moved(tmp_path, data, start, plan):
    """Two values, and weights that go from one to the other: an average of both is neither."""
    flips = []

    def check(trainer: HoldingTrainer) -> None:
        for module in (trainer.detector, trainer.ema.ema):
            assert module.get_parameter(WEIGHT).abs().unique().tolist() == pytest.approx([0.001])
        flips.append((trainer.detector.get_parameter(WEIGHT) != trainer.ema.ema.get_parameter(WEIGHT)).any().item())

    trainer = watched(HoldingTrainer, check, "on_train_batch_end")
    fit(trainer, start, tmp_path / "run", data, files=held(plan, signs=0.001), **{**QUICK, "lr0": 0.1})
    assert any(flips), "none changed its sign: the case shows nothing"


def test_the_share_of_the_training_rises_to_one(tmp_path, data, start, plan):
    """Three batches an epoch and a step every four: the last ones are never stepped for, and it is one all the same."""
    trainer = fit(HoldingTrainer, start, tmp_path / "run", data, epochs=2, files=held(plan), nbs=16, **QUICK)
    assert sorted(SHARES) == SHARES and SHARES[0] == 0 and SHARES[-1] == 1 and trainer.stepped_to == 1
    assert 0 < max(s for s in SHARES if s < 1) < 1


@pytest.mark.parametrize("event", ["on_model_save", "on_train_batch_end"])
def test_a_resumed_training_goes_on_from_the_share_it_had(tmp_path, data, start, plan, mask, event):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        fit(killed_after(HoldingTrainer, 2, event), start, run, data, epochs=3, files=held(plan), **SAVED)
    SHARES.clear()
    first = []
    trainer = watched(HoldingTrainer, lambda t: first.append((everywhere(mask)(t), t.stepped_to)), "on_train_start")
    trainer = fit(trainer, start, run, data, epochs=3, resume=True, **SAVED)
    assert first[0][1] == pytest.approx(2 / 3 if event == "on_model_save" else 1 / 3)
    assert sorted(SHARES) == SHARES and SHARES[0] == first[0][1] and SHARES[-1] == 1
    assert zeros(trainer.detector, mask) and zeros(checkpoint.load(run / "weights" / "best.pt"), mask)


def _until_killed(start: str, run: str, data: str) -> None:
    """A process that dies in its second epoch, as nothing can prevent it from."""
    torch.set_num_threads(1)
    METHODS["held"] = Held
    trainer = watched(HoldingTrainer, lambda t: t.epoch and os.kill(os.getpid(), signal.SIGKILL), "on_train_batch_end")
    fit(trainer, start, Path(run), data, epochs=3, **SAVED)


def test_after_a_real_kill_too(tmp_path, data, start, plan, mask):
    run = tmp_path / "run"
    run.mkdir()
    (run / SETTINGS).write_text(yaml.safe_dump(held(plan)[SETTINGS]))
    child = multiprocessing.get_context("forkserver").Process(target=_until_killed, args=(str(start), str(run), data))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert zeros(checkpoint.load(run / "weights" / "last.pt"), mask)
    trainer = fit(HoldingTrainer, start, run, data, epochs=3, resume=True, **SAVED)
    assert trainer.epoch == 2 and zeros(trainer.detector, mask)
    assert zeros(checkpoint.load(run / "weights" / "last.pt"), mask)


def test_an_epoch_that_is_done_again_is_held_from_its_start(tmp_path, data, start, plan, mask):
    spoiled = []

    def spoil(trainer: HoldingTrainer) -> None:
        if trainer.epoch == 1 and not spoiled:
            spoiled.append(True)
            trainer.loss = torch.tensor(torch.nan)

    def check(trainer: HoldingTrainer) -> None:
        everywhere(mask)(trainer)

    trainer = watched(watched(HoldingTrainer, spoil, "on_train_batch_end"), check, "on_train_batch_start")
    trainer = fit(trainer, start, tmp_path / "run", data, files=held(plan), **SAVED)
    assert spoiled and zeros(trainer.detector, mask)


def test_a_step_that_amp_skips_is_none():
    bare = object.__new__(HoldingTrainer)
    bare.progress, bare.stepped_to, bare.steps, calls = 0.5, 0.0, 0, []
    bare.holds = (lambda module, share: calls.append(share),)
    bare.model, bare.ema = nn.Identity(), SimpleNamespace(ema=nn.Identity())
    bare._stepped(SimpleNamespace(found_inf=torch.tensor(1.0)), (), {})
    assert (calls, bare.steps) == ([], 0)
    bare._stepped(SimpleNamespace(found_inf=torch.tensor(0.0)), (), {})
    assert (calls, bare.steps) == ([0.5, 0.5], 1)


def test_with_teachers_too(tmp_path, data, start, plan, mask):
    lesson = {"teachers": [str(start)], "kin": [True], "features": {"mimic": {}}, "outputs": {}, "layers": None,
              "ramp_epochs": 1.0, "stop_before": 0, "teacher_images": None, "extra_images": None}  # fmt: skip
    files = {**held(plan), "distill.yaml": lesson}
    trainer = watched(HoldingDistillTrainer, everywhere(mask), "on_train_batch_end")
    with pytest.raises(Killed):
        fit(killed_after(trainer, 1), start, tmp_path / "run", data, files=files, **SAVED)
    trainer = fit(trainer, start, tmp_path / "run", data, resume=True, **SAVED)
    assert "mimic" in trainer.loss_items and zeros(trainer.detector, mask) and trainer.stepped_to == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param(None, "cannot read .*holding.yaml", id="no file"),
        pytest.param("a: [", "is no YAML", id="no YAML"),
        pytest.param({"method": "held"}, "expected a list of methods", id="no list"),
        pytest.param([{"plan": "a.plan"}], "expected a list of methods", id="no name"),
        pytest.param([{"method": "what", "plan": "a.plan"}], "no method what; expected one of .*held", id="unknown"),
        pytest.param([{"method": "held"}], "expected the path of its plan, got None", id="no plan"),
        pytest.param([{"method": "held", "plan": "none.plan"}], "cannot read the plan", id="no file of a plan"),
        pytest.param([{"method": "held", "plan": "a.plan", "options": {"sings": 1}}], "held: .*sings", id="no option"),
        pytest.param(
            [{"method": "held", "plan": "a.plan", "options": {"signs": -1}}], "held: signs: expected", id="no"
        ),
        pytest.param([{"method": "held", "plan": "b.plan"}], "of another detector: .*without model.99", id="another's"),
    ],
)
def test_what_cannot_be_held_is_refused_before_the_first_step(tmp_path, data, start, mask, asked, words):
    save_plan(Plan({LAYER: {}}, {WEIGHT: mask}), tmp_path / "a.plan")
    save_plan(Plan({LAYER: {}, "model.99": {}}), tmp_path / "b.plan")
    if asked is not None:
        (tmp_path / SETTINGS).write_text(asked if isinstance(asked, str) else yaml.safe_dump(asked))
    with pytest.raises(SlimError, match=words):
        fit(HoldingTrainer, start, tmp_path, data, **QUICK)


def test_plans_without_a_hold_are_trained_as_they_are(tmp_path, data, start):
    """Of a method that changes layers: its plan is of the detector that was."""
    save_plan(Plan({LAYER: {"free": True}, "model.99": {}}), tmp_path / "a.plan")
    trainer = fit(HoldingTrainer, start, tmp_path, data, epochs=1, files=held("a.plan"), **QUICK)
    assert trainer.holds == () and trainer.steps > 0


def test_a_hold_that_puts_other_tensors_in_is_found_out(tmp_path, data, start, plan):
    """The average and the optimizer would go on with those that were there."""
    with pytest.raises(TypeError, match="write into those that are there"):
        fit(HoldingTrainer, start, tmp_path / "run", data, files=held(plan, instead=True), **QUICK)


def _work(rank: int, folder: str, start: str, data: str, plan: str) -> None:
    """One of two workers that take two steps together, each on half of the images."""
    torch.set_num_threads(1)
    METHODS["held"] = Held
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    run = Path(folder) / f"run{rank}"
    run.mkdir()
    (run / SETTINGS).write_text(yaml.safe_dump(held(plan)[SETTINGS]))
    overrides = {"model": start, "data": data, "save_dir": str(run), "seed": rank, "epochs": 1, "warmup_epochs": 0}
    trainer = HoldingTrainer(overrides={"task": "detect", "mode": "train"} | ARGUMENTS | overrides)
    trainer._setup_train()
    trainer.epoch = 0
    images = torch.rand(4, 3, PX, PX, generator=torch.Generator().manual_seed(0))[2 * rank : 2 * rank + 2]
    none = {"cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4), "batch_idx": torch.zeros(0)}
    for _ in range(2):
        trainer._count_batch()
        loss, _ = trainer.model.eval()({"img": images, **none})
        loss.sum().backward()
        average_gradients(trainer.model)
        trainer.optimizer_step()
    torch.save([live(trainer), trainer.ema.ema.state_dict(), trainer.stepped_to], Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_workers_hold_alike(tmp_path, data, start, plan, mask):
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=_work, args=(r, str(tmp_path), str(start), data, plan)) for r in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one[2] == two[2] > 0
    for mine, theirs in zip(one[:2], two[:2], strict=True):
        assert torch.equal(mine[WEIGHT] != 0, mask)
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert not torch.equal(one[0][WEIGHT], checkpoint.load(start).get_parameter(WEIGHT) * mask), "steps were taken"


# ------------------------------------------------------------------------------------- methods that decide in training

GRADUAL = {
    "cubic": {"schedule": "cubic", "until": 0.8, "sparsity": 0.6},
    "skeleton": {"pattern": "stripe", "criterion": "skeleton", "strength": 1.3, "until": 0.8, "sparsity": 0.4},
}


def asked_for(kind: str, detector: nn.Module, folder: Path, **more: Any) -> tuple[Weights, Plan, dict[str, list]]:
    """A method so set, its plan for a detector, and the settings file of a run."""
    options = {**GRADUAL[kind], **more}
    method = Weights(**options)
    plan = method.plan(detector, Material(PX))
    file = str(save_plan(plan, folder / f"{kind}.plan"))
    return method, plan, {SETTINGS: [{"method": "weights", "options": options, "plan": file}]}


def zero_share(detector: nn.Module, plan: Plan) -> float:
    some = [detector.get_parameter(f"{name}.weight") for name in plan.layers]
    return sum(int((w == 0).sum()) for w in some) / sum(w.numel() for w in some)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD"])
@pytest.mark.parametrize("kind", GRADUAL)
def test_zeros_become_more_and_nobody_who_loads_it_knows_how(tmp_path, data, start, kind, optimizer):
    method, plan, files = asked_for(kind, checkpoint.load(start), tmp_path)
    shares = []

    def watch(trainer: HoldingTrainer) -> None:
        shares.append(zero_share(trainer.detector, plan))
        # The average has zeros where the detector has, and where both signs met by chance; stripes as wholes.
        gone = [trainer.detector.get_parameter(f"{name}.weight") == 0 for name in plan.layers]
        held = [trainer.ema.ema.get_parameter(f"{name}.weight") == 0 for name in plan.layers]
        assert all(torch.equal(one, other) for one, other in zip(gone, held, strict=True))

    run = tmp_path / "run"
    arguments = {**SAVED, "optimizer": optimizer}
    trainer = fit(watched(HoldingTrainer, watch, "on_train_batch_end"), start, run, data, files=files, **arguments)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(method.sparsity, abs=0.02) and shares[0] < 0.5
    last = checkpoint.load(run / "weights" / "last.pt")
    assert last.state_dict().keys() == checkpoint.load(start).state_dict().keys()
    assert {type(m) for m in last.modules()} == {type(m) for m in checkpoint.load(start).modules()}
    settled = method.settled(last, plan)
    assert method.check(last, settled)["sparsity"] == pytest.approx(shares[-1], abs=1e-6)
    assert YOLO(str(run / "weights" / "last.pt")).predict(torch.zeros(1, 3, PX, PX), verbose=False)
    if kind == "skeleton":
        (striping,) = trainer.deciding
        assert all(torch.equal(settled.tensors[n].any(1), s.alive.cpu()) for n, s in striping.skeletons.items())
        assert any((s.stripes[s.alive] - 1).abs().max() > 0 for s in striping.skeletons.values())


@pytest.mark.parametrize("kind", GRADUAL)
@pytest.mark.parametrize("event", ["on_model_save", "on_train_batch_end"])
def test_what_was_decided_is_gone_on_with(tmp_path, data, start, kind, event):
    """Killed, its zeros are those of the last whole epoch, and those to come are added to them."""
    method, plan, files = asked_for(kind, checkpoint.load(start), tmp_path)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        fit(killed_after(HoldingTrainer, 2, event), start, run, data, epochs=3, files=files, **SAVED)
    ckpt = checkpoint.read(run / "weights" / "last.pt")
    (state,), began = ckpt["holds"], []

    def watch(trainer: HoldingTrainer) -> None:
        (deciding,) = trainer.deciding
        began.append((deciding.state(), live(trainer)))

    trainer = fit(
        watched(HoldingTrainer, watch, "on_train_start"), start, run, data, epochs=3, resume=True, **SAVED
    )  # fmt: skip
    (found, before), after = began[0], live(trainer)
    for one, other in zip(_tensors(found), _tensors(state), strict=True):
        assert torch.equal(one, other)
    names = [f"{name}.weight" for name in plan.layers]
    assert all(torch.equal(before[name], ckpt["live"][name]) for name in names), "as it was, exactly"
    assert all((after[name] == 0)[before[name] == 0].all() for name in names), "none has returned"
    last = checkpoint.load(run / "weights" / "last.pt")
    assert zero_share(last, plan) == pytest.approx(method.sparsity, abs=0.02)
    method.check(last, method.settled(last, plan))


def _tensors(state: Any) -> list[torch.Tensor]:
    """All that nested dicts hold, numbers among them."""
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in _tensors(value)]
    return [torch.as_tensor(state)]


@pytest.mark.parametrize("kind", GRADUAL)
def test_an_epoch_that_is_done_again_decides_again(tmp_path, data, start, kind):
    """It goes back to what was decided before it, not on with what was decided in it."""
    _, plan, files = asked_for(kind, checkpoint.load(start), tmp_path)
    spoiled, shares = [], {}

    def spoil(trainer: HoldingTrainer) -> None:
        if trainer.epoch == 1 and trainer.batches == 3 and not spoiled:
            spoiled.append(zero_share(trainer.detector, plan))
            trainer.loss = torch.tensor(torch.nan)

    def watch(trainer: HoldingTrainer) -> None:
        shares.setdefault(trainer.epoch, []).append(zero_share(trainer.detector, plan))

    trainer = watched(watched(HoldingTrainer, spoil, "on_train_batch_end"), watch, "on_train_epoch_start")
    fit(trainer, start, tmp_path / "run", data, epochs=3, files=files, **SAVED)
    once, again = shares[1]
    assert once == again < spoiled[0]


def test_what_is_settled_is_held_from_the_first_step(tmp_path, data, start):
    """By the same settings: the plan says that it is decided."""
    method, plan, _ = asked_for("cubic", checkpoint.load(start), tmp_path)
    detector = checkpoint.load(start)
    method.hold(plan).decide(detector, 1.0)
    settled = method.settled(detector, plan)
    file = str(save_plan(settled, tmp_path / "settled.plan"))
    files = {SETTINGS: [{"method": "weights", "options": GRADUAL["cubic"], "plan": file}]}
    shares = []
    trainer = watched(HoldingTrainer, lambda t: shares.append(zero_share(t.detector, plan)), "on_train_batch_end")
    fit(trainer, start, tmp_path / "run", data, epochs=1, files=files, **SAVED)
    assert set(shares) == {zero_share(detector, plan)}
