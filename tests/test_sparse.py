"""SparseTrainer on real, tiny trainings: a scale that nothing holds travels the strength, whatever else happens."""

from __future__ import annotations

import csv
import logging
import math
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from training_helpers import (
    BATCHES,
    PX,
    Killed,
    draw_shapes,
    fit,
    free_norms,
    killed_after,
    live,
    saved,
    tiny,
    watched,
    wiring_of,
)
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import LOGGER

from yolo_slim import checkpoint
from yolo_slim.channels import trace
from yolo_slim.errors import SlimError
from yolo_slim.training.penalty import Penalty, Travel
from yolo_slim.training.sparse import SETTINGS, SparseTrainer
from yolo_slim.training.trainer import SlimTrainer

LOOSE = ("model.0.bn.weight", "model.3.cv1.bn.weight", "model.3.m.0.cv2.bn.weight", "model.3.m.1.cv2.bn.weight")
"""Scales that the loss is kept from: one alone, and all three members of a C3 stage."""

QUICK = {"val": False, "save": False, "warmup_epochs": 0}
SAVED = {**QUICK, "save": True}


class Loose(SparseTrainer):
    """SparseTrainer in which nothing holds the LOOSE scales: no gradient of the loss reaches them."""

    def _setup_train(self) -> None:
        super()._setup_train()
        for name in LOOSE:
            self.model.get_parameter(name).register_hook(torch.zeros_like)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return saved(tiny(folder), folder / "start.pt")


def pull(strength=0.5, penalty="group_lasso", update="proximal"):
    """The settings file of a run."""
    return {SETTINGS: {"strength": strength, "penalty": penalty, "update": update}}


def moved(trainer):
    """How far each loose scale has come from its 1, averaged over its channels; all channels the same."""
    state = live(trainer)
    for name in LOOSE:
        assert state[name].std() < 1e-5, f"{name}: every channel is pulled alike"
    return [1 - state[name].mean().item() for name in LOOSE]


@contextmanager
def spoken():
    """What Ultralytics' logger is told meanwhile."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    LOGGER.addHandler(handler)
    try:
        yield messages
    finally:
        LOGGER.removeHandler(handler)


def rows_of(run):
    """sparsity.csv."""
    with (run / "sparsity.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------------------------
# The same travel for any batches, accumulation, optimizer, epochs, penalty


@pytest.mark.parametrize(
    ("optimizer", "nbs", "epochs"), [("SGD", 4, 2), ("AdamW", 4, 3), ("SGD", 16, 3), ("AdamW", 16, 2), ("SGD", 16, 4)]
)
def test_a_scale_that_nothing_holds_travels_the_strength(tmp_path, data, start, optimizer, nbs, epochs):
    counted = []

    class Counting(Loose):
        def optimizer_step(self) -> None:
            super().optimizer_step()
            counted.append(self.epoch)

    trainer = fit(
        Counting, start, tmp_path, data, epochs=epochs, files=pull(), optimizer=optimizer, nbs=nbs, lr0=1e-3, **QUICK
    )
    # Ultralytics steps after every `accumulate` batches, over the ends of epochs, and leaves the rest un-stepped.
    total, accumulate = BATCHES * epochs, nbs // 4
    steps = total // accumulate
    assert trainer.accumulate == accumulate and trainer.steps == len(counted) == steps, "one pull an optimizer step"
    reached = trainer.travel.at(steps * accumulate / total)
    assert moved(trainer) == pytest.approx([reached] * len(LOOSE), abs=1e-3)
    if total % accumulate == 0:
        assert reached == pytest.approx(0.5)
    else:  # one of nine batches is left over, or two of six; a rate that falls has spent more than their share before
        assert 0.5 * steps * accumulate / total < reached < 0.5


@pytest.mark.parametrize("penalty", ["l1", "group_lasso"])
def test_warmup_pulls_nothing_and_the_rest_makes_up_for_it(tmp_path, data, start, penalty):
    after_epoch = []
    trainer = fit(
        watched(Loose, lambda t: after_epoch.append(moved(t)), "on_train_epoch_end"),
        start,
        tmp_path,
        data,
        epochs=3,
        files=pull(0.3, penalty),
        val=False,
        warmup_epochs=2,
    )
    assert after_epoch[0] == after_epoch[1] == pytest.approx([0] * len(LOOSE), abs=1e-6)
    assert after_epoch[2] == pytest.approx([0.3] * len(LOOSE), abs=1e-3)
    assert [float(r["travel"]) for r in rows_of(tmp_path)] == pytest.approx([0, 0, 0.3])
    assert trainer.travel.at(trainer.stepped_to) == pytest.approx(0.3)


def test_every_removable_scale_is_pulled_and_the_loss_pulls_too(tmp_path, data, start):
    trainer = fit(SparseTrainer, start, tmp_path, data, epochs=2, files=pull(0.8), lr0=0.01, **QUICK)
    state = live(trainer)
    scales = [state[f"{name}.weight"] for name in free_norms(wiring_of(checkpoint.load(start)))]
    assert [scale.mean().item() for scale in scales] == pytest.approx([0.2] * len(scales), abs=0.01)
    assert sum(scale.std().item() > 1e-5 for scale in scales) > len(scales) / 2


def test_strength_beyond_the_scales_ends_at_exactly_zero(tmp_path, data, start):
    trainer = fit(Loose, start, tmp_path, data, epochs=2, files=pull(1.5), **QUICK)
    assert all((live(trainer)[name] == 0).all() for name in LOOSE)


def test_no_strength_is_plain_training(tmp_path, data, start):
    plain = fit(SlimTrainer, start, tmp_path / "plain", data, epochs=1, **QUICK)
    sparse = fit(SparseTrainer, start, tmp_path / "sparse", data, epochs=1, files=pull(0.0), **QUICK)
    assert live(plain).keys() == live(sparse).keys()
    assert all(torch.equal(v, live(sparse)[k]) for k, v in live(plain).items())


def test_frozen_layers_are_not_pulled(tmp_path, data, start):
    """Ultralytics' `freeze` keeps a layer as it is; so does the pull."""
    before = checkpoint.load(start).state_dict()
    trainer = fit(SparseTrainer, start, tmp_path, data, epochs=1, files=pull(), freeze=[0, 1], **QUICK)
    for name in ("model.0.bn.weight", "model.1.bn.weight"):
        assert torch.equal(live(trainer)[name], before[name])
    assert not torch.equal(live(trainer)["model.2.bn.weight"], before["model.2.bn.weight"])


# ---------------------------------------------------------------------------------------------------------------------
# The paper's form


@pytest.mark.parametrize("optimizer", ["AdamW", "auto"])
def test_subgradient_with_an_adaptive_optimizer_is_refused(tmp_path, data, start, optimizer):
    with pytest.raises(SlimError, match=r"needs plain SGD, got AdamW.*optimizer=SGD.*update=proximal"):
        fit(SparseTrainer, start, tmp_path, data, epochs=1, files=pull(update="subgradient"), optimizer=optimizer)
    assert not (tmp_path / "weights" / "last.pt").exists()


def test_subgradient_moves_a_loose_scale_as_far(tmp_path, data, start):
    trainer = fit(
        Loose, start, tmp_path, data, epochs=6, files=pull(update="subgradient"), momentum=0.4, lr0=1e-3, **QUICK
    )
    assert moved(trainer) == pytest.approx([0.5] * len(LOOSE), rel=0.2)
    assert trainer.steps == 6 * BATCHES


# ---------------------------------------------------------------------------------------------------------------------
# Where in a step the pull comes: a trainer's own step, on a network of one convolution


class Step:
    """What SparseTrainer adds to an optimizer, and Ultralytics' own `optimizer_step`, without a training around it."""

    def __init__(self, *, scaled: bool, update: str = "proximal", lr: float = 0.1, momentum: float = 0.0) -> None:
        self.network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1, bias=False))
        self.scale = self.network[1].weight
        bare = object.__new__(SparseTrainer)
        bare.penalty, bare.travel = Penalty(self.network, trace(self.network, 8)), Travel(1.0, lambda e: 1.0, 1, 0)
        bare.progress, bare.stepped_to, bare.steps = 0.0, 0.0, 0
        bare.model, bare.ema, bare.device = self.network, None, torch.device("cpu")
        bare.scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, enabled=scaled)
        bare.optimizer = torch.optim.SGD(self.network.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0)
        if update == "proximal":
            bare.optimizer.register_step_post_hook(bare._shrink)
        else:
            bare.optimizer.register_step_pre_hook(bare._pull_gradients)
        self.trainer = bare

    def take(self, progress: float, gradient: float = 0.0) -> list[float]:
        """One optimizer step with this gradient on every scale; the scales afterwards."""
        self.trainer.progress = progress
        loss = (self.scale * gradient).sum() + sum(0 * p.sum() for p in self.network.parameters())
        self.trainer.scaler.scale(loss).backward()
        BaseTrainer.optimizer_step(self.trainer)
        return self.scale.tolist()


@pytest.mark.parametrize("update", ["proximal", "subgradient"])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_loss_scale_does_not_touch_the_pull(scaled, update):
    """Nine public forks add the penalty before unscaling, where AMP divides it by 65,536."""
    step = Step(scaled=scaled, update=update)
    assert step.take(0.3) == pytest.approx([0.7] * 3, abs=1e-6)
    assert step.take(0.5, gradient=1.0) == pytest.approx([0.4] * 3, abs=1e-6), "0.1 more by the gradient"


@pytest.mark.parametrize("update", ["proximal", "subgradient"])
def test_clipping_does_not_touch_the_pull(update):
    step = Step(scaled=False, update=update)
    # gradients of norm 1000 are clipped to 10 in all, so 10 / sqrt(3) each, and lr is 0.1
    assert step.take(0.2, gradient=-1000 / math.sqrt(3)) == pytest.approx([1 + 1 / math.sqrt(3) - 0.2] * 3, abs=1e-4)


@pytest.mark.parametrize("update", ["proximal", "subgradient"])
def test_a_step_that_amp_skips_pulls_nothing_and_the_next_catches_up(update):
    step = Step(scaled=True, update=update)
    step.take(0.1)
    assert step.take(0.4, gradient=math.inf) == pytest.approx([0.9] * 3, abs=1e-6)
    assert step.trainer.steps == 1 and step.trainer.stepped_to == 0.1
    assert step.take(0.5) == pytest.approx([0.5] * 3, abs=1e-6)
    assert step.trainer.steps == 2


def test_a_fused_optimizer_that_found_infinities_pulls_nothing():
    """Fused AdamW is stepped all the same and does nothing inside: `found_inf` says so."""
    step = Step(scaled=False)
    step.trainer.progress, step.trainer.optimizer.found_inf = 0.3, torch.tensor(1.0)
    step.trainer._shrink(step.trainer.optimizer, (), {})
    assert step.scale.tolist() == [1, 1, 1] and step.trainer.stepped_to == 0 and step.trainer.steps == 0
    step.trainer.optimizer.found_inf = torch.tensor(0.0)
    step.trainer._shrink(step.trainer.optimizer, (), {})
    assert step.scale.tolist() == pytest.approx([0.7] * 3)


def test_subgradient_at_ultralytics_momentum_comes_as_far():
    step = Step(scaled=False, update="subgradient", lr=0.01, momentum=0.937)
    for i in range(200):
        scales = step.take((i + 1) / 200 * 0.9)
    assert scales == pytest.approx([0.1] * 3, abs=0.9 * 0.2)


def test_subgradient_waits_while_the_learning_rate_is_zero():
    step = Step(scaled=False, update="subgradient", lr=0.0)
    assert step.take(0.2) == [1, 1, 1]
    step.trainer.optimizer.param_groups[0]["lr"] = 0.1
    assert step.take(0.3) == pytest.approx([0.7] * 3, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The average, the log, the announcement


def test_the_average_follows_the_live_scales_and_is_not_shrunk_again(tmp_path, data, start):
    path, old = [], 20  # updates so far: a young average would follow at once

    class Following(Loose):
        def _setup_train(self) -> None:
            super()._setup_train()
            self.ema.updates = old

        def optimizer_step(self) -> None:
            super().optimizer_step()
            path.append(live(self)[LOOSE[0]].mean().item())

    trainer = fit(Following, start, tmp_path, data, epochs=2, files=pull(), **QUICK)
    average = 1.0
    for updates, now in enumerate(path, start=old + 1):
        decay = SlimTrainer.decay(updates)
        average = decay * average + (1 - decay) * now
    averaged = trainer.ema.ema.state_dict()[LOOSE[0]].mean().item()
    assert averaged == pytest.approx(average, abs=1e-4)
    assert path[-1] == pytest.approx(0.5, abs=1e-3) and 0.52 < averaged < 0.9


def test_the_log_has_a_row_an_epoch(tmp_path, data, start):
    fit(SparseTrainer, start, tmp_path, data, epochs=3, files=pull(), lr0=1e-3, **QUICK)
    rows = rows_of(tmp_path)
    quantiles = ("q05", "q25", "q50", "q75", "q95")
    assert list(rows[0]) == [
        *("epoch", "travel", "steps"),
        *quantiles,
        *("share_below_1e-2", "flops_if_cut", "params_if_cut"),
    ]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["steps"] for row in rows] == [str(BATCHES * e) for e in (1, 2, 3)]
    # a linear rate from 1 to .01 over three epochs: 1, .67, .34
    assert [float(row["travel"]) for row in rows] == pytest.approx([0.5 * s / 2.01 for s in (1, 1.67, 2.01)], rel=1e-3)
    numbers = [{k: float(v) for k, v in row.items()} for row in rows]
    for row in numbers:
        assert [row[q] for q in quantiles] == sorted(row[q] for q in quantiles)
        assert row["share_below_1e-2"] == 0 and row["flops_if_cut"] == row["params_if_cut"] == 1
    assert [row["q50"] for row in numbers] == pytest.approx([1 - row["travel"] for row in numbers], abs=0.05)


@pytest.mark.parametrize("event", ["on_model_save", "on_train_epoch_end", "on_train_batch_end"])
def test_the_log_has_a_row_an_epoch_after_a_kill_too(tmp_path, data, start, event):
    """Killed after the checkpoint of an epoch, between its row and its checkpoint, and in the middle of it."""
    with pytest.raises(Killed):
        fit(killed_after(Loose, 2, event), start, tmp_path, data, epochs=3, files=pull(), **SAVED)
    trainer = fit(Loose, start, tmp_path, data, epochs=3, resume=True, **SAVED)
    rows = rows_of(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["steps"] for row in rows] == [str(BATCHES * e) for e in (1, 2, 3)], "counted over the whole training"
    assert float(rows[-1]["travel"]) == pytest.approx(0.5)
    assert moved(trainer) == pytest.approx([0.5] * len(LOOSE), abs=1e-3), "no travel lost, none spent twice"


def test_a_resumed_training_catches_up_on_accumulated_batches(tmp_path, data, start):
    """Three batches an epoch, a step every four: at the kill the first epoch has not been pulled for yet."""
    with pytest.raises(Killed):
        fit(killed_after(Loose, 1), start, tmp_path, data, epochs=4, files=pull(), nbs=16, **SAVED)
    trainer = fit(Loose, start, tmp_path, data, epochs=4, resume=True, nbs=16, **SAVED)
    assert moved(trainer) == pytest.approx([0.5] * len(LOOSE), abs=1e-3)


def test_recovery_from_nan_spends_the_travel_once(tmp_path, data, start):
    """Ultralytics goes back to last.pt when a loss is NaN and repeats the epoch."""
    spoiled, path = [], []

    def spoil(trainer):
        if trainer.epoch == 2 and not spoiled and trainer.batches == BATCHES:
            spoiled.append(True)
            trainer.loss = torch.tensor(math.nan)

    class Fragile(Loose):
        def optimizer_step(self) -> None:
            super().optimizer_step()
            path.append((self.epoch, live(self)[LOOSE[0]].mean().item()))

    trainer = fit(watched(Fragile, spoil, "on_train_batch_end"), start, tmp_path, data, epochs=4, files=pull(), **SAVED)
    assert [epoch for epoch, _ in path] == [e for e in (0, 1, 2, 2, 3) for _ in range(BATCHES)]
    assert moved(trainer) == pytest.approx([0.5] * len(LOOSE), abs=1e-3)
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1", "2", "3", "4"]


def test_recovery_from_a_full_memory_never_undoes_a_pull(tmp_path, data, start):
    """Out of memory in the first epoch, Ultralytics halves the batch and begins the epoch again from those weights."""
    path = []

    class Large(Loose):
        def preprocess_batch(self, batch):
            if self.batch_size == 4 and self.batches == 3:
                raise RuntimeError("CUDA out of memory")
            return super().preprocess_batch(batch)

        def optimizer_step(self) -> None:
            super().optimizer_step()
            path.append(live(self)[LOOSE[0]].mean().item())

    trainer = fit(Large, start, tmp_path, data, epochs=2, files=pull(), **QUICK)
    assert trainer.batch_size == 2
    assert path == sorted(path, reverse=True), "a scale never grows back"
    assert moved(trainer) == pytest.approx([0.5] * len(LOOSE), abs=1e-3)


def test_what_it_will_do_is_said_before_the_first_step(tmp_path, data, start):
    with spoken() as events:
        fit(
            watched(SparseTrainer, lambda t: events.append("a batch"), "on_train_batch_start"),
            start,
            tmp_path,
            data,
            epochs=3,
            files=pull(0.4),
            val=False,
            save=False,
            warmup_epochs=1,
        )
    said = [e for e in events[: events.index("a batch")] if "Travel budget" in e]
    assert said == [
        "Travel budget 0.4: nothing holding it, a scale moves 0.4 towards zero over 3 epochs (none in the first 1); "
        "the median |scale| is 1.000, so it can reach to 0.60."
    ]
    assert sum(e.startswith("sparsity: travel") for e in events) == 3
    assert not any("hardly move" in e for e in events)


def test_a_resumed_training_knows_where_its_scales_began(tmp_path, data, start):
    """Most of the travel is spent at the kill: what can be reached, and whether scales move, is told from there."""
    with pytest.raises(Killed):
        fit(killed_after(SparseTrainer, 5), start, tmp_path, data, epochs=6, files=pull(), **SAVED)
    with spoken() as events:
        fit(SparseTrainer, start, tmp_path, data, epochs=6, resume=True, **SAVED)
    (said,) = [e for e in events if "Travel budget" in e]
    assert said.endswith("so it can reach to 0.50.")
    assert not any("hardly move" in e for e in events)


def test_it_says_when_scales_hardly_move(tmp_path):
    """Half of the travel is spent and the median has not moved a tenth of it."""
    bare = object.__new__(SparseTrainer)
    bare.penalty = SimpleNamespace(summary=lambda: dict.fromkeys(ROW, 1.0))
    bare.first, bare.travel, bare.strength = {"q50": 1.0}, Travel(0.5, lambda e: 1.0, 4, 0), 0.5
    bare.steps, bare.log, bare.save_dir = 0, [], tmp_path
    with spoken() as events:
        for epoch, progress in enumerate((0.25, 0.5, 0.75)):
            bare.epoch, bare.progress = epoch, progress
            bare._log()
    (said,) = [e for e in events if "hardly move" in e]
    assert "Raise sparse_train.strength or sparse_train.epochs" in said and said is events[-1]


ROW = ("q05", "q25", "q50", "q75", "q95", "share_below_1e-2", "flops_if_cut", "params_if_cut")


def test_images_of_another_size_cost_otherwise(tmp_path, data, start):
    """FLOPs are counted at the training's own size, rounded to the stride as Ultralytics rounds it."""
    trainer = fit(SparseTrainer, start, tmp_path, data, epochs=1, files=pull(), imgsz=PX - 10, **QUICK)
    assert trainer.penalty.trace.imgsz == (PX, PX)
