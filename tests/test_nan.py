"""Numbers that are none: an epoch is done again, or training ends in one message; no file ever holds them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import PX, refused, run
from training_helpers import BATCHES, draw_shapes, fit, live, saved, tiny, watched
from ultralytics.utils.torch_utils import unwrap_model

from yolo_slim import checkpoint
from yolo_slim.errors import SlimError
from yolo_slim.training.finite import HALF, unsound
from yolo_slim.training.recovery import TRIES
from yolo_slim.training.trainer import SlimTrainer

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return saved(tiny(folder), folder / "tiny.pt")


def gradient(trainer, value):
    next(trainer.model.parameters()).grad[0] = value


@torch.no_grad()
def scale(trainer, value):
    trainer.model.model[0].bn.weight[0] = value


@torch.no_grad()
def statistics(trainer, value):
    """No loss in training depends on them."""
    trainer.model.model[0].bn.running_mean[0] = value


@torch.no_grad()
def average(trainer, value):
    next(trainer.ema.ema.parameters())[0] = value


def momentum(trainer, value):
    next(iter(trainer.optimizer.state.values()))["momentum_buffer"][0] = value


def poisoned(poison, value=NAN, *, steps=(1,), before=False) -> type[SlimTrainer]:
    """A trainer into which `poison` puts `value` after (or before) these steps, counted from 1 over all tries."""

    class Poisoned(SlimTrainer):
        taken = 0

        def optimizer_step(self) -> None:
            self.taken += 1
            if before and self.taken in steps:
                poison(self, value)
            super().optimizer_step()
            if not before and self.taken in steps:
                poison(self, value)

    return Poisoned


def whole(run: Path) -> dict:
    """last.pt, where both files hold numbers only."""
    ckpts = [checkpoint.read(run / "weights" / name) for name in ("best.pt", "last.pt")]
    assert [unsound(ckpt) for ckpt in ckpts] == [None, None]
    return ckpts[1]


@pytest.mark.parametrize(("value", "step"), [(NAN, 1), (INF, BATCHES)], ids=["at once", "with its last step"])
@pytest.mark.parametrize(
    ("poison", "before"),
    [
        pytest.param(gradient, True, id="a gradient"),
        pytest.param(scale, False, id="a scale"),
        pytest.param(statistics, False, id="statistics"),
        pytest.param(average, False, id="the average"),
        pytest.param(momentum, False, id="momentum"),
    ],
)
def test_one_in_the_first_epoch(tmp_path, data, model, poison, before, value, step):
    """Also in its last step, after which no loss is looked at."""
    trainer = fit(poisoned(poison, value, steps=[step], before=before), model, tmp_path, data, epochs=1, val=False)
    assert whole(tmp_path)["epoch"] == 0 and trainer.taken > BATCHES, "the epoch was done again"


def test_one_later_goes_back_to_the_epoch_before(tmp_path, data, model):
    ends, again = [], []

    class Noted(poisoned(scale, steps=[BATCHES + 2])):
        def save_model(self) -> bool:
            ends.append((live(self), self.ema.updates, [v.clone() for v in self.ema.ema.state_dict().values()]))
            return super().save_model()

        def _handle_nan_recovery(self, epoch: int) -> bool:
            recovered = super()._handle_nan_recovery(epoch)
            if recovered:
                again.append((live(self), self.ema.updates, [v.clone() for v in self.ema.ema.state_dict().values()]))
            return recovered

    fit(Noted, model, tmp_path, data, epochs=2, val=False)
    ((weights, updates, averages),) = again
    assert updates == ends[0][1] == BATCHES
    assert all(torch.equal(v, ends[0][0][k]) for k, v in weights.items())
    assert all(torch.equal(a, b) for a, b in zip(averages, ends[0][2], strict=True)), "not through fp16"
    assert whole(tmp_path)["epoch"] == 1


def test_the_first_epoch_begins_again_from_the_start(tmp_path, data, model):
    starts = []

    def note(trainer):
        starts.append((live(trainer), trainer.ema.updates, len(trainer.optimizer.state)))

    trainer = watched(poisoned(gradient, before=True), note, "on_train_epoch_start")
    fit(trainer, model, tmp_path, data, epochs=1, val=False)
    first, second = starts
    assert first[1:] == second[1:] == (0, 0)
    assert all(torch.equal(v, second[0][k]) for k, v in first[0].items())


def test_nothing_comes_of_an_epoch_once_the_weights_are_gone(tmp_path, data, model):
    """It is not trained to its end: the second batch shows it, and validation is left out."""
    trainer = fit(poisoned(gradient, before=True), model, tmp_path, data, epochs=1)
    assert trainer.taken == 2 + BATCHES


def test_each_time_it_ends_in_one_message(tmp_path, data, model):
    good = tmp_path / "weights" / "last.pt"
    with pytest.raises(SlimError, match=rf"epoch 2 of 3, {TRIES + 1} times in a row: the loss is not finite") as told:
        fit(poisoned(scale, steps=range(BATCHES + 1, 100)), model, tmp_path, data, epochs=3, val=False)
    for word in ("lr0=0.01", "amp", "labels", str(good), "after epoch 1", "box_loss"):
        assert word in str(told.value)
    assert whole(tmp_path)["epoch"] == 0
    trainer = fit(SlimTrainer, model, tmp_path, data, epochs=3, val=False, resume=True)  # the cause is gone
    assert trainer.start_epoch == 1 and whole(tmp_path)["epoch"] == 2


def test_it_counts_tries_in_a_row(tmp_path, data, model):
    """Four epochs, each broken once, are no training that breaks down."""
    steps = [1, 1 + (2 + BATCHES), 1 + 2 * (2 + BATCHES), 1 + 3 * (2 + BATCHES)]
    assert len(steps) > TRIES
    fit(poisoned(gradient, steps=steps, before=True), model, tmp_path, data, epochs=4, val=False)
    assert whole(tmp_path)["epoch"] == 3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        pytest.param({"box": NAN}, "box_loss", id="a gain that is no number"),
        pytest.param({"cls": INF}, "cls_loss", id="an infinite one"),
        pytest.param({"box": 1e39}, "box_loss", id="one that overflows"),
    ],
)
def test_a_loss_that_is_none_all_along(tmp_path, data, model, arguments, part):
    with pytest.raises(SlimError, match=rf"epoch 1 of 1, {TRIES + 1} times in a row: the loss is not finite \({part}"):
        fit(SlimTrainer, model, tmp_path, data, epochs=1, **arguments)
    assert list((tmp_path / "weights").iterdir()) == []


def test_weights_beyond_what_a_file_can_hold(tmp_path, data, model):
    """fp16 would clamp them in silence: another detector than the one that was trained."""
    with pytest.raises(SlimError, match=r"live\.model\.0\.bn\.weight is not finite, or too large for a checkpoint"):
        fit(poisoned(scale, 2 * HALF, steps=range(100)), model, tmp_path, data, epochs=1, val=False)
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_start_that_is_not_whole(tmp_path, data, model):
    class Broken(SlimTrainer):
        def setup_model(self):
            ckpt = super().setup_model()
            with torch.no_grad():
                self.model.model[1].conv.weight[0] = NAN
            return ckpt

    with pytest.raises(SlimError, match=r"live\.model\.1\.conv\.weight .*cannot start"):
        fit(Broken, model, tmp_path, data, epochs=1)
    assert list((tmp_path / "weights").iterdir()) == []


def test_mixed_precision_that_skips_a_step_goes_on(tmp_path, data, model):
    """A loss may overflow in a batch for which AMP takes no step: the weights are whole, and so is the epoch."""

    class Skipping(SlimTrainer):
        taken = 0

        def optimizer_step(self) -> None:
            self.taken += 1
            if self.taken == 1:
                self.loss, self.optimizer_skips = self.loss * INF, self.optimizer.zero_grad()
                return
            super().optimizer_step()

    trainer = fit(Skipping, model, tmp_path, data, epochs=1, val=False)
    assert trainer.taken == BATCHES and whole(tmp_path)["epoch"] == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param({"live": {"a": torch.ones(2)}}, None, id="numbers"),
        pytest.param({"live": {"a": torch.tensor([1, NAN])}}, "live.a", id="none"),
        pytest.param({"ema": {"a": torch.tensor([-INF])}}, "ema.a", id="infinite"),
        pytest.param({"ema": {"a": torch.zeros(0), "b": torch.tensor(3)}}, None, id="empty, whole numbers"),
        pytest.param({"live": {"bn.weight": torch.tensor(-1e5)}}, "live.bn.weight", id="too large for fp16"),
        pytest.param({"live": {"bn.running_var": torch.tensor(1e5)}}, None, id="a variance that is clamped"),
        pytest.param({"live": {"bn.running_var": torch.tensor(INF)}}, "live.bn.running_var", id="an infinite one"),
        pytest.param(
            {"optimizer": {"state": {0: {"exp_avg_sq": torch.tensor(1e6)}}}}, None, id="moments are stored in fp32"
        ),
        pytest.param(
            {"optimizer": {"state": {0: {"momentum_buffer": torch.tensor([NAN])}}}},
            "optimizer.state.0.momentum_buffer",
            id="momentum",
        ),
        pytest.param({"distill": {"adapter": torch.tensor(NAN)}}, "distill.adapter", id="what losses learn"),
        pytest.param({"start": torch.tensor([INF])}, None, id="when a channel leaves that stays"),
    ],
)
def test_what_a_checkpoint_can_hold(content, expected):
    assert unsound(content) == expected


def test_a_stage_records_nothing(tmp_path, data, model, monkeypatch):
    """Exit code 2, one message, no record; then, the cause gone, the same command comes to the end."""
    words = ["sparse-train", f"model={model}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path}", "prune.ratio=0.3"]
    words += ["sparse_train.mode=uniform", "sparse_train.epochs=2", "sparse_train.train={batch: 4, nbs: 4}"]
    step = SlimTrainer.optimizer_step

    def spoilt(self) -> None:
        gradient(self, NAN if self.epoch else 0.0)
        step(self)

    monkeypatch.setattr(SlimTrainer, "optimizer_step", spoilt)
    refused(run(*words), "training broke down in epoch 2 of 2", "run the same command again")
    assert not (tmp_path / "slim" / "sparse" / "stage.json").exists()
    monkeypatch.undo()
    answer = run(*words)
    assert answer.code == 0 and "going on after epoch 1 of 2" in answer.out
    detector = checkpoint.load(tmp_path / "slim" / "sparse" / "sparse.pt")
    assert all(math.isfinite(v.abs().sum()) for v in unwrap_model(detector).state_dict().values())
