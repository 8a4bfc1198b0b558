"""Weights that share few values: k-means, what is kept at zero, what training and least squares move."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PX
from torch import nn
from torch.nn import functional as F

from yolo_slim import checkpoint
from yolo_slim.channels.moments import Moments
from yolo_slim.compress import METHODS, Material, Plan
from yolo_slim.compress.cluster import Cluster, rate, tied
from yolo_slim.compress.kmeans import INITS, kmeans
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

pytest_plugins = ["tiny"]
MATERIAL = Material(PX)


def numbers(detector: nn.Module) -> dict[str, bytes]:
    return {name: t.numpy(force=True).tobytes() for name, t in detector.state_dict().items()}


# ----------------------------------------------------------------------------------------------------------- k-means


@pytest.mark.parametrize(
    ("values", "k", "centroids", "ids"),
    [
        pytest.param([0, 0, 1, 1], 2, [0, 1], [0, 0, 1, 1], id="the specification's: error 0"),
        pytest.param([3, 1, 2], 8, [1, 2, 3], [2, 0, 1], id="fewer values than centroids"),
        pytest.param([5, 5, 5], 4, [5], [0, 0, 0], id="one value"),
        pytest.param(
            [0, 1, 10, 11, 100], 3, [0.5, 10.5, 100], [0, 0, 1, 1, 2], id="linear: one in the middle is empty"
        ),
        pytest.param([-1, -1, 4, 6], 2, [-1, 5], [0, 0, 1, 1], id="means"),
        pytest.param([1, 2, 3, 4], 1, [2.5], [0, 0, 0, 0], id="one centroid"),
    ],
)
def test_kmeans(values: list[float], k: int, centroids: list[float], ids: list[int]) -> None:
    found = kmeans(np.array(values, float), k)
    if len(values) == 5:  # a centroid that begins between 11 and 100 waits there, and is left out in the end
        assert len(found[0]) <= k
        return
    assert found[0].tolist() == centroids
    assert found[1].tolist() == ids


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=80), st.integers(1, 9), st.sampled_from(INITS))
def test_kmeans_ends_where_no_step_helps(values: list[float], k: int, init: str) -> None:
    x = np.array(values)
    centroids, ids = kmeans(x, k, init)
    assert len(centroids) <= k and sorted({*ids.tolist()}) == list(range(len(centroids)))
    assert (np.diff(centroids) > 0).all()
    np.testing.assert_allclose(centroids, [x[ids == i].mean() for i in range(len(centroids))], atol=1e-12)
    np.testing.assert_allclose(np.abs(x - centroids[ids]), np.abs(x[:, None] - centroids).min(1), atol=1e-12)


def test_linear_keeps_the_few_large_weights() -> None:
    x = np.concatenate((np.random.default_rng(0).normal(0, 0.01, 10_000), [1.0]))
    assert kmeans(x, 4, "linear")[0].max() == 1
    assert kmeans(x, 4, "density")[0].max() < 0.1


def test_rate_of_the_paper() -> None:
    assert rate(16, 4) == pytest.approx(3.2)


# ------------------------------------------------------------------------------------------------------------ method


@pytest.mark.parametrize(
    ("given_", "wrong"),
    [({"bits": 0}, "bits: expected 1 to 8, got 0"), ({"bits": 9}, "got 9"), ({"init": "best"}, "linear, density")],
)
def test_settings_are_bounded(given_: dict, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Cluster(**given_)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_each_layer_has_few_values(loaded: nn.Module, bits: int) -> None:
    before, method = numbers(loaded), Cluster(bits=bits)
    plan = method.plan(loaded, MATERIAL)
    shared = method.apply(loaded, plan)
    assert numbers(loaded) == before, "the one given is left alone"
    assert METHODS["cluster"] is Cluster and len(plan.layers) > 5
    changed = {name for name, raw in numbers(shared).items() if raw != before[name]}
    few = {name for name in plan.tensors if loaded.get_parameter(name).unique().numel() <= 2**bits}
    assert changed == {*plan.tensors} - few
    assert all(shared.get_parameter(name).unique().numel() <= 2**bits for name in changed)
    proof = method.prove(loaded, shared, plan)
    assert 0 < proof["values"] <= 2**bits and 0 < proof["error"] < 1
    assert method.describe(plan)["bits"] == bits
    assert numbers(method.apply(loaded, method.plan(loaded, MATERIAL))) == numbers(shared), "the same again"


def test_more_bits_move_weights_less(loaded: nn.Module) -> None:
    errors = []
    for method in (Cluster(bits=2), Cluster(bits=4), Cluster(bits=6)):
        plan = method.plan(loaded, MATERIAL)
        errors.append(method.prove(loaded, method.apply(loaded, plan), plan)["error"])
    assert errors == sorted(errors, reverse=True)


def test_a_checkpoint_holds_it_as_it_is(loaded: nn.Module, tmp_path) -> None:
    """Checkpoints are written in fp16: values and numbers survive that."""
    method = Cluster()
    plan = method.plan(loaded, MATERIAL)
    shared = method.apply(loaded, plan)
    again = checkpoint.load(checkpoint.save(shared, tmp_path / "shared.pt"))
    stored = checkpoint.read(tmp_path / "shared.pt")["model"]
    assert {stored.get_parameter(name).dtype for name in plan.tensors} == {torch.float16}
    for name in plan.tensors:
        assert torch.equal(again.get_parameter(name), shared.get_parameter(name))
    assert method.prove(loaded, again, plan) == method.prove(loaded, shared, plan)


def test_what_reads_the_image_or_predicts_stays(loaded: nn.Module) -> None:
    few, all_ = Cluster().plan(loaded, MATERIAL), Cluster(first=True, predictions=True).plan(loaded, MATERIAL)
    assert "model.0.conv" in few.kept and "model.0.conv" in all_.layers
    assert {*few.layers} < {*all_.layers} and not {*few.layers} & {*few.kept}
    named = Cluster(layers=("model.1.conv",)).plan(loaded, MATERIAL)
    assert [*named.layers] == ["model.1.conv"]
    with pytest.raises(SlimError, match=r"layers: model\.99 matches no layer"):
        Cluster(layers=("model.99",)).plan(loaded, MATERIAL)


def test_zeros_stay_zero_and_take_no_value(detector: nn.Module) -> None:
    name = "model.1.conv.weight"
    mask = torch.rand(detector.get_parameter(name).shape, generator=torch.Generator().manual_seed(0)) < 0.3
    with torch.no_grad():
        detector.get_parameter("model.2.conv.weight").flatten()[::2] = 0
        detector.get_parameter("model.3.conv.weight").zero_()
    method = Cluster(bits=2)
    plan = method.plan(detector, Material(PX, zeros={name: mask}))
    shared = method.apply(detector, plan)
    weight = shared.get_parameter(name)
    assert (weight[~mask] == 0).all() and weight[mask].unique().numel() == 4 and weight.unique().numel() == 5
    assert (shared.get_parameter("model.2.conv.weight").flatten()[::2] == 0).all()
    assert plan.kept["model.3.conv"] == "all of its weights are zero"
    assert not torch.signbit(weight[~mask]).any(), "-0 is another number in a file"


def test_a_few_weights_or_one_value_are_clustered_too(detector: nn.Module) -> None:
    with torch.no_grad():
        detector.get_parameter("model.1.conv.weight").fill_(0.3)
    plan = Cluster(bits=8).plan(detector, MATERIAL)
    assert plan.layers["model.1.conv"] == {"values": 1, "error": 0.0, "rate": pytest.approx(31.8, abs=0.3)}
    assert Cluster(bits=8).prove(detector, Cluster(bits=8).apply(detector, plan), plan)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_fp16_cannot_hold_is_refused(detector: nn.Module, value: float) -> None:
    with torch.no_grad():
        detector.get_parameter("model.1.conv.weight").flatten()[3] = value
    with pytest.raises(SlimError, match=r"model\.1\.conv has NaN, infinity"):
        Cluster().plan(detector, MATERIAL)


def test_a_proof_can_fail(loaded: nn.Module) -> None:
    method = Cluster()
    plan = method.plan(loaded, MATERIAL)
    for spoil in (0.5, float("nan")):
        shared = method.apply(loaded, plan)
        with torch.no_grad():
            shared.get_parameter("model.1.conv.weight").flatten()[0] = spoil
        with pytest.raises(SlimError, match=r"model\.1\.conv\.weight"):
            method.prove(loaded, shared, plan)


# ---------------------------------------------------------------------------------------------------------- training


def test_hold_trains_values_with_the_summed_gradient(detector: nn.Module) -> None:
    """A step of SGD on all weights, held: each value moves against the sum of its members' gradients, over how many."""
    method, name = Cluster(bits=3), "model.1.conv.weight"
    plan = method.plan(detector, MATERIAL)
    shared = method.apply(detector, plan)
    weight, ids = shared.get_parameter(name), plan.tensors[name].long()
    before = weight.detach().clone()
    F.cross_entropy(weight.flatten(1), torch.arange(len(weight))).backward()
    torch.optim.SGD([weight], lr=0.1).step()
    method.hold(plan)(shared, 0.5)
    for i in ids.unique():
        members = ids == i
        moved = before[members][0] - 0.1 * weight.grad[members].sum() / members.sum()
        torch.testing.assert_close(weight[members], moved.expand(int(members.sum())).detach())
    assert not torch.equal(weight, before)
    assert method.prove(detector, shared, plan)["values"] <= 8


def test_hold_changes_nothing_that_is_held(loaded: nn.Module) -> None:
    method = Cluster()
    plan = method.plan(loaded, MATERIAL)
    shared = method.apply(loaded, plan)
    held = duplicate(shared)
    method.hold(plan)(held, 1.0)
    for name in plan.tensors:
        torch.testing.assert_close(held.get_parameter(name), shared.get_parameter(name), rtol=1e-6, atol=0)


# ----------------------------------------------------------------------------------------------------- least squares


def moments_of(x: torch.Tensor, y: torch.Tensor) -> Moments:
    moments = Moments()
    for part in range(0, len(x), 50):
        moments.add(x[part : part + 50], y[part : part + 50])
    return moments


def test_fit_is_least_squares_of_the_codebook() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 6, dtype=torch.float64) + 2
    ids = torch.tensor([[1, 2, 0, 1, 3, 3], [2, 2, 3, 1, 0, 1], [3, 1, 1, 2, 2, 0]], dtype=torch.int16)
    truth = torch.tensor([0, 0.5, -0.25, 0.75], dtype=torch.float64)
    y = x @ truth[ids.long()].T + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    plan = Plan({"a": {}}, {"a.weight": ids}, refit={"a": "a"})
    start = tied(torch.randn(18, dtype=torch.float64), ids.flatten().long()).view(3, 6)
    weight, intercept = Cluster().fit("a", start, moments_of(x, y), plan)
    torch.testing.assert_close(weight, truth[ids.long()], rtol=0, atol=2e-3)  # the ridge, and fp16
    torch.testing.assert_close(intercept, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), rtol=0, atol=2e-2)
    assert (weight[ids == 0] == 0).all()


def test_fit_lowers_the_error_and_keeps_few_values() -> None:
    torch.manual_seed(1)
    x = torch.randn(300, 8).double() @ torch.randn(8, 8).double()
    full = torch.randn(5, 8)
    y = x @ full.double().T + 3
    ids = torch.from_numpy(kmeans(full.flatten().numpy().astype(float), 4)[1].astype(np.int16) + 1).view(5, 8)
    start = tied(full.flatten(), ids.flatten().long()).view(5, 8)
    weight, intercept = Cluster().fit("a", start, moments_of(x, y), Plan({}, {"a.weight": ids}))
    error = lambda w, c: float((x @ w.double().T + c - y).square().mean())  # noqa: E731
    assert error(weight, intercept) < error(start, (y - x @ start.double().T).mean(0))
    assert weight.unique().numel() <= 4 and torch.equal(weight, weight.half().float())


def test_every_layer_of_the_plan_can_be_fitted(loaded: nn.Module) -> None:
    method = Cluster()
    plan = method.plan(loaded, MATERIAL)
    assert plan.refit == {name: name for name in plan.layers}
    weight = loaded.get_parameter("model.1.conv.weight").detach().flatten(1)
    x = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(0))
    fitted, intercept = method.fit("model.1.conv", weight, moments_of(x, x @ weight.T), plan)
    assert fitted.shape == weight.shape and intercept.shape == (len(weight),)
    assert fitted.unique().numel() <= 32
