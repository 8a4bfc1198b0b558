"""Gradual pruning on real, tiny trainings: exactly zero on time, in the detector and its average, and held there."""

from __future__ import annotations

import copy
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_sparse import QUICK, SAVED, Step, rows_of
from training_helpers import PX, draw_shapes, fit, live, saved, tiny, watched
from ultralytics.utils.torch_utils import unwrap_model

from yolo_slim import checkpoint
from yolo_slim.channels import Constraints, Plan, cut, relative_difference, select, silent, trace, widened
from yolo_slim.errors import SlimError
from yolo_slim.importance import score
from yolo_slim.training.landing import MADE_UP, Drift, Fader, Landing
from yolo_slim.training.regularized import SETTINGS
from yolo_slim.training.targeted import TargetedTrainer


class Least:
    """Chooses the least half of every group, by L1; those that have gone go first."""

    def __init__(self, folder, detector, wiring):
        self.wiring, self.detector = wiring, copy.deepcopy(detector).cpu().float().eval()

    def planned(self):
        found = self.choose(self.detector)
        return Plan.of(self.wiring, found.kept, found.scores)

    def choose(self, detector, gone=None):
        scores = score(detector, self.wiring, "l1")
        if gone is not None:
            scores = {g.name: np.where(gone[g.channels], -1, scores[g.name]) for g in self.wiring.groups}
        found = select(self.wiring, scores, Constraints(scope="layer", ratio=0.5, round_to=1, min_channels=1))
        object.__setattr__(found, "scores", scores)
        return found

    def made_up(self, detector, kept):
        return {}


class Growing(Least):
    """What stays makes up for what goes: here, by growing by half."""

    gain = 0.5

    def made_up(self, detector, kept):
        slim = cut(detector, self.wiring, kept)
        with torch.no_grad():
            for p in slim.parameters():
                p *= 1 + self.gain
        now = dict(detector.named_parameters())
        return {n: (p - now[n]).detach() for n, p in widened(slim, detector, self.wiring, kept).named_parameters()}


class ByChance(Least):
    """Judges by chance, another one each time."""

    def choose(self, detector, gone=None):
        seed = 0 if gone is None else int(gone.sum())
        with torch.no_grad():
            for p in detector.parameters():
                p.copy_(torch.rand(p.shape, generator=torch.Generator().manual_seed(seed)))
        return super().choose(detector, gone)


class Targeted(TargetedTrainer):
    chooser_type = Least


class Drifting(TargetedTrainer):
    chooser_type = Growing


class Restless(TargetedTrainer):
    chooser_type = ByChance


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Untrained, with shifts that are not zero."""
    folder = tmp_path_factory.mktemp("start")
    net = tiny(folder)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.bias.uniform_(-0.5, 0.5)
    return saved(net, folder / "start.pt")


def files(landing=0.5, rechoose=0):
    return {SETTINGS: {"landing": landing, "rechoose": rechoose}}


def quiet(trainer):
    """Whether all that is to go is exactly zero, in the detector and in its average."""
    kept = trainer.landing.kept
    return [silent(m, trainer.wiring, kept) for m in (unwrap_model(trainer.model), trainer.ema.ema)]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_it_lands_on_time_and_stays_down(tmp_path, data, start, optimizer):
    seen = []
    trainer = fit(
        watched(Targeted, lambda t: seen.append((t.landing.landed, *quiet(t))), "on_train_batch_start"),
        start,
        tmp_path,
        data,
        epochs=4,
        files=files(),
        optimizer=optimizer,
        weight_decay=0.05,
        **QUICK,
    )
    shares = [share for share, *_ in seen]
    assert shares == sorted(shares) and shares[0] == 0 and 0 < shares[4] < 1
    assert [share == 1 for share in shares] == [False] * 6 + [True] * 6, "half of twelve batches"
    assert all(live and average for share, live, average in seen if share == 1), "against momentum and decay"
    assert quiet(trainer) == [True, True]
    assert [float(row["landed"]) for row in rows_of(tmp_path)][1:] == [1, 1, 1]
    assert trainer.steps == 12


def test_the_cut_loses_nothing(tmp_path, data, start):
    trainer = fit(Targeted, start, tmp_path, data, epochs=2, files=files(), **SAVED)
    ckpt = checkpoint.read(tmp_path / "weights" / "last.pt")
    kept = ckpt["kept"].numpy()
    assert np.array_equal(kept, trainer.landing.kept)
    image = torch.rand(2, 3, PX, PX)
    average = checkpoint.detector_of(ckpt, "last.pt")
    landed = checkpoint.detector_of(checkpoint.read(tmp_path / "weights" / "last.pt"), "last.pt")
    landed.load_state_dict(ckpt["live"])
    for detector in (landed, average):
        assert relative_difference(detector, cut(detector, trainer.wiring, kept), image) < 1e-5
    before = checkpoint.load(start)
    assert relative_difference(before, cut(before, trainer.wiring, kept), image) > 1e-3


def test_those_that_stay_are_not_touched_by_it(tmp_path, data, start):
    """No learning rate, nothing but the fade: the rest is bit for bit what it was."""
    still = {"lr0": 0.0, "warmup_bias_lr": 0.0, "momentum": 0.0, "weight_decay": 0.0}
    trainer = fit(Targeted, start, tmp_path, data, epochs=2, files=files(), **{**QUICK, **still})
    before, after = checkpoint.load(start).state_dict(), live(trainer)
    slots = trainer.fader.slots
    gone = np.append(~trainer.landing.kept, False)
    for name, tensor in after.items():
        if "running" in name or "tracked" in name:
            continue
        rows = torch.as_tensor(gone[slots[name]]) if name in slots else torch.zeros(1, dtype=torch.bool)
        if name in slots:
            assert (tensor[rows] == 0).all() and torch.equal(tensor[~rows], before[name][~rows]), name
        else:
            assert torch.equal(tensor, before[name]), name


def test_what_stays_makes_up_for_what_goes(tmp_path, data, start):
    """No learning rate: landed and cut, the weights are as far as drift goes, in the average as well."""
    still = {"lr0": 0.0, "warmup_bias_lr": 0.0, "momentum": 0.0, "weight_decay": 0.0}
    seen = []
    trainer = fit(
        watched(Drifting, lambda t: seen.append(t.drift.moved), "on_train_batch_start"),
        start,
        tmp_path,
        data,
        epochs=2,
        files=files(),
        **{**QUICK, **still},
    )
    assert seen == sorted(seen) and seen[0] == 0 and 0 < seen[2] < 1 and trainer.drift.moved == 1
    kept = trainer.landing.kept
    expected = dict(cut(checkpoint.load(start), trainer.wiring, kept).named_parameters())
    for detector in (unwrap_model(trainer.model), trainer.ema.ema):
        for name, p in cut(detector.float(), trainer.wiring, kept).named_parameters():
            assert torch.allclose(p, (1 + MADE_UP * Growing.gain) * expected[name], rtol=1e-4, atol=1e-6), name


def test_batches_that_are_never_stepped_for_do_not_keep_it_up(tmp_path, data, start):
    """Three batches an epoch, a step every four: at the end two are left over."""
    trainer = fit(Targeted, start, tmp_path, data, epochs=2, files=files(landing=1.0), nbs=16, **QUICK)
    assert trainer.steps == 1 and quiet(trainer) == [True, True]


def test_nothing_fades_while_the_rate_warms_up(tmp_path, data, start):
    seen = []
    fit(
        watched(Targeted, lambda t: seen.append(t.landing.factor.min()), "on_train_epoch_end"),
        start,
        tmp_path,
        data,
        epochs=4,
        files=files(),
        **{**QUICK, "warmup_epochs": 1},
    )
    assert seen == [1, 0, 0, 0]


LANDS = {cls: files(landing=0.6) for cls in (Targeted, Drifting)} | {Restless: files(landing=0.6, rechoose=1)}


@pytest.fixture(scope="module", params=LANDS)
def whole(request, tmp_path_factory, data, start):
    """A landing that nobody interrupts, and what a kill right after each epoch would have left: in `left / epoch`."""
    run, left = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("left")
    copying = watched(request.param, lambda t: shutil.copytree(run, left / str(t.epoch + 1)), "on_model_save")
    return request.param, fit(copying, start, run, data, epochs=5, files=LANDS[request.param], **SAVED), left


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resumed_landing_goes_on(tmp_path, data, start, whole, epoch):
    """Killed in the middle of the landing and after it; chosen anew or not: the same channels, as far."""
    trainer, whole, left = whole
    shutil.copytree(left / str(epoch), tmp_path, dirs_exist_ok=True)
    again = fit(trainer, start, tmp_path, data, epochs=5, resume=True, **SAVED)
    assert again.start_epoch == epoch
    for name in ("kept", "start", "factor"):
        assert np.array_equal(getattr(again.landing, name), getattr(whole.landing, name))
    assert quiet(again) == [True, True] and again.steps == whole.steps
    assert again.drift.moved == whole.drift.moved == 1 and again.drift.way.keys() == whole.drift.way.keys()
    assert all(torch.equal(way, whole.drift.way[name]) for name, way in again.drift.way.items())
    rows = [[float(r["landed"]) for r in rows_of(run)] for run in (whole.save_dir, tmp_path)]
    assert rows[0] == rows[1]


def test_chosen_anew_only_those_change_that_have_not_begun(tmp_path, data, start):
    plans = []

    class Watching(Restless):
        def _decide(self, kept, scores):
            begun = self.landing.begun.copy()
            super()._decide(kept, scores)
            plans.append((begun, self.landing.kept.copy()))

    trainer = fit(Watching, start, tmp_path, data, epochs=6, files=files(landing=0.7, rechoose=1), **QUICK)
    assert len(plans) == 3, "at the start, before epochs 2 and 3; then all have begun"
    assert all(not kept[begun].any() for begun, kept in plans), "who has begun to leave, leaves"
    assert any((a != b).any() for (_, a), (_, b) in pairwise(plans))
    assert len({int(kept.sum()) for _, kept in plans}) == 1, "at the same budget"
    assert quiet(trainer) == [True, True]
    assert np.array_equal(trainer.extra_state()["kept"].numpy(), plans[-1][1])


def test_nothing_to_land_is_refused(tmp_path, data, start):
    class Nothing(Least):
        def choose(self, detector, gone=None):
            return select(self.wiring, score(detector, self.wiring, "l1"), Constraints(ratio=0.001))

    class Whole(TargetedTrainer):
        chooser_type = Nothing

    with pytest.raises(SlimError, match=r"removes none.*prune\.target\.flops"):
        fit(Whole, start, tmp_path, data, epochs=1, files=files(), **QUICK)


# ---------------------------------------------------------------------------------------------------------------------
# Where in a step the fade comes


class FadingStep(Step):
    """A trainer's own step with the fade in the place of the pull; the first of three channels leaves."""

    def __init__(self, *, scaled):
        super().__init__(scaled=scaled)
        bare = object.__new__(TargetedTrainer)
        bare.__dict__ |= self.trainer.__dict__
        wiring = trace(self.network, 8)
        bare.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1)
        bare.landing, bare.fader = Landing(0, 1, wiring.n_channels), Fader(wiring, self.network)
        bare.drift = Drift({}, 0.0)
        kept = np.ones(wiring.n_channels, bool)
        kept[wiring.free[0].channels[0]] = False
        bare.landing.choose(wiring, kept, {g.name: np.zeros(g.size) for g in wiring.groups})
        bare.optimizer.register_step_post_hook(bare._step)
        self.trainer = bare


@pytest.mark.parametrize("scaled", [False, True])
def test_the_loss_scale_does_not_touch_the_fade(scaled):
    step = FadingStep(scaled=scaled)
    assert step.take(0.15) == pytest.approx([0.5, 1, 1])
    assert step.take(0.15, gradient=1.0) == pytest.approx([0.4, 0.9, 0.9]), "training is free in between"
    assert step.take(0.3, gradient=-1.0) == pytest.approx([0, 1, 1], abs=1e-6)
    assert step.take(0.9, gradient=-1.0) == pytest.approx([0, 1.1, 1.1])
    assert step.scale[0] == 0, "exactly"


def test_a_step_that_amp_skips_fades_nothing_and_the_next_catches_up():
    step = FadingStep(scaled=True)
    assert step.take(0.15, gradient=math.inf) == [1, 1, 1]
    assert step.trainer.steps == 0 and not step.trainer.landing.begun.any()
    assert step.take(0.225) == pytest.approx([0.25, 1, 1])


def test_a_fused_optimizer_that_found_infinities_fades_nothing():
    step = FadingStep(scaled=False)
    step.trainer.progress, step.trainer.optimizer.found_inf = 0.15, torch.tensor(1.0)
    step.trainer._step(step.trainer.optimizer, (), {})
    assert step.scale.tolist() == [1, 1, 1] and step.trainer.steps == 0
