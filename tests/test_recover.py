"""Which recovery runs when: least squares where there are images, else absorption; recalibration not behind it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from networks import PX, Act, random_plan, randomise_norms
from torch import Tensor, nn

from yolo_slim import SlimError
from yolo_slim.channels import cut, trace
from yolo_slim.config import Prune
from yolo_slim.console import At, progress
from yolo_slim.pruning import recover as module
from yolo_slim.pruning.recover import recover

IMAGES = [torch.rand(8, 3, PX, PX, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return randomise_norms(nn.Sequential(Act(3, 8), Act(8, 8), nn.Conv2d(8, 5, 1), nn.Flatten(2)))


def case(net: nn.Module | None = None):
    """Slim, detector, trace, plan."""
    net = net or network()
    found = trace(net, PX)
    kept = random_plan(found, np.random.default_rng(2))
    assert not kept.all()
    return cut(net, found, kept), net, found, kept


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs, in order, instead of running."""
    done: list[str] = []

    def again(slim: nn.Module, batches) -> nn.Module:
        done.append(f"recalibrated on {sum(len(b) for b in batches)}")
        return slim

    monkeypatch.setattr(module, "reconstruct", lambda slim, *_, **__: done.append("lstsq") or slim)
    monkeypatch.setattr(module, "absorb", lambda slim, *_: done.append("absorbed") or slim)
    monkeypatch.setattr(module, "recalibrate", again)
    return done


@pytest.mark.parametrize(
    ("settings", "images", "expected"),
    [
        pytest.param({}, True, ["lstsq"], id="default with images: least squares holds absorption and statistics"),
        pytest.param({}, False, ["beta", "absorbed"], id="default without: act(beta) is all that is known"),
        pytest.param({"reconstruct": "lstsq"}, True, ["lstsq"], id="least squares asked for: as by default"),
        pytest.param(
            {"reconstruct": "lstsq", "recalibrate": 10}, True, ["lstsq", "recalibrated on 10"], id="both asked for"
        ),
        pytest.param({"recalibrate": 10}, True, ["lstsq", "recalibrated on 10"], id="one by default, one asked for"),
        pytest.param({"recalibrate": 0}, True, ["lstsq"], id="recalibration refused: it was off"),
        pytest.param({"absorb": "beta"}, True, ["lstsq"], id="how to absorb does not matter to least squares"),
        pytest.param({"absorb": "none"}, True, ["lstsq"], id="nor that nothing is absorbed"),
        pytest.param(
            {"reconstruct": "none"}, True, ["measured", "absorbed", "recalibrated on 16"], id="the rest by default"
        ),
        pytest.param({"reconstruct": "none"}, False, ["beta", "absorbed"], id="nothing to measure on"),
        pytest.param(
            {"reconstruct": "none", "absorb": "beta"}, True, ["beta", "absorbed", "recalibrated on 16"], id="beta"
        ),
        pytest.param(
            {"reconstruct": "none", "absorb": "none"}, True, ["recalibrated on 16"], id="recalibration is its own"
        ),
        pytest.param({"reconstruct": "none", "recalibrate": 0}, True, ["measured", "absorbed"], id="absorption alone"),
        pytest.param(
            {"reconstruct": "none", "recalibrate": 10}, True, ["measured", "absorbed", "recalibrated on 10"], id="fewer"
        ),
        pytest.param(
            {"reconstruct": "none", "recalibrate": 99},
            True,
            ["measured", "absorbed", "recalibrated on 24"],
            id="more than there are",
        ),
        pytest.param({"reconstruct": "none", "absorb": "none", "recalibrate": 0}, True, [], id="nothing, with images"),
        pytest.param({"reconstruct": "none", "absorb": "none"}, False, [], id="nothing, without"),
        pytest.param({"recalibrate": 10}, False, ["beta", "absorbed"], id="no images to recalibrate on"),
    ],
)
def test_what_runs(settings: dict, images: bool, expected: list[str], ran: list[str], monkeypatch) -> None:
    slim, net, found, kept = case()
    monkeypatch.setattr(module, "input_means", lambda d, *_: ran.append("measured" if d is net else "beta") or {})
    recover(slim, net, found, kept, Prune(calib_images=16, **settings), IMAGES if images else [])
    assert ran == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"reconstruct": "lstsq"}, r"prune\.reconstruct=lstsq needs images: give data=", id="refit"),
        pytest.param(
            {"absorb": "measured"}, r"prune\.absorb=measured needs images: give data=.*absorb=beta", id="means"
        ),
    ],
)
def test_images_are_asked_for(settings: dict, message: str) -> None:
    with pytest.raises(SlimError, match=message):
        recover(*case(), Prune(**settings), [])


@pytest.mark.parametrize("settings", [{}, {"reconstruct": "none"}, {"reconstruct": "lstsq", "recalibrate": 9}])
def test_where_nothing_went_nothing_runs(settings: dict, ran: list[str]) -> None:
    """A detector that lost no channel must not be moved by statistics of a few images."""
    net = network()
    found = trace(net, PX)
    assert recover(net, net, found, np.ones(found.n_channels, bool), Prune(**settings), IMAGES) is net
    assert ran == []


EVERYTHING = [
    {},
    {"recalibrate": 16},
    {"reconstruct": "none"},
    {"reconstruct": "none", "absorb": "beta"},
    {"reconstruct": "none", "absorb": "none"},
]


@pytest.mark.parametrize("settings", EVERYTHING, ids=str)
def test_its_inputs_are_left_alone(settings: dict) -> None:
    slim, net, found, kept = case()
    before = [copy.deepcopy(other.state_dict()) for other in (slim, net)]
    healed = recover(slim, net, found, kept, Prune(**settings), IMAGES)
    for other, state in zip((slim, net), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
    assert any(not torch.equal(v, before[0][k]) for k, v in healed.state_dict().items())


@torch.no_grad()
def error(a: nn.Module, b: nn.Module) -> float:
    fresh = torch.rand(8, 3, PX, PX, generator=torch.Generator().manual_seed(9))
    return float((a.eval()(fresh) - b.eval()(fresh)).square().mean())


def test_each_recovery_beats_the_one_before_it() -> None:
    """Nothing, constants known without images, constants measured, least squares: on images none of them has seen."""
    slim, net, found, kept = case()
    names = [{"reconstruct": "none", "absorb": how, "recalibrate": 0} for how in ("none", "measured")] + [{}]
    errors = [error(recover(slim, net, found, kept, Prune(**s), IMAGES), net) for s in names]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize("settings", [{}, {"reconstruct": "none", "absorb": "beta", "recalibrate": 0}], ids=str)
def test_a_detector_in_double_precision(settings: dict) -> None:
    slim, net, found, kept = case(network().double())
    healed = recover(slim, net, found, kept, Prune(**settings), [b.double() for b in IMAGES])
    assert {p.dtype for p in healed.parameters()} == {torch.float64}


def test_images_are_read_before_the_bar_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them shows a bar of its own, and a step within a step has none."""
    events: list[str] = []

    @contextmanager
    def bar(what: str) -> Iterator[At]:
        events.append("bar")
        with progress(what) as at:
            yield at

    class Lazy:
        def __iter__(self) -> Iterator[Tensor]:
            events.append("images")
            return iter(IMAGES)

    monkeypatch.setattr(module, "progress", bar)
    recover(*case(), Prune(), Lazy())
    assert events[:2] == ["images", "bar"]
