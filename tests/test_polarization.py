"""Polarization by hand (Zhuang et al. 2020), positive scales without changing anything, and a training under it."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from networks import detector
from test_penalty import Plain, Shortcut, write
from test_sparse import QUICK, SAVED, Step
from training_helpers import PX, Killed, draw_shapes, fit, killed_after, live, saved, tiny, wiring_of

from yolo_slim import checkpoint
from yolo_slim.channels import relative_difference, trace
from yolo_slim.training.polarization import Polarization, PolarizedTrainer, first_local_min, flip_signs, regulariser
from yolo_slim.training.regularized import SETTINGS

ORACLE = [0.1, 0.4, 0.7, 0.2]


def test_the_value_and_the_slope_by_hand():
    scales = torch.tensor(ORACLE, dtype=torch.float64, requires_grad=True)
    value = regulariser(scales, 1.2)
    value.backward()
    assert value.item() == pytest.approx(0.88)
    assert scales.grad.tolist() == pytest.approx([2.2, 0.2, 0.2, 2.2])


@pytest.mark.parametrize(
    ("t", "least", "ones"),
    [
        pytest.param(1.2, -0.4, {1}, id="t=1.2: a share of 1/2 - .3 stays"),
        pytest.param(0.0, -2.4, {2, 3}, id="t=0: half, and five are odd"),
        pytest.param(2.0, 0.0, {0}, id="t=2: none"),
        pytest.param(-2.0, -10.0, {5}, id="t=-2: all"),
    ],
)
def test_its_least_parts_the_scales(t, least, ones):
    """All corners of [0, 1]^5."""
    values = {corner: regulariser(torch.tensor(corner), t).item() for corner in itertools.product([0.0, 1.0], repeat=5)}
    lowest = min(values.values())
    assert lowest == pytest.approx(least, abs=1e-5)
    assert {int(sum(c)) for c, v in values.items() if v < lowest + 1e-5} == ones


@pytest.mark.parametrize(
    ("counts", "threshold"),
    [
        pytest.param((6, 3, 1, 0, 2, 4), 0.03, id="the first empty bin"),
        pytest.param((6, 3, 1, 2, 0, 4), 0.02, id="the first, not the lowest"),
        pytest.param((6, 3, 0, 0, 0, 4), 0.02, id="a valley begins where it stops falling"),
        pytest.param((9, 5, 2, 1), None, id="falling to the end: no valley"),
        pytest.param((1, 4), None, id="too few bins to say"),
    ],
)
def test_the_histogram_says_where_the_scales_part(counts, threshold):
    """Scales on the edges of their bins, where rounding would misplace them, and in the middle."""
    for place in (0.0, 0.005):
        scales = np.concatenate([np.full(n, i * 0.01 + place) for i, n in enumerate(counts)])
        assert first_local_min(scales) == (threshold if threshold is None else pytest.approx(threshold))


def polarized(network, t=1.2):
    return Polarization(network, trace(network, 8), t)


def test_a_step_by_hand():
    """Seven scales, the four of the oracle among them; 2.2 / 2.2 of the amount goes off the lower ones."""
    network = Plain()
    penalty = polarized(network)
    write(network.first.bn.weight, [0.1, 0.4, 0.9])
    write(network.second.bn.weight, [0.4, 0.1, 0.9, 0.9])
    # the mean is .529: four below and three above, so the mean's own share is (3 - 4) / 7
    penalty.shrink(0.11)
    low, high = 0.05 * (1.2 + 1 - 1 / 7), 0.05 * (1.2 - 1 - 1 / 7)
    assert network.first.bn.weight.tolist() == pytest.approx([0, 0.4 - low, 0.9 - high], abs=1e-6)
    assert network.second.bn.weight.tolist() == pytest.approx([0.4 - low, 0, 0.9 - high, 0.9 - high], abs=1e-6)


def test_tied_layers_share_one_value_and_keep_their_ratio():
    network = Shortcut(members=2)
    penalty = polarized(network)
    write(network.stem.bn.weight, [0.03, 0.3, 0.9])
    write(network.branches[0].bn.weight, [0.04, 0.4, 1.2])
    assert penalty.cap == 1.0, "of the detector as it was: all scales one"
    penalty.shrink(0.1)
    stem, branch = network.stem.bn.weight.tolist(), network.branches[0].bn.weight.tolist()
    assert stem[0] == branch[0] == 0, "gone in both or in none"
    assert stem[1] / branch[1] == pytest.approx(0.75)
    rms = math.sqrt((0.3**2 + 0.4**2) / 2)  # below the mean of (.035, .354, 1.06 or less by the cap)
    assert math.hypot(stem[1], branch[1]) / math.sqrt(2) == pytest.approx(rms - 0.1 / 2.2 * (2.2 - 1 / 3), abs=1e-6)
    assert max(branch) <= 1.0


def test_scales_stay_between_zero_and_the_cap():
    network = Plain()
    write(network.first.bn.weight, [0.5, 1.7, 0.2])
    penalty = polarized(network, t=0.0)
    assert penalty.cap == pytest.approx(1.7)
    write(network.second.bn.weight, [-0.3, 0.0, 2.5, 1.6])
    for _ in range(20):
        penalty.shrink(0.3)
        scales = penalty.flat()
        assert (scales >= 0).all() and (scales <= 1.7 + 1e-6).all()
    assert all(value == pytest.approx(0) or value == pytest.approx(1.7) for value in scales.tolist()), "parted"


def test_protected_scales_are_let_alone():
    network = Plain(protect=True)
    penalty = polarized(network)
    write(network.second.bn.weight, [-0.4, 5.0, 0.2, 1e-5])
    penalty.shrink(0.5)
    assert network.second.bn.weight.tolist() == pytest.approx([-0.4, 5.0, 0.2, 1e-5])


# ---------------------------------------------------------------------------------------------------------------------
# Signs


@pytest.mark.parametrize("name", ["yolov5n", "yolov3-tiny", "yolov8n"])
def test_positive_scales_and_nothing_else_changes(name):
    net = detector(name).double()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.weight[::2] *= -1
    before = copy.deepcopy(net)
    flip_signs(net, trace(net, 64))
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all((m.weight >= 0).all() for m in norms) and any((m.weight > 0).any() for m in norms)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    assert relative_difference(before, net, image) == 0, "x and -x round alike"
    flipped = copy.deepcopy(net.state_dict())
    flip_signs(net, trace(net, 64))
    assert all(torch.equal(v, flipped[k]) for k, v in net.state_dict().items())


# ---------------------------------------------------------------------------------------------------------------------
# A training


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Untrained, with scales from -.5 to 1.5."""
    folder = tmp_path_factory.mktemp("start")
    net = tiny(folder)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.weight.copy_(torch.linspace(-0.5, 1.5, len(m.weight)))
    return saved(net, folder / "start.pt")


FILES = {SETTINGS: {"strength": 0.6, "t": 1.2, "update": "proximal"}}


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_training_parts_the_scales(tmp_path, data, start, optimizer):
    trainer = fit(
        PolarizedTrainer, start, tmp_path, data, epochs=2, files=FILES, optimizer=optimizer, **{**QUICK, "lr0": 1e-3}
    )
    mine = trainer.penalty.flat()[trainer.penalty.free[trainer.penalty.group]]
    assert (mine >= 0).all() and mine.max() <= trainer.penalty.cap == pytest.approx(1.5, abs=1e-3)
    before = torch.cat([torch.linspace(-0.5, 1.5, len(s)).abs() for s in trainer.penalty.scales])
    free = before[trainer.penalty.free[trainer.penalty.group]]
    low, high = free < 0.4, free > 1.0
    assert (mine[low] == 0).float().mean() > 0.9, "what lay below the mean and within the travel is gone"
    assert (mine[high] - free[high]).abs().max() < 0.2, "what lay above has hardly moved"
    average = trainer.ema.ema.state_dict()
    wiring = wiring_of(checkpoint.load(start))
    assert all((average[f"{n}.weight"] >= 0).all() for g in wiring.free for n in g.norms)


def test_a_resumed_training_keeps_its_cap(tmp_path, data, start):
    arguments = {**SAVED, "lr0": 1e-3}
    whole = fit(PolarizedTrainer, start, tmp_path / "whole", data, epochs=3, files=FILES, **arguments)
    with pytest.raises(Killed):
        fit(killed_after(PolarizedTrainer, 2), start, tmp_path / "killed", data, epochs=3, files=FILES, **arguments)
    again = fit(PolarizedTrainer, start, tmp_path / "killed", data, epochs=3, resume=True, **arguments)
    assert again.penalty.cap == whole.penalty.cap
    for name in ("model.0.bn.weight", "model.3.cv1.bn.weight"):
        assert live(again)[name].tolist() == pytest.approx(live(whole)[name].tolist(), abs=0.02)


def test_a_step_that_amp_skips_pulls_nothing():
    step = Step(scaled=True)
    step.trainer.penalty = Polarization(step.network, trace(step.network, 8), 1.2)
    step.trainer.optimizer.zero_grad()
    assert step.take(0.4, gradient=math.inf) == [1, 1, 1]
    assert step.take(0.5) == pytest.approx([1 - 0.5 / 2.2 * 1.2] * 3), "none is below the mean of equals"


def test_images_of_another_size(tmp_path, data, start):
    trainer = fit(PolarizedTrainer, start, tmp_path, data, epochs=1, files=FILES, imgsz=PX - 10, **QUICK)
    assert trainer.wiring.imgsz == (PX, PX)
