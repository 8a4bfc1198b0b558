"""The pull on batch-norm scales: one step of it by hand, and how far it goes over a whole training.

Numbers by hand follow Liu et al. (arXiv:1708.06519), Ye et al. (arXiv:1802.00124) and Yuan & Lin (2006).
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from training_helpers import PX, tiny, wiring_of
from ultralytics.nn.modules import Conv

from yolo_slim.channels import Costs, cut, trace
from yolo_slim.measure import cost
from yolo_slim.training.penalty import Penalty, Travel
from yolo_slim.training.sparse import SparseTrainer

LR, GRADIENT = 0.1, 0.1


class Plain(nn.Module):
    """Three channels in a row, then four; between the second and the end nothing may go if `protect`."""

    def __init__(self, protect: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.end = Conv(3, 3), Conv(3, 4), nn.Conv2d(4, 2, 1)
        self.protect = protect

    def forward(self, image: Tensor) -> Tensor:
        x = self.second(self.first(image))
        return self.end(x.sigmoid() if self.protect else x)  # sigmoid(0) is not 0: not in the law, kept whole


class Shortcut(nn.Module):
    """`members` layers of three channels that additions make one and the same."""

    def __init__(self, members: int = 2) -> None:
        super().__init__()
        self.stem, self.branches = Conv(3, 3), nn.ModuleList(Conv(3, 3) for _ in range(members - 1))
        self.end = nn.Conv2d(3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for branch in self.branches:
            x = x + branch(x)
        return self.end(x)


def scales_of(network: nn.Module) -> list[nn.Parameter]:
    """Every batch norm's scale, in the order of the modules."""
    return [m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def write(scale: nn.Parameter, values: list[float]) -> None:
    """Set a scale."""
    with torch.no_grad():
        scale.copy_(torch.tensor(values))


def penalty_on(network: nn.Module, kind: str = "group_lasso") -> Penalty:
    """The penalty on a small network."""
    return Penalty(network, trace(network, 8), kind)


# ---------------------------------------------------------------------------------------------------------------------
# One step, by hand


@pytest.mark.parametrize("kind", ["l1", "group_lasso"])  # one producer a channel: the same thing
@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (0.2, [0.47, -0.19, 0.0]),  # the pull .02 holds what the gradient .01 would take out of zero
        (0.0, [0.49, -0.21, -0.01]),  # no pull: the gradient's step alone
        (5.0, [0.0, 0.0, 0.0]),  # .5 is more than any is worth: zero, and no further
    ],
)
def test_proximal_step_by_hand(kind, strength, expected):
    network = Plain()
    penalty, scale = penalty_on(network, kind), network.first.bn.weight
    write(scale, [0.5, -0.2, 0.0])
    with torch.no_grad():
        scale -= LR * GRADIENT
    penalty.shrink(LR * strength)
    assert scale.tolist() == pytest.approx(expected, abs=1e-7)
    assert [v == 0 for v in scale.tolist()] == [v == 0 for v in expected], "zero is exact, not nearly"


@pytest.mark.parametrize("kind", ["l1", "group_lasso"])
def test_subgradient_step_by_hand(kind):
    network = Plain()
    penalty, scale = penalty_on(network, kind), network.first.bn.weight
    write(scale, [0.5, -0.2, 0.0])
    scale.grad = torch.full((3,), GRADIENT)
    penalty.add_subgradient(0.01)
    assert scale.grad.tolist() == pytest.approx([0.11, 0.09, 0.1], abs=1e-7)  # sign(0) is 0
    torch.optim.SGD([scale], lr=LR).step()
    assert scale.tolist() == pytest.approx([0.489, -0.209, -0.01], abs=1e-7)


def test_subgradient_leaves_a_scale_without_gradient_alone():
    network = Plain()
    penalty = penalty_on(network)
    penalty.add_subgradient(1.0)
    assert all(scale.grad is None for scale in scales_of(network))


def steps_to_zero(strength):
    """Of SGD at yolov5's momentum and learning rate, from a scale of 1 that nothing but the subgradient moves."""
    network = Plain()
    penalty, scale = penalty_on(network), network.first.bn.weight
    pulls = []
    for value in (1.0, 0.5, 1e-3):  # the same wherever the scale is
        write(scale, [value] * 3)
        scale.grad = torch.zeros(3)
        penalty.add_subgradient(strength)
        pulls.append(scale.grad[0].item())
    assert pulls == pytest.approx([strength] * 3)
    value, velocity, steps = 1.0, 0.0, 0
    while value > 0:
        velocity = 0.937 * velocity + pulls[0]
        value, steps = value - 0.01 * velocity, steps + 1
    return steps


def test_how_many_steps_a_lambda_takes_to_bring_a_scale_to_zero():
    """The travel is about lambda * sum of lr / (1 - momentum), so it depends on the data set."""
    assert steps_to_zero(1e-3) == pytest.approx(6_314, abs=20)
    assert steps_to_zero(1e-4) == pytest.approx(63_014, abs=20)


def test_torchs_own_sgd_takes_as_many_steps():
    network = Plain()
    penalty, scale = penalty_on(network), network.first.bn.weight
    optimizer, steps = torch.optim.SGD([scale], lr=0.01, momentum=0.937), 0
    while scale[0] > 0:
        scale.grad = torch.zeros(3)
        penalty.add_subgradient(1e-3)
        optimizer.step()
        steps += 1
    assert steps == pytest.approx(6_314, abs=20)


def test_a_travel_of_one_over_as_many_steps_is_that_lambda():
    """Lambda = B (1 - m) / sum of lr; 6,300 steps at lr .01 and momentum .937 give 1e-3."""
    network = Plain()
    scale = network.first.bn.weight
    scale.grad = torch.zeros(3)
    travel = Travel(1.0, lambda e: 1.0, 63, warmup=0)
    optimizer = torch.optim.SGD([scale], lr=0.01, momentum=0.937)
    trainer = SimpleNamespace(
        penalty=penalty_on(network),
        _scale_group=lambda optimizer: optimizer.param_groups[0],
        _amount=lambda optimizer: travel.at(1 / 6_300),
    )
    SparseTrainer._pull_gradients(trainer, optimizer, (), {})
    assert scale.grad.tolist() == pytest.approx([1e-3] * 3)


@pytest.mark.parametrize(
    ("travel", "expected"),
    [
        (0.1, [0.24, 0.32]),  # |Gamma| = .5, of which .1 goes: four fifths stay
        (0.6, [0.0, 0.0]),  # more than there is
        (0.5, [0.0, 0.0]),  # all of it
        (0.0, [0.3, 0.4]),
    ],
)
def test_group_lasso_by_hand(travel, expected):
    network = Shortcut(members=2)
    penalty = penalty_on(network)
    pair = [network.stem.bn.weight, network.branches[0].bn.weight]
    for scale, value in zip(pair, (0.3, 0.4), strict=True):
        write(scale, [value, 10 * value, 0.0])
    penalty.shrink(travel / math.sqrt(2))  # sqrt(m): a group of m travels as far as each of its m alone
    assert [scale[0].item() for scale in pair] == pytest.approx(expected, abs=1e-7)
    assert [scale[1].item() for scale in pair] == pytest.approx([3 - 0.6 * travel, 4 - 0.8 * travel], abs=1e-6)
    assert [scale[2].item() for scale in pair] == [0, 0], "0 / 0 is 0, not NaN"


def test_group_subgradient_by_hand():
    network = Shortcut(members=2)
    penalty = penalty_on(network)
    pair = [network.stem.bn.weight, network.branches[0].bn.weight]
    for scale, value in zip(pair, (0.3, 0.4), strict=True):
        write(scale, [value, -value, 0.0])
        scale.grad = torch.zeros(3)
    penalty.add_subgradient(0.1)
    root = math.sqrt(2) * 0.1
    assert pair[0].grad.tolist() == pytest.approx([0.6 * root, -0.6 * root, 0], abs=1e-7)
    assert pair[1].grad.tolist() == pytest.approx([0.8 * root, -0.8 * root, 0], abs=1e-7)


def test_l1_pulls_each_member_of_a_group_alone():
    network = Shortcut(members=2)
    penalty = penalty_on(network, "l1")
    pair = [network.stem.bn.weight, network.branches[0].bn.weight]
    for scale, value in zip(pair, (0.3, 0.4), strict=True):
        write(scale, [value] * 3)
    penalty.shrink(0.35)
    assert pair[0].tolist() == [0, 0, 0]
    assert pair[1].tolist() == pytest.approx([0.05] * 3, abs=1e-7)


def test_group_lasso_of_one_is_l1():
    networks = {kind: Plain() for kind in ("l1", "group_lasso")}
    penalties = {kind: penalty_on(network, kind) for kind, network in networks.items()}

    @given(values=st.lists(st.floats(-2, 2, width=32), min_size=7, max_size=7), amount=st.floats(0, 3))
    @settings(max_examples=100, deadline=None)
    def same(values, amount):
        for kind, network in networks.items():
            write(network.first.bn.weight, values[:3])
            write(network.second.bn.weight, values[3:])
            penalties[kind].shrink(amount)
        soft = torch.tensor(values).sign() * (torch.tensor(values).abs() - amount).clamp(min=0)
        assert torch.equal(penalties["l1"].flat(), penalties["group_lasso"].flat())
        assert torch.allclose(penalties["l1"].flat(), soft, atol=1e-6)

    same()


@pytest.mark.parametrize("kind", ["l1", "group_lasso"])
def test_protected_scales_never_move(kind):
    network = Plain(protect=True)
    penalty = penalty_on(network, kind)
    write(network.first.bn.weight, [0.5, -0.2, 0.1])
    write(network.second.bn.weight, [0.4, -0.3, 0.2, 1e-5])
    network.second.bn.weight.grad = torch.zeros(4)
    network.first.bn.weight.grad = torch.zeros(3)
    penalty.add_subgradient(1.0)
    penalty.shrink(9.0)
    assert network.second.bn.weight.tolist() == pytest.approx([0.4, -0.3, 0.2, 1e-5], rel=1e-6)
    assert network.second.bn.weight.grad.tolist() == [0] * 4
    assert network.first.bn.weight.tolist() == [0] * 3
    assert network.first.bn.weight.grad.abs().min() > 0.99


def test_members_of_a_c3_stage_reach_zero_together(tmp_path):
    detector = tiny(tmp_path)
    wiring = wiring_of(detector)
    stage = next(g for g in wiring.free if len(g.norms) == 3)  # C3 with two shortcuts: cv1 and both bottlenecks
    scales = [detector.get_submodule(name).weight for name in stage.norms]
    with torch.no_grad():
        for i, scale in enumerate(scales):
            scale.copy_(torch.linspace(0.1, 1, len(scale)) * (i + 1))  # the third is three times the first
    penalty = Penalty(detector, wiring)
    counts = []
    for _ in range(30):
        penalty.shrink(0.1)
        gone = torch.stack([scale == 0 for scale in scales])
        assert torch.equal(gone.all(0), gone.any(0)), "a channel is gone in all of its layers or in none"
        counts.append(int(gone[0].sum()))
    assert counts == sorted(counts) and 0 < counts[5] < stage.size and counts[-1] == stage.size
    # |Gamma| of the smallest is .1 sqrt(1 + 4 + 9) = .374, and sqrt(3) .1 = .173 goes a step: three steps
    assert counts[:3] == [0, 0, counts[2]] and counts[2] >= 1


def test_shrinking_keeps_the_precision_of_the_scales():
    network = Plain().half()
    penalty = penalty_on(network)
    network.first.bn.weight.grad = torch.zeros(3, dtype=torch.float16)
    penalty.add_subgradient(0.5)
    penalty.shrink(0.25)
    assert network.first.bn.weight.dtype == network.first.bn.weight.grad.dtype == torch.float16
    assert network.first.bn.weight.tolist() == [0.75] * 3


# ---------------------------------------------------------------------------------------------------------------------
# Travel: how far in all

SCHEDULES = {
    "constant": lambda epochs: lambda e: 1.0,
    "linear": lambda epochs: lambda e: max(1 - e / epochs, 0) * 0.99 + 0.01,
    "cosine": lambda epochs: lambda e: 0.5 * (1 + math.cos(math.pi * e / epochs)) * 0.99 + 0.01,
    "steps": lambda epochs: lambda e: 0.1 ** (e // 2),
}


@given(
    strength=st.floats(0, 5),
    epochs=st.integers(1, 40),
    warmup=st.floats(0, 45),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    stops=st.lists(st.floats(0, 1), max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_travel_is_spent_whatever_the_steps(strength, epochs, warmup, schedule, stops):
    """Any batch size, accumulation, number of epochs, warm-up and learning rate: the same sum."""
    travel = Travel(strength, SCHEDULES[schedule](epochs), epochs, warmup)
    steps = np.diff([travel.at(p) for p in [0.0, *sorted(stops), 1.0]])
    assert travel.at(0) == 0 and travel.at(1) == pytest.approx(strength)
    assert (steps >= -1e-12).all(), "never back"
    assert steps.sum() == pytest.approx(strength, abs=1e-9)


def test_travel_is_proportional_to_the_learning_rate():
    travel = Travel(1.0, lambda e: [4.0, 3.0, 2.0, 1.0][e], 4, warmup=0)
    assert [travel.at(p) for p in (0.25, 0.5, 0.75, 1)] == pytest.approx([0.4, 0.7, 0.9, 1])
    assert travel.at(0.125) == pytest.approx(0.2), "evenly within an epoch"


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (0, [0.25, 0.5, 0.75, 1]),
        (1, [0, 1 / 3, 2 / 3, 1]),
        (1.5, [0, 0.2, 0.6, 1]),  # of the second epoch half is left
        (3, [0, 0, 0, 1]),
        (4, [0.25, 0.5, 0.75, 1]),  # nothing but warm-up: spent all the same
        (9, [0.25, 0.5, 0.75, 1]),
    ],
)
def test_no_travel_during_warmup(warmup, expected):
    travel = Travel(1.0, lambda e: 1.0, 4, warmup)
    assert [travel.at(p) for p in (0.25, 0.5, 0.75, 1)] == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 3), (2, 3), (3, 3), (1, 0)])
def test_short_trainings_spend_it_too(epochs, warmup):
    travel = Travel(0.7, SCHEDULES["linear"](epochs), epochs, warmup)
    assert travel.at(1) == pytest.approx(0.7) and 0 < travel.at(1 - 0.5 / epochs) < 0.7


def test_a_free_scale_travels_the_strength_for_any_batches():
    """One scale of 1 under the real penalty, stepping after every `accumulate` batches and at the very end."""
    network = Plain()
    penalty = penalty_on(network)

    @given(batches=st.integers(1, 30), accumulate=st.integers(1, 8), epochs=st.integers(1, 6))
    @settings(max_examples=100, deadline=None)
    def arrives(batches, accumulate, epochs):
        write(network.first.bn.weight, [1.0] * 3)
        travel, stepped_to, total = Travel(0.6, SCHEDULES["linear"](epochs), epochs, 0), 0.0, batches * epochs
        for done in sorted({*range(accumulate, total + 1, accumulate), total}):
            penalty.shrink(travel.at(done / total) - travel.at(stepped_to))
            stepped_to = done / total
        assert network.first.bn.weight.tolist() == pytest.approx([0.4] * 3, abs=1e-5)

    arrives()


# ---------------------------------------------------------------------------------------------------------------------
# What is said about it


def test_summary_by_hand():
    network = Plain(protect=True)  # the four protected scales do not count
    penalty = penalty_on(network)
    write(network.first.bn.weight, [0.004, -0.2, 1.0])
    write(network.second.bn.weight, [9.0, 9.0, 0.0, 0.0])
    summary = penalty.summary()
    # of three values the quantile p lies at 2p: .05 is a tenth of the way from .004 to .2
    assert summary["q05"] == pytest.approx(0.004 + 0.1 * 0.196)
    assert summary["q25"] == pytest.approx(0.102)
    assert summary["q50"] == pytest.approx(0.2)
    assert summary["q75"] == pytest.approx(0.6)
    assert summary["q95"] == pytest.approx(0.2 + 0.9 * 0.8)
    assert summary["share_below_1e-2"] == pytest.approx(1 / 3)
    # params: 3*3+6 (first) + 3*4+8 (second) + 4*2+2 (end) = 45; without one channel of first: 45 - 3 - 2 - 4
    assert summary["params_if_cut"] == pytest.approx(36 / 45)


def test_a_channel_is_gone_when_all_of_its_layers_are():
    network = Shortcut(members=2)
    penalty = penalty_on(network)
    write(network.stem.bn.weight, [0.0, 0.0, 1.0])
    write(network.branches[0].bn.weight, [0.0, 1.0, 1.0])
    summary = penalty.summary()
    assert summary["share_below_1e-2"] == pytest.approx(3 / 6), "scales are counted one by one"
    # params: stem 9+6, branch 9+6, end 6+2 = 38; without channel 0: stem 6+4, branch 4+4, end 4+2
    assert summary["params_if_cut"] == pytest.approx(24 / 38)


def test_cost_if_cut_is_the_cost_of_the_real_cut(tmp_path):
    detector = tiny(tmp_path)
    wiring = wiring_of(detector)
    penalty = Penalty(detector, wiring)
    assert penalty.summary()["flops_if_cut"] == penalty.summary()["params_if_cut"] == 1
    generator = np.random.default_rng(0)
    kept = np.ones(wiring.n_channels, bool)
    before, shares = cost(detector, PX), []
    for _ in range(3):  # zero more and more channels, in all of their layers
        for group in wiring.free:
            alive = group.channels[kept[group.channels]]
            kept[generator.permutation(alive)[: len(alive) // 3]] = False
        with torch.no_grad():
            for norm in wiring.norms.values():
                detector.get_submodule(norm.name).weight[torch.as_tensor(~kept[norm.channels])] = 0
        summary = penalty.summary()
        budget, full = Costs(wiring).of(wiring.widths(kept)), Costs(wiring).of(Costs(wiring).full)
        after = cost(cut(detector, wiring, kept), PX)
        assert summary["flops_if_cut"] == budget.macs / full.macs == pytest.approx(after.macs / before.macs, rel=1e-9)
        assert summary["params_if_cut"] == budget.params / full.params
        assert summary["params_if_cut"] == pytest.approx(after.params / before.params, rel=1e-9)
        shares.append(summary["flops_if_cut"])
    assert 1 > shares[0] > shares[1] > shares[2] > 0


def test_nothing_left_still_costs_something(tmp_path):
    """A width never falls to zero: one channel of each stays."""
    detector = tiny(tmp_path)
    penalty = Penalty(detector, wiring_of(detector))
    penalty.shrink(100.0)
    summary = penalty.summary()
    assert summary["q95"] == 0 and summary["share_below_1e-2"] == 1
    assert 0 < summary["flops_if_cut"] < 0.1


def test_threshold_is_the_callers(tmp_path):
    detector = tiny(tmp_path)  # every scale is 1
    penalty = Penalty(detector, wiring_of(detector))
    assert penalty.summary(threshold=1.0)["flops_if_cut"] == 1, "not below its own value"
    assert penalty.summary(threshold=1.01)["flops_if_cut"] < 0.1
