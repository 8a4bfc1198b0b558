"""Soft filter pruning: what is zeroed is trained on, comes back if training brings it back, and is zero at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_sparse import QUICK, SAVED
from torch import nn
from training_helpers import Killed, draw_shapes, fit, killed_after, live, saved, tiny, watched

from yolo_slim import checkpoint
from yolo_slim.channels import Constraints, Plan, select, trace
from yolo_slim.importance import score
from yolo_slim.training.regularized import SETTINGS
from yolo_slim.training.soft import SoftTrainer, zero_filters

FILES = {SETTINGS: {"every": 1}}


class Least:
    """Chooses the least third of every group, by L2."""

    def __init__(self, folder, detector, wiring):
        self.wiring = wiring

    def choose(self, detector, gone=None):
        return select(
            self.wiring, score(detector, self.wiring, "l2"), Constraints(scope="layer", ratio=1 / 3, round_to=1)
        )


class Soft(SoftTrainer):
    chooser_type = Least


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return saved(tiny(folder), folder / "start.pt")


@pytest.mark.parametrize(
    ("gradient", "norm", "next_to_go"),
    [pytest.param(-5, 0.5, 0, id="still the least"), pytest.param(-50, 5, 1, id="back: the next one goes instead")],
)
def test_a_zeroed_filter_is_trained_on(gradient, norm, next_to_go):
    """Filters of norm 1, 2, 3; a third is zeroed; SGD at .1 moves it."""
    network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.SiLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1))
    wiring = trace(network, 8)

    def least():
        scores = score(network, wiring, "l2", normalize="none")
        return select(
            wiring, scores, Constraints(scope="layer", ratio=1 / 3, min_channels=1, min_keep=0, round_to=1)
        ).kept

    assert zero_filters(network, wiring, least()) == 1
    assert network[0].weight.flatten().tolist() == [0, 2, 3]
    (0.0 * network[0].weight.sum() + gradient * network[0].weight[0].sum()).backward()
    torch.optim.SGD([network[0].weight], lr=0.1).step()
    assert network[0].weight.flatten().tolist() == pytest.approx([norm, 2, 3])
    kept = Plan({"0": [i for i in range(3) if i != next_to_go]}).kept(wiring)
    assert np.array_equal(least(), kept)


def zeroed(state, wiring, kept):
    """Share of the filters of channels to go that are zero."""
    rows = [
        state[f"{c.name}.weight"][i].abs().sum() == 0
        for c in wiring.convs.values()
        for i, channel in enumerate(c.outputs)
        if channel >= 0 and not kept[channel]
    ]
    return np.mean([bool(r) for r in rows])


def test_zero_after_each_epoch_and_trained_between(tmp_path, data, start):
    after_epoch, within = [], []

    def look(trainer):
        after_epoch.append((trainer.kept.copy(), zeroed(live(trainer), trainer.wiring, trainer.kept)))

    class Watching(Soft):
        def optimizer_step(self):
            super().optimizer_step()
            if self.kept is not None:
                within.append(zeroed(live(self), self.wiring, self.kept))

    trainer = fit(watched(Watching, look, "on_train_epoch_end"), start, tmp_path, data, epochs=3, files=FILES, **QUICK)
    assert [share for _, share in after_epoch] == [1, 1, 1]
    assert max(within) < 0.2, "no gradient is masked"
    assert 0.2 < (~trainer.kept).mean() < 0.4
    average = trainer.ema.ema.state_dict()
    assert zeroed(average, trainer.wiring, trainer.kept) == 0, "the average is let alone"
    scales = checkpoint.load(start).state_dict()
    assert any(not torch.equal(v, scales[k]) for k, v in live(trainer).items() if k.endswith("bn.weight"))


@pytest.mark.parametrize(("every", "times"), [(1, 4), (2, 2), (3, 2), (9, 1)])
def test_every_so_many_epochs_and_at_the_end(tmp_path, data, start, every, times):
    chosen, after = [], []

    class Counted(Least):
        def choose(self, detector, gone=None):
            chosen.append(1)
            return super().choose(detector, gone)

    class Counting(Soft):
        chooser_type = Counted

        def begin(self):
            super().begin()
            self.add_callback("on_train_epoch_end", lambda trainer: after.append(len(chosen)))

    files = {SETTINGS: {"every": every}}
    trainer = fit(Counting, start, tmp_path, data, epochs=4, files=files, **QUICK)
    assert len(chosen) == times and after[-1] == after[-2] + 1, "the last time after the last epoch"
    assert zeroed(live(trainer), trainer.wiring, trainer.kept) == 1


def test_a_resumed_training_ends_with_the_same_plan(tmp_path, data, start):
    whole = fit(Soft, start, tmp_path / "whole", data, epochs=3, files=FILES, **SAVED)
    with pytest.raises(Killed):
        fit(killed_after(Soft, 2), start, tmp_path / "killed", data, epochs=3, files=FILES, **SAVED)
    again = fit(Soft, start, tmp_path / "killed", data, epochs=3, resume=True, **SAVED)
    assert again.steps == whole.steps
    assert (again.kept != whole.kept).mean() < 0.02, "up to the fp16 of Ultralytics' stored momentum"
    ckpt = checkpoint.read(tmp_path / "killed" / "weights" / "last.pt")
    assert np.array_equal(ckpt["kept"].numpy(), again.kept)
    assert zeroed(ckpt["live"], again.wiring, again.kept) == 1
