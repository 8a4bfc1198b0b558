"""Least squares gives back what can be given back: exactly where that is possible, and never less than nothing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import PX, Act, ChunkPair, Fn, Network, Probe, Twice, detector, random_plan, randomise_norms
from torch import Tensor, nn
from ultralytics.nn.modules import C3, SPPF, C2f

from yolo_slim import SlimError
from yolo_slim.channels import Trace, cut, masked, reconstruct, relative_difference, trace
from yolo_slim.channels.groups import same_wiring
from yolo_slim.channels.moments import Moments, draw, patches

ALL = 10**6  # points: all of a map
SEEDS = range(8)


def images(n: int = 2, px: int = PX, size: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.rand(size, 3, px, px, generator=torch.Generator().manual_seed(i), dtype=dtype) for i in range(n)]


def case(net: nn.Module, seed: int = 0, px: int = PX) -> tuple[nn.Module, nn.Module, Trace, np.ndarray]:
    """Cut by a random plan, in fp64: slim, detector, trace, kept."""
    found = trace(net, px)
    kept = random_plan(found, np.random.default_rng(seed))
    net = net.double().eval()
    return cut(net, found, kept), net, found, kept


@functools.cache
def random_case(seed: int) -> tuple[nn.Module, nn.Module, Trace, np.ndarray]:
    """Of a random network. Reconstruction leaves it alone, so all tests share it."""
    return case(Network(seed), seed)


def thin(found: Trace, rng: np.random.Generator) -> np.ndarray:
    """A plan that leaves little, so that large detectors are refitted quickly."""
    kept = np.ones(found.n_channels, bool)
    for group in found.free:
        kept[rng.permutation(group.channels)[max(1, group.size // 6) :]] = False
    return kept


def without(found: Trace, **lost: list[int]) -> np.ndarray:
    """Bool per channel: the named convolutions lose these outputs."""
    kept = np.ones(found.n_channels, bool)
    for name, indices in lost.items():
        kept[found.convs[name.replace("_", ".")].outputs[indices]] = False
    return kept


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    a, b = before.state_dict(), after.state_dict()
    assert a.keys() == b.keys()
    return {key for key in a if not torch.equal(a[key], b[key])}


def distance(a: nn.Module, b: nn.Module) -> float:
    """The largest difference of weights and statistics, each relative to the largest of its tensor."""
    pairs = [(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True) if x.numel()]
    return max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-12)) for x, y in pairs if x.is_floating_point())


def finite(net: nn.Module) -> bool:
    return all(torch.isfinite(v).all() for v in net.state_dict().values())


def lost_inputs(found: Trace, kept: np.ndarray) -> set[str]:
    """Dense layers only: others lose an output with each input."""
    return {c.name for c in found.convs.values() if c.groups == 1 and ((c.inputs >= 0) & ~kept[c.inputs]).any()}


# ---- the fit ----


def samples(n: int = 200, a: int = 5, b: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, a, generator=generator, dtype=torch.float64) + 5
    return x, x @ torch.randn(a, b, generator=generator, dtype=torch.float64) + torch.randn(n, b, generator=generator)


def fitted(x: Tensor, y: Tensor, ridge: float, start: Tensor | None = None, parts: int = 1) -> tuple[Tensor, Tensor]:
    moments = Moments()
    for part in zip(x.chunk(parts), y.chunk(parts), strict=True):
        moments.add(*part)
    return moments.fit(torch.zeros(y.shape[1], x.shape[1]) if start is None else start, ridge)


def with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def test_a_duplicate_channel_is_taken_over() -> None:
    """X3 = 2 X1, W = (1, -1, .5), channel 3 goes: (2, -1), and nothing is lost."""
    torch.manual_seed(0)
    x = torch.randn(20, 2, dtype=torch.float64)
    x = torch.cat([x, 2 * x[:, :1]], 1)
    w = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
    weights, intercept = fitted(x[:, :2], x @ w.T, 0.0, w[:, :2])
    assert torch.allclose(weights, torch.tensor([[2.0, -1.0]], dtype=torch.float64), atol=1e-13)
    assert (x[:, :2] @ weights.T + intercept - x @ w.T).norm() < 1e-13
    assert (x[:, :2] @ w[:, :2].T - x @ w.T).norm() > 1


def test_it_is_least_squares_with_an_intercept() -> None:
    x, y = samples()
    expected = torch.linalg.lstsq(with_ones(x), y).solution
    weights, intercept = fitted(x, y, 0.0)
    assert torch.allclose(weights, expected[:-1].T, atol=1e-12) and torch.allclose(intercept, expected[-1], atol=1e-11)


@pytest.mark.parametrize("parts", [2, 7, 200])
def test_in_parts_as_at_once(parts: int) -> None:
    x, y = samples()
    for one, many in zip(fitted(x, y, 1e-3), fitted(x, y, 1e-3, parts=parts), strict=True):
        assert torch.allclose(one, many, atol=1e-12)


def test_the_ridge_is_what_it_says() -> None:
    """Its minimum: samples of the start, in units of the mean variance of an input, stacked below the others."""
    x, y = samples()
    start, ridge = torch.randn(3, 5, dtype=torch.float64), 0.3
    strength = (ridge * len(x) * x.var(0, correction=0).mean()).sqrt()
    below = torch.cat([strength * torch.eye(5, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64)], 1)
    stacked = torch.cat([with_ones(x), below]), torch.cat([y, strength * start.T])
    weights, intercept = fitted(x, y, ridge, start)
    expected = torch.linalg.lstsq(*stacked).solution
    assert torch.allclose(weights, expected[:-1].T, atol=1e-11) and torch.allclose(intercept, expected[-1], atol=1e-10)


def test_what_the_samples_do_not_show_stays_at_the_start() -> None:
    x, y = samples()
    x[:, 4] = 3.0  # constant: any weight would do
    x[:, 3] = x[:, 2]  # only the sum of the two weights shows
    start = torch.randn(3, 5, dtype=torch.float64)
    weights, _ = fitted(x, y, 1e-9, start)
    assert torch.allclose(weights[:, 4], start[:, 4], atol=1e-6)
    assert torch.allclose(weights[:, 2] - weights[:, 3], start[:, 2] - start[:, 3], atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_show_nothing_leave_the_weights_alone(value: float, dtype: torch.dtype) -> None:
    """As in a dark image: every input constant. In fp32, rounding of squares would otherwise be taken for variance."""
    x, start = torch.full((300, 4), value, dtype=dtype) * torch.tensor([1.0, 0.7, 0.3, 0.1]).to(dtype), torch.rand(2, 4)
    weights, intercept = fitted(x, torch.full((300, 2), 2.0, dtype=dtype), 1e-3, start)
    assert torch.allclose(weights, start.double(), atol=1e-6)
    assert torch.allclose(x.double() @ weights.T + intercept, torch.tensor(2.0).double(), atol=1e-3)


def test_single_precision_is_enough_far_from_zero() -> None:
    """Means a thousand times the spread: squares would lose in fp32 what differences keep."""
    x, y = samples()
    x, y = x + 1000, y
    weights, _ = fitted(x.float(), y.float(), 0.0)
    assert torch.allclose(weights, torch.linalg.lstsq(with_ones(x), y).solution[:-1].T, atol=1e-2)


# ---- patches ----


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.sampled_from([1, 3, 6]), st.sampled_from([1, 2, 3])),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    mode=st.sampled_from(["zeros", "zeros", "replicate", "reflect", "circular"]),
    seed=st.integers(0, 99),
)
def test_patches_times_weights_is_the_convolution(kernel, stride, padding, dilation, mode, seed) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 3, kernel, stride, padding, dilation, bias=False, padding_mode=mode).double()
    holds(conv)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [1, 2, 3, (4, 3)])
def test_patches_pad_as_the_layer_is_told_in_words(kernel, padding: str, mode: str) -> None:
    holds(nn.Conv2d(2, 3, kernel, padding=padding, bias=False, padding_mode=mode).double())


@torch.no_grad()
def holds(conv: nn.Conv2d) -> None:
    image = torch.rand(2, 2, 14, 13, dtype=torch.float64)
    out = conv(image)
    rows, columns = draw(out, 7, [0])
    computed = patches(image, conv, rows, columns) @ conv.weight.flatten(1).T
    assert torch.allclose(computed, out[:, :, rows, columns].permute(0, 2, 1).flatten(0, 1), atol=1e-12)


def test_positions_are_drawn_without_repetition() -> None:
    out = torch.empty(2, 3, 4, 5)
    for points in (1, 7, 20, 99):
        rows, columns = draw(out, points, [1, 2])
        assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == min(points, 20)
        assert rows.max() < 4 and columns.max() < 5
    drawn = [draw(out, 7, seed)[0].tolist() for seed in ([1, 2], [1, 2], [1, 3], [2, 2])]
    assert drawn[0] == drawn[1] and drawn[0] not in drawn[2:]


# ---- what it gives back ----


class Redundant(nn.Module):
    """Of eight channels the last four are `mixture` times the first four, wherever they are read."""

    def __init__(self, between: nn.Module, reader: nn.Module, act: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make, self.act = nn.Conv2d(3, 8, 3, padding=1), act
        self.between, self.read, self.end = between, reader, nn.Conv2d(6, 5, 1)
        randomise_norms(self)
        mixture = torch.randn(4, 4)
        with torch.no_grad():
            if not isinstance(act, nn.Identity):  # behind an activation: of positive numbers, or of one alone
                mixture = torch.diag(torch.rand(4) + 0.5)
            self.make.weight[4:] = torch.einsum("oi,ihwk->ohwk", mixture, self.make.weight[:4])
            self.make.bias[4:] = mixture @ self.make.bias[:4]

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.read(self.between(self.act(self.make(x))))).flatten(2)


@pytest.mark.parametrize(
    ("between", "reader", "act"),
    [
        pytest.param(nn.Identity(), Act(8, 6), nn.Identity(), id="1x1, batch norm"),
        pytest.param(nn.Identity(), Act(8, 6, 3), nn.Identity(), id="padded 3x3, batch norm: at the border too"),
        pytest.param(nn.Identity(), Act(8, 6, norm=False, bias=True), nn.Identity(), id="bias"),
        pytest.param(nn.Identity(), Act(8, 6, bias=True), nn.Identity(), id="bias and batch norm"),
        pytest.param(nn.Identity(), Act(8, 6, affine=False), nn.Identity(), id="batch norm without scales"),
        pytest.param(nn.Identity(), Act(8, 6, 3, stride=2), nn.ReLU(), id="stride, behind ReLU"),
        pytest.param(nn.MaxPool2d(3, 1, 1), Act(8, 6, 3), nn.ReLU(), id="behind a pool"),
        pytest.param(nn.Upsample(scale_factor=2), Act(8, 6), nn.LeakyReLU(0.1), id="behind upsampling"),
        pytest.param(Fn(lambda x: torch.cat([x, x], 1)), Act(16, 6, 3), nn.Identity(), id="one tensor read twice"),
        pytest.param(nn.Identity(), nn.Sequential(Act(8, 8), Act(8, 6)), nn.Identity(), id="two layers behind"),
    ],
)
def test_channels_that_others_hold_are_given_back_whole(between, reader, act) -> None:
    net = Redundant(copy.deepcopy(between), copy.deepcopy(reader), act)
    found = trace(net, 16)
    kept = without(found, make=[4, 5, 6, 7])
    assert not kept.all()
    net = net.double()
    slim = cut(net, found, kept)
    # Over a pool or a border the fit needs all positions; a ridge is kept, so small that it does not show.
    healed = reconstruct(slim, net, found, kept, images(3, px=16, size=8), points=ALL, ridge=1e-13)
    fresh = images(5, px=16)[-1]
    assert relative_difference(net, healed, fresh) < 1e-6 < 1e-2 < relative_difference(net, slim, fresh)


@torch.no_grad()
def errors(slim: nn.Module, healed: nn.Module, net: nn.Module, found: Trace, kept: np.ndarray, batches: list[Tensor]):
    """For each refitted layer: its squared error with the new weights and with the old, both on what it reads now."""
    for name in lost_inputs(found, kept) & {n.rpartition(".")[0] for n in changed(slim, healed)}:
        conv, stay = (
            found.convs[name],
            torch.as_tensor(kept[found.convs[name].outputs] | (found.convs[name].outputs < 0)),
        )
        shift = torch.zeros(int(stay.sum()), dtype=torch.float64)
        if not conv.bias:  # the intercept went into the batch norm
            shift = slim.get_submodule(conv.norm).running_mean - healed.get_submodule(conv.norm).running_mean
        new = old = 0.0
        for batch in batches:
            read, gave = watch(healed, name, batch)[0], watch(net, name, batch)[1]
            for x, y in zip(read, gave, strict=True):
                truth = y[:, stay]
                new += float((healed.get_submodule(name)(x) + shift[:, None, None] - truth).square().sum())
                old += float((slim.get_submodule(name)(x) - truth).square().sum())
        yield name, new, old


def watch(net: nn.Module, name: str, batch: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    read, gave = [], []
    layer = net.get_submodule(name)

    def see(module: nn.Module, args: tuple, out: Tensor) -> None:
        read.append(args[0].clone())
        gave.append(out.clone())

    handle = layer.register_forward_hook(see)
    net.eval()(batch)
    handle.remove()
    return read, gave


@pytest.mark.parametrize("seed", SEEDS)
def test_no_layer_is_worse_than_it_was(seed: int) -> None:
    """Over all positions, in the mean over all calls of a layer; the ridge is paid out of what is gained."""
    slim, net, found, kept = random_case(seed)
    healed = reconstruct(slim, net, found, kept, images(), points=ALL)
    assert finite(healed)
    for name, new, old in errors(slim, healed, net, found, kept, images()):
        assert new <= old * (1 + 1e-9) + 1e-12, name


def test_random_networks_come_nearer_to_the_original() -> None:
    """Not a law for each of them, as layers are fitted one by one; for all together it must show clearly."""
    gains = []
    for seed in SEEDS:
        slim, net, found, kept = random_case(seed)
        healed = reconstruct(slim, net, found, kept, images(), points=ALL)
        fresh = images(5)[-1]
        with torch.no_grad():
            before, after = ((other.eval()(fresh) - net(fresh)).square().mean() for other in (slim, healed))
        gains.append(float(after / before.clamp(min=1e-12)))
    assert np.median(gains) < 0.1


# ---- networks of every kind ----


class Loop(nn.Module):
    """A convolution that reads what it gave: its second call can be known only after it has been fitted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Act(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x))


class Levels(nn.Module):
    """One convolution reads two depths."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.both = nn.Sequential(Act(8, 8), Act(8, 8)), Twice(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x, self.deep(x))


class TrainOnly(nn.Module):
    """A branch that runs in train mode alone, as one of the two heads of YOLOv10 does."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.aside = Act(8, 8), Act(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.always(x) + self.aside(x) if self.training else self.always(x)


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(lambda: C3(8, 8, n=2), id="residual stage"),
        pytest.param(lambda: C2f(8, 8, n=2, shortcut=True), id="chunk and concatenation of all parts"),
        pytest.param(lambda: ChunkPair(8, 4), id="chunk"),
        pytest.param(lambda: SPPF(8, 8), id="SPPF"),
        pytest.param(lambda: Fn(lambda x: torch.cat([x, x], 1)), id="one tensor twice"),
        pytest.param(lambda: Fn(lambda x: x + x), id="sum with itself"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), Act(8, 8, 3, groups=8), Act(8, 8)), id="depthwise"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), Act(8, 8, 3, groups=2), Act(8, 8)), id="grouped"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), Act(8, 8, norm=False), Act(8, 8)), id="neither norm nor bias"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), nn.Conv2d(8, 8, 3, padding="same")), id="padding in words"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), nn.ConvTranspose2d(8, 8, 2, 2)), id="transposed"),
        pytest.param(lambda: nn.Sequential(Act(8, 8, act=nn.ReLU(inplace=True)), Act(8, 8)), id="in place"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), Loop()), id="reads what it gave"),
        pytest.param(Levels, id="reads two depths"),
        pytest.param(lambda: nn.Sequential(Act(8, 8), TrainOnly()), id="in train mode only"),
    ],
)
@pytest.mark.parametrize("memory", [0, 2 << 30])
def test_all_wirings_are_refitted(operator: Callable[[], nn.Module], memory: int) -> None:
    torch.manual_seed(0)
    slim, net, found, kept = case(Probe(operator(), stem=Act(3, 8, 3)), seed=4, px=16)
    steps: list[tuple[int, int]] = []
    batches = images(px=16, size=6)
    healed = reconstruct(slim, net, found, kept, batches, points=ALL, memory=memory, step=lambda *at: steps.append(at))
    assert finite(healed) and changed(slim, healed)
    assert steps[-1][0] == steps[-1][1] > 0
    with torch.no_grad():
        before, after = ((other(batches[0]) - net(batches[0])).square().mean() for other in (slim, healed))
    assert after < before


def test_a_layer_that_reads_two_depths_is_fitted_to_both() -> None:
    """Not as soon as the first of its inputs is there: so the error over both calls falls."""
    torch.manual_seed(0)
    net = Probe(Levels())
    found = trace(net, 16)
    kept = without(found, stem_0=[0, 1, 2])
    net = net.double()
    slim = cut(net, found, kept)
    healed = reconstruct(slim, net, found, kept, images(px=16), points=ALL)
    rows = {name: (new, old) for name, new, old in errors(slim, healed, net, found, kept, images(px=16))}
    new, old = rows["operator.both.conv.0"]
    assert new < 0.9 * old


@pytest.mark.parametrize("name", ["yolov5n", "yolov3-tiny", "yolov8n", "yolo11n"])
def test_detectors(name: str) -> None:
    """At full width and random weights, whatever the plan: nearer than before, wired as planned, ready to cut again."""
    net = detector(name)
    found = trace(net, 64)
    kept = thin(found, np.random.default_rng(0))
    slim, steps = cut(net, found, kept), []
    batches = images(1, px=64, dtype=torch.float32)
    healed = reconstruct(slim, net, found, kept, batches, step=lambda *at: steps.append(at))
    assert finite(healed) and steps[-1][0] == steps[-1][1] == len({*lost_inputs(found, kept)})
    again = trace(healed, 64)
    assert same_wiring(found, kept, again)
    more = thin(again, np.random.default_rng(1))
    assert (
        relative_difference(
            masked(healed, again, more).double(), cut(healed, again, more).double(), batches[0].double()
        )
        < 1e-9
    )
    fresh = images(3, px=64, dtype=torch.float32)[-1]
    with torch.no_grad():
        raw = [other.eval()(fresh)[0] for other in (net, slim, healed)]
    assert (raw[2] - raw[0]).square().mean() < (raw[1] - raw[0]).square().mean()


# ---- what it does not depend on ----


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_changes_nothing_but_time(seed: int) -> None:
    slim, net, found, kept = random_case(seed)
    plenty, *others = (
        reconstruct(slim, net, found, kept, images(3), points=20, memory=memory) for memory in (2 << 30, 0, 100_000)
    )
    assert all(distance(plenty, other) < 1e-6 for other in others)


@pytest.mark.parametrize("seed", SEEDS)
def test_batching_changes_nothing_if_all_positions_are_read(seed: int) -> None:
    slim, net, found, kept = random_case(seed)
    together = torch.cat(images(3, size=2))
    whole, *parts = (reconstruct(slim, net, found, kept, together.split(size), points=ALL) for size in (6, 1, 4))
    assert all(distance(whole, other) < 1e-6 for other in parts)


def test_a_seed_draws_the_same_positions() -> None:
    slim, net, found, kept = case(Network(0))
    one, again, other = (reconstruct(slim, net, found, kept, images(), points=9, seed=seed) for seed in (0, 0, 1))
    assert distance(one, again) == 0 < distance(one, other)


# ---- what it leaves alone ----


@pytest.mark.parametrize("seed", SEEDS)
def test_where_nothing_went_nothing_changes(seed: int) -> None:
    net = Network(seed)
    found = trace(net, PX)
    kept = np.ones(found.n_channels, bool)
    assert not changed(net, reconstruct(net, net, found, kept, [])), "without looking at a single image"


def test_only_layers_that_lost_inputs_change() -> None:
    net = detector("yolov5n")
    found = trace(net, 64)
    kept = without(found, model_0_conv=[0, 1, 2], **{"model_24_cv3_0_1_conv": [0, 1]})
    slim = cut(net, found, kept)
    healed = reconstruct(slim, net, found, kept, images(px=64, dtype=torch.float32))
    assert changed(slim, healed) == {
        *("model.1.conv.weight", "model.1.bn.running_mean"),
        *("model.24.cv3.0.2.weight", "model.24.cv3.0.2.bias"),
    }


class Spoilt(Exception):
    pass


def one_and_then(what: Callable[[], Tensor]) -> list:
    """Batches of which the second is made when it is read."""

    class Batches(list):
        def __iter__(self) -> Iterator[Tensor]:
            yield images(1)[0]
            yield what()

    return Batches()


def spoil() -> Tensor:
    raise Spoilt


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param(images(), id="to the end"),
        pytest.param(one_and_then(spoil), id="until a batch cannot be read"),
        pytest.param(one_and_then(lambda: torch.rand(2, 7, PX, PX).double()), id="until a batch does not fit"),
        pytest.param([torch.full((2, 3, PX, PX), torch.nan).double()], id="until a number is none"),
    ],
)
def test_detector_and_slim_are_left_alone(batches: list) -> None:
    net = nn.Sequential(Act(3, 8, act=nn.ReLU(inplace=True)), Act(8, 8, act=nn.ReLU(inplace=True)), nn.Conv2d(8, 5, 1))
    net = nn.Sequential(net, nn.Flatten(2))
    slim, net, found, kept = case(randomise_norms(net), seed=2)
    nets = [net.train(), slim.train()]
    net[0][0].eval()
    net[0][1][2].forward = slim[0][1][2].forward = torch.relu

    def facts(of: nn.Module) -> list:
        return [(m.training, vars(m).get("forward"), getattr(m, "inplace", None)) for m in of.modules()]

    before = [(copy.deepcopy(other.state_dict()), facts(other)) for other in nets]
    try:
        healed = reconstruct(slim, net, found, kept, batches)
        assert facts(healed) == facts(slim) and changed(slim, healed)
    except (Spoilt, RuntimeError, SlimError):
        pass
    for other, (state, fact) in zip(nets, before, strict=True):
        assert facts(other) == fact
        assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in other.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_stays(dtype: torch.dtype) -> None:
    slim, net, found, kept = case(Network(3), 3)
    healed = reconstruct(slim.to(dtype), net.to(dtype), found, kept, images(dtype=dtype))
    assert {v.dtype for v in healed.state_dict().values() if v.is_floating_point()} == {dtype}


# ---- it says so when it cannot ----


def simple(seed: int = 0) -> tuple[nn.Module, nn.Module, Trace, np.ndarray]:
    torch.manual_seed(seed)
    net = nn.Sequential(Act(3, 8), Act(8, 8), nn.Conv2d(8, 5, 1), nn.Flatten(2))
    found = trace(net, PX)
    net = net.double().eval()
    kept = without(found, **{"0_0": [0, 1], "1_0": [2]})
    return cut(net, found, kept), net, found, kept


def spotted(value: float, *at: int) -> list[Tensor]:
    """Two batches of two images with one wrong pixel: (batch, image)."""
    batches = [b[:2].clone() for b in images(2)]
    batches[at[0]][at[1], 0, 5, 5] = value
    return batches


@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e200])
def test_images_that_are_not_finite(value: float, at: tuple[int, int]) -> None:
    """In the first image or in the last: never a detector of NaN, never half of the images passed over."""
    slim, net, found, kept = simple()
    with pytest.raises(SlimError, match=r"cannot refit 1\.0: .*images"):
        reconstruct(slim, net, found, kept, spotted(value, *at), points=ALL)


@pytest.mark.parametrize("broken", ["slim", "detector"])
def test_weights_that_are_not_finite(broken: str) -> None:
    slim, net, found, kept = simple()
    with torch.no_grad():
        {"slim": slim, "detector": net}[broken].get_submodule("0.0").weight[0] = torch.nan
    with pytest.raises(SlimError, match="cannot refit"):
        reconstruct(slim, net, found, kept, images())


@pytest.mark.parametrize(
    "batches", [pytest.param([], id="none"), pytest.param((b for b in images()), id="readable only once")]
)
def test_batches_must_be_there_for_every_level(batches) -> None:
    slim, net, found, kept = simple()
    with pytest.raises(SlimError, match="batches of images that can be read again"):
        reconstruct(slim, net, found, kept, batches)
