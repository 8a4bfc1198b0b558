"""Optimal Brain Surgeon for channels: its prices are those of really removing and refitting, one after another."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import Act, randomise_norms
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_slim import SlimError
from yolo_slim.channels import Group, Trace, trace
from yolo_slim.data.batches import Batches
from yolo_slim.importance import CRITERIA, Evidence, obs, score
from yolo_slim.measure.loss import detection_loss

pytest_plugins = ["tiny"]

PX = 4  # maps of 16 positions: all are drawn


@pytest.fixture
def undamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that prices are those of plain least squares."""
    monkeypatch.setitem(obs.__globals__, "DAMPING", 1e-12)


class Read(nn.Module):
    """Channels are made, something happens to them, and linear layers read them; what those say is the output."""

    def __init__(self, width: int, readers: dict[str, nn.Conv2d], between: nn.Module | None = None, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.make, self.between = Act(3, width, 3, norm=False, bias=True), between or nn.Identity()
        self.readers = nn.ModuleDict(readers)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.make(x))
        return torch.cat([reader(x).flatten(2) for reader in self.readers.values()], 1)


class Spatial(nn.Module):
    """Each channel in three slots, as SPPF lays them: itself, pooled, pooled again."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(x, 3, 1, 1)
        return torch.cat([x, y, F.avg_pool2d(y, 3, 1, 1)], 1)


def weighed(net: nn.Module, batch: dict) -> Tensor:
    """A loss whose gradient at the output is `pull` / B: a mean over images."""
    return (net(batch["img"]) * batch["pull"]).sum() / len(batch["img"])


def labelled(outputs: int, n: int = 24, sizes: tuple[int, ...] = (), positions: int = PX * PX) -> list[dict]:
    """n images with the gradient each of them has, in batches."""
    generator = torch.Generator().manual_seed(7)
    img = torch.rand(n, 3, PX, PX, generator=generator, dtype=torch.float64)
    pull = torch.randn(n, outputs, positions, generator=generator, dtype=torch.float64)
    sizes = sizes or (n,)
    return [{"img": i, "pull": p} for i, p in zip(img.split(sizes), pull.split(sizes), strict=True)]


def scores(net: nn.Module, batches: list[dict]) -> tuple[Trace, Group, np.ndarray]:
    """The trace, its one free group, and a score for each of the channels."""
    found = trace(net, PX)
    (group,) = found.free
    rows = obs(net, found, Evidence(batches=batches, loss=weighed))
    assert rows.keys() == {group.name} and rows[group.name].shape == (1, group.size)
    return found, group, rows[group.name][0]


@torch.no_grad()
def costs_of(net: nn.Module, found: Trace, group: Group, batches: list[dict]):
    """(channels that are gone) -> half of sum F_o MSE_o with the rest refitted by least squares: by brute force."""
    parts, at = [], 0
    images, pull = (torch.cat([batch[key] for batch in batches]) for key in ("img", "pull"))
    for name in group.consumers:
        layer = net.get_submodule(name)
        read = net.between(net.make(images))
        x = F.unfold(read, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # [N, C*k, L]
        x = x.permute(0, 2, 1).flatten(0, 1)
        channel = torch.as_tensor(found.convs[name].inputs).repeat_interleave(layer.weight[0, 0].numel())
        fisher = pull[:, at : at + layer.out_channels].square().sum(2).mean(0)
        at += layer.out_channels
        parts.append((x, x @ layer.weight.flatten(1).T, channel, fisher))

    def cost(gone: list[int]) -> float:
        total = 0.0
        for x, y, channel, fisher in parts:
            stay = ~torch.isin(channel, torch.as_tensor(group.channels[gone]))
            left = torch.cat([x[:, stay], x.new_ones(len(x), 1)], 1)
            residual = y - left @ torch.linalg.lstsq(left, y, driver="gelsd").solution
            total += float(residual.square().mean(0) @ fisher) / 2
        return total

    return cost


def greedy(cost, n: int) -> tuple[list[int], list[float]]:
    """Which channel goes when, and what each adds to the cost."""
    gone: list[int] = []
    added = []
    while len(gone) < n:
        dearer = {c: cost([*gone, c]) - cost(gone) for c in range(n) if c not in gone}
        gone.append(min(dearer, key=dearer.__getitem__))
        added.append(dearer[gone[-1]])
    return gone, added


def conv(c1: int, c2: int, k: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(c1, c2, k, **options)


# ---- prices ----


READERS = [
    pytest.param(6, {"a": lambda: conv(6, 5)}, None, id="1x1"),
    pytest.param(5, {"a": lambda: conv(5, 4, 3, padding=1)}, None, id="3x3"),
    pytest.param(5, {"a": lambda: conv(15, 4)}, Spatial, id="three slots, as in SPPF"),
    pytest.param(6, {"a": lambda: conv(6, 2), "b": lambda: conv(6, 3)}, None, id="two readers"),
    pytest.param(5, {"a": lambda: conv(5, 2, 3, padding=1), "b": lambda: conv(5, 3)}, None, id="3x3 and 1x1"),
    pytest.param(4, {"a": lambda: conv(12, 2), "b": lambda: conv(12, 3, bias=False)}, Spatial, id="slots and readers"),
]


@pytest.mark.parametrize(("width", "readers", "between"), READERS)
def test_prices_and_order_are_those_of_removing_and_refitting(undamped, width, readers, between) -> None:
    torch.manual_seed(1)
    net = Read(width, {name: make() for name, make in readers.items()}, between and between())
    batches = labelled(sum(r.out_channels for r in net.readers.values()))
    found, group, values = scores(net, batches)
    order, added = greedy(costs_of(net, found, group, batches), width)
    assert np.argsort(values, kind="stable").tolist() == order
    assert values[order] == pytest.approx(np.maximum.accumulate(added), rel=1e-5)


def test_by_hand() -> None:
    """Two inputs that know nothing of one another: half F w^2 var."""
    net = nn.Sequential(conv(2, 2, bias=False), conv(2, 1), nn.Flatten(2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
        net[1].weight.copy_(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1))
    img = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0], [-1.0, -2.0]], dtype=torch.float64).reshape(4, 2, 1, 1)
    pull = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).reshape(4, 1, 1)
    found = trace(net, 4)
    rows = obs(net, found, Evidence(batches=[{"img": img, "pull": pull}], loss=weighed))
    fisher = (1 + 4 + 9 + 16) / 4
    expected = [fisher / 2 * 1**2 * 1, fisher / 2 * 3**2 * 4]
    assert rows["0"][0] == pytest.approx(expected, rel=1e-2)  # damped by a thousandth of the mean variance


def test_positions_add_up() -> None:
    """The same map with every pixel four times: the loss answers at four times as many places."""
    net = Read(4, {"a": conv(4, 3)})
    few = labelled(3, n=12)
    net.make[0] = nn.Conv2d(3, 4, 1).double()  # else borders differ
    many = [{"img": b["img"].repeat(1, 1, 2, 2), "pull": b["pull"].repeat(1, 1, 4)} for b in few]
    assert scores(net, many)[2] == pytest.approx(4 * scores(net, few)[2], rel=1e-6)


@pytest.mark.parametrize("sizes", [(12, 12), (1,) * 24, (5, 19)])
def test_batching_changes_nothing(sizes: tuple[int, ...]) -> None:
    net = Read(5, {"a": conv(5, 4, 3, padding=1)})
    whole, parts = (scores(net, labelled(4, sizes=s))[2] for s in ((), sizes))
    assert parts == pytest.approx(whole, rel=1e-9)


def test_of_two_that_say_the_same_one_is_cheap_and_the_other_dear() -> None:
    net = Read(5, {"a": conv(5, 4)})
    with torch.no_grad():
        net.make[0].weight[3], net.make[0].bias[3] = net.make[0].weight[1], net.make[0].bias[1]
        net.readers["a"].weight[:, 3] = 1
        net.readers["a"].weight[:, 1] = 2
    found, group, values = scores(net, labelled(4))
    cheap, dear = sorted(values[[1, 3]])
    alone = costs_of(net, found, group, labelled(4))([1, 3])
    assert cheap < 1e-2 * alone < 0.1 * dear


def test_without_one_after_another_both_would_be_cheap() -> None:
    """What each costs while the other is there; so a sum of first prices says nothing about the two together."""
    net = Read(5, {"a": conv(5, 4)})
    with torch.no_grad():
        net.make[0].weight[3], net.make[0].bias[3] = net.make[0].weight[1], net.make[0].bias[1]
    cost = costs_of(net, *scores(net, labelled(4))[:2], labelled(4))
    assert max(cost([1]), cost([3])) < 1e-9 < 1e-3 < cost([1, 3])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(lambda net: net.readers["a"].weight[:, 2].zero_(), 2, id="nothing reads it"),
        pytest.param(lambda net: net.make[0].weight[2].zero_(), 2, id="it is constant: the intercept has it"),
    ],
)
def test_a_channel_that_says_nothing_costs_nothing(undamped, spoil, expected: int) -> None:
    net = Read(5, {"a": conv(5, 4, 3)})
    with torch.no_grad():
        spoil(net)
    values = scores(net, labelled(4, positions=4))[2]
    assert values[expected] == pytest.approx(0, abs=1e-9) and (np.delete(values, expected) > 1e-6).all()


def test_a_layer_that_the_loss_does_not_hear_costs_nothing() -> None:
    net = Read(5, {"a": conv(5, 3), "deaf": conv(5, 2)})
    batches = labelled(5)
    for batch in batches:
        batch["pull"][:, 3:] = 0
    alone = Read(5, {"a": conv(5, 3)})
    alone.make, alone.readers["a"] = net.make, net.readers["a"]
    heard = [{"img": b["img"], "pull": b["pull"][:, :3]} for b in batches]
    assert scores(net, batches)[2] == pytest.approx(scores(alone, heard)[2])


# ---- detectors ----


@pytest.fixture
def evidence(data) -> Evidence:
    return Evidence(batches=Batches(str(data), 64, 8, batch=4, labelled=True), loss=detection_loss)


def test_every_free_group_has_prices(loaded: nn.Module, evidence: Evidence) -> None:
    """A finite one for each channel, in residual groups too, by Ultralytics' own loss."""
    found = trace(loaded, 64)
    values = score(loaded, found, "obs", evidence=evidence)
    for group in found.groups:
        if group.reason is None:
            assert np.isfinite(values[group.name]).all() and (values[group.name] >= 0).all(), group.name
            assert len(np.unique(values[group.name])) > 1, group.name
    assert any(len(group.producers) > 1 for group in found.free)


class Counted:
    """Batches, and how often they were gone through."""

    def __init__(self, batches: object) -> None:
        self.batches, self.times = batches, 0

    def __iter__(self) -> Iterator[dict]:
        self.times += 1
        yield from self.batches


def test_with_little_memory_it_looks_more_often_and_sees_the_same(loaded: nn.Module, evidence: Evidence) -> None:
    found, values, times = trace(loaded, 64), [], []
    groups = [group for group in found.free if obs.__globals__["_readers"](found, group)]
    for memory in (2 << 30, 4 << 20, 1):
        counted = Counted(evidence.batches)
        values.append(obs(loaded, found, replace(evidence, batches=counted), memory=memory))
        times.append(counted.times)
    assert times[0] == 1 < times[1] < times[2] == len(groups), "in the end each group alone"
    for less in values[1:]:
        assert list(less) == list(values[0])
        assert all(less[name] == pytest.approx(values[0][name], rel=1e-6) for name in less)


def test_no_pass_holds_more_than_it_may(loaded: nn.Module) -> None:
    found, most = trace(loaded, 64), 2 << 20
    readers = {group.name: obs.__globals__["_readers"](found, group) for group in found.free}
    passes = list(obs.__globals__["_passes"](list(found.free), readers, loaded, most))
    assert [group for groups in passes for group in groups] == list(found.free) and len(passes) > 1
    for groups in passes:
        layers = [loaded.get_submodule(name) for name in set().union(*(readers[group.name] for group in groups))]
        assert len(groups) == 1 or sum(8 * layer.weight[0].numel() ** 2 for layer in layers) <= most


def test_the_detector_is_left_alone(detector: nn.Module, evidence: Evidence) -> None:
    detector.train()
    detector.model[0].eval()
    before = copy.deepcopy(detector.state_dict())
    modes = [m.training for m in detector.modules()]
    obs(detector, trace(detector, 64), evidence)
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    assert [m.training for m in detector.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in detector.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in detector.modules())


def test_frozen_layers_are_judged_as_well(detector: nn.Module, evidence: Evidence) -> None:
    """As a checkpoint of a finished training is stored."""
    found = trace(detector, 64)
    free = obs(detector, found, evidence)
    frozen = obs(detector.requires_grad_(False), found, evidence)
    assert all(np.array_equal(free[name], frozen[name]) for name in free)


def test_it_is_in_the_table() -> None:
    assert CRITERIA["obs"] is obs


class InTrainModeOnly(Read):
    def forward(self, x: Tensor) -> Tensor:
        x = self.make(x)
        names = ["a", "b"] if self.training else ["a"]
        return torch.cat([self.readers[name](x).flatten(2) for name in names], 1)


def test_a_layer_that_only_training_runs_has_no_say() -> None:
    net = InTrainModeOnly(5, {"a": conv(5, 3), "b": conv(5, 2)})
    alone = Read(5, {"a": conv(5, 3)})
    alone.make, alone.readers["a"] = net.make, net.readers["a"]
    assert scores(net, labelled(3))[2] == pytest.approx(scores(alone, labelled(3))[2])


# ---- it says so when it cannot ----


class Nothing:
    """Not empty as far as Python can tell, and yet no batch comes."""

    def __iter__(self) -> Iterator[dict]:
        return iter(())


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param(Evidence(), id="nothing"),
        pytest.param(Evidence(images=[torch.rand(1, 3, PX, PX)]), id="images without labels"),
        pytest.param(Evidence(batches=labelled(4)), id="no loss"),
        pytest.param(Evidence(loss=weighed), id="no batches"),
        pytest.param(Evidence(batches=Nothing(), loss=weighed), id="batches that do not come"),
    ],
)
def test_labelled_images_are_asked_for(evidence: Evidence) -> None:
    net = Read(5, {"a": conv(5, 4)})
    with pytest.raises(SlimError, match=r"prune\.criterion=obs looks at (the loss on labelled )?images"):
        obs(net, trace(net, PX), evidence)


@pytest.mark.parametrize("key", ["img", "pull"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_said(key: str, value: float) -> None:
    net = Read(5, {"a": conv(5, 4)})
    batches = labelled(4)
    batches[0][key][0, 0, 0] = value
    with pytest.raises(SlimError, match=r"prune\.criterion=obs: .* readers\.a .* not finite"):
        scores(net, batches)


def test_hooks_go_when_the_loss_fails() -> None:
    net = randomise_norms(Read(5, {"a": conv(5, 4)})).train()

    def fail(*_: object) -> Tensor:
        raise KeyError("labels")

    with pytest.raises(KeyError):
        obs(net, trace(net, PX), Evidence(batches=labelled(4), loss=fail))
    assert net.training and not any(m._forward_hooks for m in net.modules())
