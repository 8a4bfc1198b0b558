"""SlimTrainer: the widths it is given are the widths it trains; a killed training goes on from where it was."""

from __future__ import annotations

import os
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
    fit,
    killed_after,
    live,
    saved,
    tiny,
    watched,
    widths,
    write_yaml,
)
from ultralytics import YOLO
from ultralytics.engine import trainer as stock

import yolo_slim
from yolo_slim import SlimError, SlimTrainer, checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    """A slim detector's checkpoint, narrower than its YAML everywhere."""
    folder = tmp_path_factory.mktemp("slim")
    pruned = yolo_slim.prune(tiny(folder), imgsz=PX, ratio=0.4, round_to=1, min_channels=2)
    return saved(pruned.model, folder / "slim.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, slim):
    """Two epochs on the slim detector, as a user types it: (what YOLO holds afterwards, its run folder)."""
    folder = tmp_path_factory.mktemp("trained")
    model = YOLO(slim)
    model.train(trainer=SlimTrainer, data=data, epochs=2, project=str(folder), name="run", **ARGUMENTS)
    return model, folder / "run"


def other_classes(data: str, folder: Path) -> str:
    """The same pictures under a YAML that names one class more."""
    described = yaml.safe_load(Path(data).read_text())
    described |= {"path": str(Path(data).parent), "names": [*described["names"].values(), "hexagon"]}
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump(described))
    return str(path)


# ---------------------------------------------------------------------------------------------------------------------
# Slim stays slim


def test_widths_survive_training(trained, slim):
    model, run = trained
    before = widths(checkpoint.load(slim))
    assert before != widths(tiny(run)), "the cut has made it narrower than its YAML"
    assert widths(model.model) == widths(model.trainer.model) == before
    for name in ("best.pt", "last.pt"):
        assert widths(checkpoint.load(run / "weights" / name)) == before, name
        assert widths(YOLO(run / "weights" / name).model) == before, name


def test_training_trains(trained, slim):
    """A checkpoint's parameters are frozen as stored: they must not stay so."""
    _, run = trained
    before = dict(checkpoint.load(slim).named_parameters())
    ckpt = checkpoint.read(run / "weights" / "last.pt")
    still = [name for name, p in before.items() if torch.equal(ckpt["live"][name], p)]
    assert "model.13.dfl.conv.weight" in still, "Ultralytics never trains it"
    assert not [name for name in still if not name.startswith("model.13.")], "levels of Detect may lack an object"


def test_what_was_trained_is_still_marked_slim(trained):
    _, run = trained
    assert checkpoint.is_slim(checkpoint.load(run / "weights" / "best.pt"))


def test_stock_ultralytics_validates_and_predicts_it(trained, data):
    _, run = trained
    stock_model = YOLO(run / "weights" / "best.pt")
    metrics = stock_model.val(data=data, imgsz=PX, plots=False, project=str(run), name="val", verbose=False)
    assert 0 <= metrics.box.map <= 1
    (result,) = stock_model.predict(torch.rand(1, 3, PX, PX), imgsz=PX, verbose=False)
    assert result.boxes.data.shape[1] == 6


def test_best_is_stripped_and_last_can_be_resumed(trained):
    _, run = trained
    best, last = (checkpoint.read(run / "weights" / name) for name in ("best.pt", "last.pt"))
    assert best["optimizer"] is None and best["epoch"] == -1 and "live" not in best
    assert last["optimizer"] is not None and last["epoch"] == 1
    assert sorted(p.name for p in (run / "weights").iterdir()) == ["best.pt", "last.pt"]


def test_mixed_precision_on_a_cpu(tmp_path, data, slim):
    """amp=bf16: convolutions in bfloat16, losses as in fp32 to its accuracy, checkpoints as ever; after a kill too."""
    seen = set()

    def look(trainer):
        trainer.model.model[0].conv.register_forward_hook(lambda m, x, out: seen.add((m.training, out.dtype)))

    for name, precision in (("full", True), ("mixed", "bf16")):
        with pytest.raises(Killed):
            fit(killed_after(SlimTrainer, 1), slim, tmp_path / name, data, amp=precision)
    resumed = watched(SlimTrainer, look, "on_train_start")
    fit(SlimTrainer, slim, tmp_path / "full", data, resume=True)
    fit(resumed, slim, tmp_path / "mixed", data, resume=True)
    assert (True, torch.bfloat16) in seen
    full, mixed = (losses(tmp_path / name / "results.csv") for name in ("full", "mixed"))
    assert full.shape == mixed.shape == (2, 3)
    assert mixed == pytest.approx(full, rel=0.05)
    ckpt = checkpoint.read(tmp_path / "mixed" / "weights" / "last.pt")
    tensors = [*ckpt["live"].values(), *ckpt["ema"].state_dict().values()]
    assert all(t.is_contiguous() and t.dtype != torch.bfloat16 for t in tensors)


def losses(results: Path) -> np.ndarray:
    """(epochs, 3): the training losses in results.csv."""
    head, *rows = [line.split(",") for line in results.read_text().splitlines()]
    at = [i for i, name in enumerate(head) if name.strip().startswith("train/")]
    return np.array([[float(row[i]) for i in at] for row in rows])


def test_a_resumed_training_stays_slim(tmp_path, data, slim):
    with pytest.raises(Killed):
        fit(killed_after(SlimTrainer, 1), slim, tmp_path, data)
    trainer = fit(SlimTrainer, slim, tmp_path, data, resume=True)
    assert trainer.start_epoch == 1
    assert widths(trainer.model) == widths(checkpoint.load(tmp_path / "weights" / "best.pt"))
    assert widths(trainer.model) == widths(checkpoint.load(slim))


def test_a_user_resumes_through_yolo(tmp_path, data, slim):
    with pytest.raises(Killed):
        fit(killed_after(SlimTrainer, 1), slim, tmp_path, data)
    model = YOLO(tmp_path / "weights" / "last.pt")
    model.train(trainer=SlimTrainer, resume=True)
    assert model.trainer.start_epoch == 1 and model.trainer.epoch == 1
    assert widths(model.model) == widths(checkpoint.load(slim))


def test_an_untrained_detector_is_built_from_its_yaml(tmp_path, data):
    path = write_yaml(tmp_path, Path(write_yaml(tmp_path)).read_text().replace(f"nc: {CLASSES}", "nc: 80"))
    trainer = fit(SlimTrainer, path, tmp_path / "run", data, epochs=1, val=False)
    assert trainer.model.model[-1].nc == CLASSES, "the data set's classes, as Ultralytics does it"


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


def test_another_number_of_classes_is_refused(tmp_path, data, slim):
    other = other_classes(data, tmp_path)
    expected = rf"detects {CLASSES} classes, but .*other\.yaml names {CLASSES + 1}"
    with pytest.raises(SlimError, match=expected):
        fit(SlimTrainer, slim, tmp_path / "a", other)
    with pytest.raises(SlimError, match=expected):
        YOLO(slim).train(trainer=SlimTrainer, data=other, epochs=1, project=str(tmp_path), name="b", **ARGUMENTS)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_slim_detector_cannot_start_untrained(tmp_path, data, slim):
    """pretrained=False asks for the widths of the YAML, which the cut has changed."""
    with pytest.raises(SlimError, match="slim detector cannot be rebuilt from its YAML"):
        YOLO(slim).train(
            trainer=SlimTrainer, data=data, epochs=1, pretrained=False, project=str(tmp_path), name="a", **ARGUMENTS
        )
    with pytest.raises(SlimError, match="slim detector cannot be rebuilt from its YAML"):
        fit(SlimTrainer, slim, tmp_path / "b", data, epochs=1, pretrained=False)


def test_the_stock_trainer_stops_instead_of_regrowing_it(tmp_path, data, slim):
    with pytest.raises(Exception, match="this detector is slim"):
        YOLO(slim).train(data=data, epochs=1, project=str(tmp_path), name="a", **ARGUMENTS)


def test_a_data_set_that_is_not_there_is_refused(tmp_path, slim):
    with pytest.raises(SlimError, match=r"^cannot use the data set nowhere\.yaml: it does not exist$"):
        fit(SlimTrainer, slim, tmp_path, "nowhere.yaml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"lr0": "much"}, "lr0"),
        ({"device": "cuda:77"}, "CUDA"),
    ],
)
def test_what_ultralytics_refuses_is_said_as_a_slim_error(tmp_path, data, slim, arguments, said):
    with pytest.raises(SlimError, match=rf"Ultralytics cannot start this training[\s\S]*{said}"):
        fit(SlimTrainer, slim, tmp_path, **{"data": data, **arguments})


def test_the_amp_check_never_runs(tmp_path, data, slim, monkeypatch):
    """It would download a detector to compare with; offline it must not fail, nor be asked."""

    def never(model: nn.Module) -> bool:
        raise AssertionError("check_amp was called")

    monkeypatch.setattr(stock, "check_amp", never)
    trainer = fit(SlimTrainer, slim, tmp_path, data, epochs=1, val=False, amp=True)
    assert trainer.epoch == 0 and trainer.amp is False
    assert stock.check_amp is never, "the stock trainer has its check back"


# ---------------------------------------------------------------------------------------------------------------------
# A killed training


def test_resume_goes_on_from_the_live_weights(tmp_path, data, slim):
    """Bit by bit, and not from the fp16 average, from which the stock trainer goes on."""
    at_kill, at_start = {}, {}

    def note(trainer):
        if trainer.epoch == 1:
            at_kill.update(live=live(trainer), ema=trainer.ema.ema.state_dict(), updates=trainer.ema.updates)

    def found(trainer):
        at_start.update(live=live(trainer), ema=trainer.ema.ema.state_dict(), updates=trainer.ema.updates)
        at_start.update(epoch=trainer.start_epoch, momenta=len(trainer.optimizer.state))

    with pytest.raises(Killed):
        fit(watched(killed_after(SlimTrainer, 2), note, "on_train_epoch_end"), slim, tmp_path, data, epochs=3)
    average = checkpoint.load(tmp_path / "weights" / "last.pt").state_dict()
    fit(watched(SlimTrainer, found, "on_train_start"), slim, tmp_path, data, epochs=3, resume=True, val=False)
    assert at_start["epoch"] == 2 and at_start["updates"] == at_kill["updates"] == 6
    assert at_start["momenta"] > 0, "the optimizer's state is back too"
    assert at_start["live"].keys() == at_kill["live"].keys()
    assert all(torch.equal(v, at_kill["live"][k]) for k, v in at_start["live"].items())
    assert any(not torch.equal(v, average[k]) for k, v in at_start["live"].items())
    # The average is stored in fp16
    assert all(torch.allclose(v.float(), at_kill["ema"][k].float(), rtol=1e-3, atol=1e-3) for k, v in average.items())


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        pytest.param(1, 0.0, id="the first update forgets what training began from"),
        pytest.param(2, 1 - 4 / 5, id="by hand"),
        pytest.param(37, 0.9, id="by hand, later"),
        pytest.param(10**6, 0.9999, id="Ultralytics' bound"),
    ],
)
def test_decay_of_the_average(updates, expected):
    assert SlimTrainer.decay(updates) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [40, 400])
def test_two_thirds_of_the_average_come_from_the_last_quarter(steps):
    """However long the training is."""
    share = np.zeros(steps)
    for step in range(steps):
        share *= SlimTrainer.decay(step + 1)
        share[step] = 1 - share.sum()
    assert share.sum() == pytest.approx(1) and share[-steps // 4 :].sum() == pytest.approx(1 - 0.75**4, abs=0.02)


def test_the_average_is_that_of_the_weights_there_have_been(tmp_path, data, slim):
    path, updates, name = [], [], "model.0.conv.weight"

    class Noted(SlimTrainer):
        def optimizer_step(self) -> None:
            super().optimizer_step()
            path.append(live(self)[name].clone())
            updates.append(self.ema.updates)

    with pytest.raises(Killed):
        fit(killed_after(Noted, 1), slim, tmp_path, data, epochs=2, val=False)
    before = len(path)
    trainer = fit(Noted, slim, tmp_path, data, epochs=2, resume=True, val=False)
    assert 1 < before < len(path) and updates == list(range(1, len(path) + 1))
    average = torch.zeros(())
    for n, now in enumerate(path, start=1):
        average = SlimTrainer.decay(n) * average + (1 - SlimTrainer.decay(n)) * now
    # stored in fp16 at the kill
    assert torch.allclose(trainer.ema.ema.state_dict()[name], average, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(path[-1], average, rtol=1e-3, atol=1e-3)


def test_the_average_after_a_resume_is_the_stored_one_not_the_live_one(tmp_path, data, slim):
    average = {}
    with pytest.raises(Killed):
        fit(killed_after(SlimTrainer, 1), slim, tmp_path, data, val=False)
    stored = checkpoint.load(tmp_path / "weights" / "last.pt").state_dict()

    def found(trainer):
        average.update({k: v.clone() for k, v in trainer.ema.ema.state_dict().items()})

    fit(watched(SlimTrainer, found, "on_train_start"), slim, tmp_path, data, resume=True, val=False)
    assert all(torch.equal(average[k].float(), v) for k, v in stored.items())


class FullDisk:
    """torch.save that writes half of a file, or nothing, and fails, from its `first`th call on."""

    def __init__(self, error: BaseException, first: int) -> None:
        self.error, self.first, self.calls, self.real = error, first, 0, torch.save

    def __call__(self, content: object, file: object, *args: object, **kwargs: object) -> None:
        self.calls += 1
        if self.calls < self.first:
            return self.real(content, file, *args, **kwargs)
        if hasattr(file, "write"):
            file.write(b"half a checkpoint")
        raise self.error


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter"), Killed()]
)
@pytest.mark.parametrize("call", [1, 2], ids=["ultralytics' own save", "ours"])
def test_a_save_that_fails_leaves_the_last_epoch(tmp_path, data, slim, monkeypatch, error, call):
    contents = {}
    disk = FullDisk(error, first=call)

    def fill(trainer):
        if trainer.epoch == 1:
            contents.update({p.name: p.read_bytes() for p in trainer.wdir.iterdir()})
            monkeypatch.setattr(torch, "save", disk)

    with pytest.raises(Killed if isinstance(error, Killed) else (SlimError, OSError, RuntimeError)):
        fit(watched(SlimTrainer, fill, "on_train_epoch_end"), slim, tmp_path, data, val=False)
    monkeypatch.undo()
    assert disk.calls == call
    assert {p.name: p.read_bytes() for p in (tmp_path / "weights").iterdir()} == contents
    assert sorted(contents) == ["best.pt", "last.pt"]
    if isinstance(error, Killed):
        assert fit(SlimTrainer, slim, tmp_path, data, resume=True, val=False).start_epoch == 1


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_a_last_epoch_is_never_without_its_best(tmp_path, data, slim, monkeypatch, which):
    """A kill between two renames must not leave a training that is complete but has no best.pt."""
    renamed = []

    def killing(replace):
        def wrapper(source, target):
            replace(source, target)
            if str(target).endswith(".pt"):
                renamed.append(Path(target).name)
            if len(renamed) == which:
                raise Killed

        return wrapper

    monkeypatch.setattr(os, "replace", killing(os.replace))
    monkeypatch.setattr(Path, "replace", lambda source, target: os.replace(source, target))
    with pytest.raises(Killed):
        fit(SlimTrainer, slim, tmp_path, data, epochs=1, val=False)
    there = sorted(p.name for p in (tmp_path / "weights").iterdir() if not p.name.startswith("."))
    assert len(renamed) == which and there in ([], ["best.pt"], ["best.pt", "last.pt"])
    for name in there:
        checkpoint.load(tmp_path / "weights" / name)


def test_what_a_kill_left_half_written_is_never_taken_for_the_best(tmp_path, data, slim, monkeypatch):
    """SIGKILL leaves temporary files behind; a later epoch that is not the best must not promote them."""
    temporary = []
    save_model = stock.BaseTrainer.save_model

    def noting(self):
        temporary.append(self.best)
        return save_model(self)

    monkeypatch.setattr(stock.BaseTrainer, "save_model", noting)

    class Worse(SlimTrainer):
        def validate(self):
            metrics, _ = super().validate()
            fitness = 1.0 - self.epoch  # the first epoch is the best
            self.best_fitness = 1.0
            return metrics, fitness

        def _leave_litter(self):
            if self.epoch == 1:
                temporary[0].write_bytes(b"half a checkpoint")

    fit(watched(Worse, Worse._leave_litter, "on_train_epoch_end"), slim, tmp_path, data, epochs=2)
    assert len(temporary) == 2
    assert widths(checkpoint.load(tmp_path / "weights" / "best.pt")) == widths(checkpoint.load(slim))


def test_nan_recovery_goes_back_to_the_live_weights_of_the_last_epoch(tmp_path, data, slim):
    """Ultralytics reads last.pt when a loss is NaN; like a resume, this goes on from the live weights."""
    at_end, again = {}, {}

    def spoil(trainer):
        if trainer.epoch == 0:
            at_end.update(live(trainer))
        elif not again:
            trainer.loss = torch.tensor(float("nan"))

    def restart(trainer):
        if trainer.epoch == 1:
            again.update(live(trainer))

    class Restarting(SlimTrainer):
        def _handle_nan_recovery(self, epoch):
            recovered = super()._handle_nan_recovery(epoch)
            if recovered:
                restart(self)
            return recovered

    trainer = fit(watched(Restarting, spoil, "on_train_epoch_end"), slim, tmp_path, data, epochs=2, val=False)
    assert trainer.epoch == 1 and again
    assert all(torch.equal(v, at_end[k]) for k, v in again.items())
