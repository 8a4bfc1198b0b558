"""Costs that are thop's to the last digit, and a meter that reads every cost by its name."""

import copy

import numpy as np
import pytest
import thop
import torch
from networks import Act, Line, Network, Probe, detector, random_plan
from ultralytics.nn.modules import SPPF

from yolo_slim.channels import Costs, Meter, cut, trace


def profile(net, px):
    """thop's MACs and parameters of a copy (it leaves counters behind)."""
    macs, params = thop.profile(copy.deepcopy(net), (torch.zeros(1, 3, px, px),), verbose=False)
    return int(params), int(macs)


@pytest.mark.parametrize(
    ("name", "px"),
    [
        pytest.param("yolov5n", 64, id="C3, SPPF"),
        pytest.param("yolov5n", 96, id="another size"),
        pytest.param("yolov3-tiny", 64, id="pools and pads"),
        pytest.param("yolov5n-p6", 128, id="four maps"),
        pytest.param("yolov8n", 64, id="chunks"),
        pytest.param("yolov9t", 64, id="average pools"),
        pytest.param("yolo11n", 64, id="depthwise, attention"),
    ],
)
def test_costs_are_thops(name, px):
    """Exactly, before and after random cuts."""
    net = detector(name)
    found = trace(net, px)
    costs = Costs(found)
    budget = costs.of(np.array([g.size for g in found.groups]))
    offset = profile(net, px)[1] - budget.macs
    if name.startswith(("yolov5", "yolov3")):
        assert offset == 0
    assert budget.params == profile(net, px)[0] == found.params
    for seed in range(2):
        kept = random_plan(found, np.random.default_rng(seed))
        budget, slim = costs.of(found.widths(kept)), cut(net, found, kept)
        assert budget.params == sum(p.numel() for p in slim.parameters())
        if offset == 0:
            assert (budget.params, budget.macs) == profile(slim, px)


@pytest.mark.parametrize("first", [0, 15])
def test_params_are_counted_on_random_networks(first):
    """Whatever the operators, with scale and shift or without: the sum over the parameters of the cut network."""
    wrong = []
    for seed in range(first, first + 15):
        net = Network(seed)
        found = trace(net, 32)
        kept = random_plan(found, np.random.default_rng(seed))
        counted = sum(p.numel() for p in cut(net, found, kept).parameters())
        if Costs(found).of(found.widths(kept)).params != counted:
            wrong.append(seed)
    assert not wrong, f"networks.Network(seed) for these seeds: {wrong}"


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(Act(8, 8, 3), id="a norm of two parameters and four operations"),
        pytest.param(Act(8, 8, 3, affine=False), id="a norm of no parameters and two operations"),
        pytest.param(Act(8, 12, 3, groups=2), id="a grouped convolution: half of the inputs each"),
        pytest.param(Act(8, 8, 3, groups=8, bias=True), id="a depthwise one: a single input each"),
        pytest.param(SPPF(8, 12), id="four slots a channel"),
    ],
)
def test_costs_are_thops_around_one_operator(operator):
    net = Probe(operator)
    found = trace(net, 16)
    kept = np.ones(found.n_channels, bool)
    for group in found.free:
        kept[group.channels[::2]] = False
    budget = Costs(found).of(found.widths(kept))
    assert (budget.params, budget.macs) == profile(cut(net, found, kept), 16)


def test_a_removed_channel_saves_what_the_formula_says():
    """SPPF: one filter of cv1, its scale and shift, and four input slots of cv2."""
    found = trace(Probe(SPPF(8, 12)), 16)
    costs, full = Costs(found), np.array([g.size for g in found.groups])
    (i,) = [i for i, g in enumerate(found.groups) if g.name == "operator.cv1.conv"]
    less = full.copy()
    less[i] -= 1
    before, after = costs.of(full), costs.of(less)
    assert before.params - after.params == (8 + 2) + 4 * 12
    assert before.macs - after.macs == 16 * 16 * (8 + 4 + 4 * 12)  # 4: the batch norm, as thop counts it


# ---- every cost by its name ----


def test_the_meter_by_hand():
    """3 -> 4 -> 2 with two of four channels: half of the weights; a table of its own; bytes with the overhead."""
    found = trace(Line(3, 4, 2), 1)
    meter = Meter(found, np.array([True, False]), {"energy": {"0": np.array([0, 1, 1, 1, 5.0])}}, overhead=60)
    now = meter.of(np.array([2, 2]))
    assert now == pytest.approx({"flops": 0.5, "params": 0.5, "channels": 0.5, "size_mb": 80e-6, "energy": 0.2})
    assert meter.of(meter.full) == pytest.approx(
        {"flops": 1, "params": 1, "channels": 1, "size_mb": 100e-6, "energy": 1}
    )


def test_megabytes_are_told_only_where_the_overhead_is_known():
    found = trace(Line(3, 4, 2), 1)
    assert "size_mb" not in Meter(found, np.array([True, False])).of(np.array([2, 2]))


def test_many_plans_at_once_cost_what_each_does():
    found = trace(Probe(SPPF(8, 12)), 16)
    costs, rng = Costs(found), np.random.default_rng(0)
    plans = np.array([[rng.integers(1, g.size + 1) for g in found.groups] for _ in range(9)])
    each = [costs.of(plan) for plan in plans]
    assert costs.many(plans).tolist() == [[c.params, c.macs, c.buffers] for c in each]


def test_buffers_are_the_running_statistics():
    net = Probe(SPPF(8, 12))
    found = trace(net, 16)
    costs = Costs(found)
    floats = sum(b.numel() for b in net.buffers() if b.is_floating_point())
    assert costs.of(costs.full).buffers == floats
