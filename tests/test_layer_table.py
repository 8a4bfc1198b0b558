"""The table of layers: it finds the law that made its samples, and a budget of time is met by it."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Network, detector

from yolo_slim.channels import Constraints, Costs, LayerTable, Meter, Selection, Trace, fit_layers, select, trace
from yolo_slim.errors import SlimError
from yolo_slim.timing.layers import random_widths

PX = 64


@pytest.fixture(scope="module")
def wiring() -> Trace:
    return trace(detector("yolov5n"), PX)


def law(wiring: Trace, block: int, align: int = 1) -> LayerTable:
    """Some time for every layer, and for what is between them."""
    rng = np.random.default_rng(0)
    off = (0.0, 0.0, 1e-5 if align > 1 else 0.0)
    layers = {name: (0.01, *rng.uniform(0, 1e-3, 2), 1e-5 * rng.random(), *off) for name in wiring.convs}
    return LayerTable(block, align, layers, (0.2, 1e-7, 0.0))


def samples_of(table: LayerTable, wiring: Trace, keeps: np.ndarray) -> list[dict[str, float]]:
    costs = Costs(wiring)
    each = [table.by_layer(costs, widths) for widths in keeps]
    whole = table.many(costs, keeps)
    return [{**layers, "": total - sum(layers.values())} for layers, total in zip(each, whole, strict=True)]


@pytest.mark.parametrize(("block", "align"), [(1, 1), (8, 1), (16, 1), (32, 1), (16, 4), (16, 8)])
def test_it_finds_the_law_that_made_its_samples(wiring: Trace, block: int, align: int) -> None:
    true, keeps = law(wiring, block, align), random_widths(wiring, 24)
    found = fit_layers(wiring, keeps, samples_of(true, wiring, keeps))
    others = random_widths(wiring, 20, seed=7)
    assert (found.block, found.align) == (block, align)
    wanted = true.many(Costs(wiring), others)  # found but for widths that are one block in all samples
    assert found.many(Costs(wiring), others) == pytest.approx(wanted, rel=0.01)


def test_noise_never_makes_a_wider_aligned_layer_cheaper(wiring: Trace) -> None:
    keeps, rng = random_widths(wiring, 12), np.random.default_rng(1)
    noisy = [
        {name: ms * rng.uniform(0.5, 2) for name, ms in sample.items()}
        for sample in samples_of(law(wiring, 16), wiring, keeps)
    ]
    table, costs = fit_layers(wiring, keeps, noisy), Costs(wiring)
    for widths in keeps:
        widths = -(-widths // table.align) * table.align  # where it is not aligned, a layer may gain by width
        wider = widths + 2 * table.align
        assert (table.many(costs, np.stack([widths, wider]))[:2] @ [-1, 1]) >= 0


def test_random_widths_are_widths(wiring: Trace) -> None:
    keeps = random_widths(wiring, 9)
    full = Costs(wiring).full
    assert (keeps[0] == full).all() and (keeps >= 1).all() and (keeps <= full).all()
    protected = np.array([g.reason is not None for g in wiring.groups])
    assert (keeps[:, protected] == full[protected]).all()
    assert len(np.unique(keeps, axis=0)) == 9


@pytest.mark.parametrize("solver", ["threshold", "knapsack"])
@pytest.mark.parametrize("name", ["latency", "latency_ms"])
def test_a_budget_of_time_is_met_and_used(wiring: Trace, solver: str, name: str) -> None:
    table, costs = law(wiring, 16), Costs(wiring)
    whole = float(table.many(costs, costs.full[None])[0])
    scores = {g.name: np.random.default_rng(i).random(g.size) for i, g in enumerate(wiring.groups)}
    asked = {"latency": 0.6, "latency_ms": 0.6 * whole}[name]
    found = select(wiring, scores, Constraints(solver=solver, target={name: asked}, latency=table))
    keeps = wiring.widths(found.kept)
    assert float(table.many(costs, keeps[None])[0]) == pytest.approx(found.achieved["latency_ms"])
    assert 0.9 * 0.6 < found.achieved["latency"] <= 0.6 + 1e-9
    assert found.achieved["latency_ms"] == pytest.approx(found.achieved["latency"] * whole)
    assert found.looser[name] > asked


def test_out_of_reach_names_the_least_there_is(wiring: Trace) -> None:
    scores = {g.name: np.ones(g.size) for g in wiring.groups}
    with pytest.raises(SlimError, match=r"latency_ms 0\.01 ms \(lowest possible: \d+\.\d\d ms\)"):
        select(wiring, scores, Constraints(target={"latency_ms": 0.01}, latency=law(wiring, 8)))


def test_a_slow_layer_gives_more_to_a_budget_of_time_than_to_one_of_flops(wiring: Trace) -> None:
    """At one latency: the cut by FLOPs goes by scores alone, and knows nothing of the layer that is slow for them."""
    costs, slow = Costs(wiring), "model.5.conv"
    sizes = {name: len(c.inputs) * len(c.outputs) for name, c in wiring.convs.items()}
    per = {name: 1e-9 * wiring.convs[name].macs / sizes[name] * (20 if name == slow else 1) for name in costs.names}
    table = LayerTable(1, 1, {name: (0.0, 0.0, 0.0, each, 0.0, 0.0, 0.0) for name, each in per.items()}, (0.0,) * 3)
    scores = {g.name: np.random.default_rng(i).random(g.size) for i, g in enumerate(wiring.groups)}

    def cut(**target: float) -> Selection:
        return select(wiring, scores, Constraints(target=target, latency=table, round_to=1))

    timed, low, high = cut(latency=0.5), 0.1, 0.99
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(flops=middle).achieved["latency"] <= 0.5 else (low, middle)
    counted = cut(flops=low)
    assert timed.achieved["latency"] == pytest.approx(counted.achieved["latency"], abs=0.02)
    assert (timed.kept != counted.kept).any()
    taken = [table.by_layer(costs, wiring.widths(found.kept))[slow] for found in (timed, counted)]
    assert taken[0] < 0.8 * taken[1], "its inputs and outputs go first"
    worth = [sum(scores[g.name][s.kept[g.channels]].sum() for g in wiring.free) for s in (timed, counted)]
    assert worth[0] > worth[1], "for the same time, more of what matters stays"


def test_the_narrowest_is_not_the_fastest_where_a_runtime_likes_some_widths(wiring: Trace) -> None:
    costs = Costs(wiring)
    layers = {name: (0.0, 0.0, 0.0, 1e-6, 0.0, 0.0, 1e-5) for name in wiring.convs}  # eleven times, off multiples of 8
    table = LayerTable(1, 8, layers, (0.0, 0.0, 0.0))
    scores = {g.name: np.random.default_rng(i).random(g.size) for i, g in enumerate(wiring.groups)}
    floors = {"round_to": 1, "min_keep": 0.0, "min_channels": 9, "latency": table}
    narrow = np.array([min(9, g.size) if g.reason is None else g.size for g in wiring.groups])
    narrowest, aligned = (
        float(table.many(costs, np.minimum(w, costs.full)[None])[0] / table.many(costs, costs.full[None])[0])
        for w in (narrow, np.where(narrow == 9, 16, narrow))
    )
    assert aligned < 0.8 * narrowest
    found = select(wiring, scores, Constraints(target={"latency": 1.02 * aligned}, **floors))
    assert 0.9 * aligned < found.achieved["latency"] <= 1.02 * aligned
    with pytest.raises(SlimError, match=r"lowest possible: x(0\.\d+)") as refusal:
        select(wiring, scores, Constraints(target={"latency": 0.001}, **floors))
    least = float(str(refusal.value).partition("lowest possible: x")[2].partition(")")[0])
    assert least <= aligned + 5e-4


def test_without_a_table_time_cannot_be_asked_for(wiring: Trace) -> None:
    scores = {g.name: np.ones(g.size) for g in wiring.groups}
    with pytest.raises(SlimError, match=r"prune\.target\.latency needs a table of layers"):
        select(wiring, scores, Constraints(target={"latency": 0.5}))


def test_shares_are_those_of_the_whole_detector(wiring: Trace) -> None:
    """A residual branch that is gone takes no time: the table knows it, the trace does not."""
    net = trace(Network(3), 32)
    table = law(net, 1)
    more = LayerTable(1, 1, {**table.layers, "gone": (99.0, *[0.0] * 6)}, table.rest)
    counted = np.array([g.reason is None for g in net.groups])
    meters = [Meter(net, counted, layers=t, whole=net) for t in (table, more)]
    assert meters[0].of(meters[0].full) == meters[1].of(meters[1].full)
    assert meters[0].of(meters[0].full)["latency"] == 1
