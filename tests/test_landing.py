"""Who leaves when: a landing by itself, and what fading does to a detector and to its average."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import tiny, wiring_of

from yolo_slim.channels import silent
from yolo_slim.training.landing import WINDOW, Fader, Landing


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    detector = tiny(tmp_path_factory.mktemp("tiny"))
    with torch.no_grad():
        for m in detector.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.bias.uniform_(-1, 1)
    return detector


@pytest.fixture(scope="module")
def wiring(detector):
    return wiring_of(detector)


def scores_of(wiring, seed=0):
    """Chance."""
    rng = np.random.default_rng(seed)
    return {g.name: rng.random(g.size) for g in wiring.groups}


def half(wiring, scores, share=0.5):
    """The better half of every free group stays."""
    kept = np.ones(wiring.n_channels, bool)
    for group in wiring.free:
        kept[group.channels[np.argsort(scores[group.name])[: int(share * group.size)]]] = False
    return kept


def landing_on(wiring, begin=0.1, end=0.6):
    """Half of the channels, and their scores."""
    scores = scores_of(wiring)
    landing = Landing(begin, end, wiring.n_channels)
    landing.choose(wiring, half(wiring, scores), scores)
    return landing, scores


def test_all_that_leaves_is_zero_at_the_end_and_nothing_before_the_beginning(wiring):
    landing, _ = landing_on(wiring)
    assert (landing.advance(0.1) == 1).all() and landing.landed == 0 and not landing.begun.any()
    landing.advance(0.35)
    assert 0 < landing.landed < 1 and not landing.decided
    landing.advance(0.599)
    assert landing.landed < 1 and landing.decided
    landing.advance(0.6)
    assert landing.landed == 1 and np.array_equal(landing.factor == 0, ~landing.kept)
    assert np.array_equal(landing.advance(0.61) == 0, ~landing.kept), "and is held there"


@given(stops=st.lists(st.floats(0, 1), max_size=15))
@settings(max_examples=50, deadline=None)
def test_the_steps_taken_do_not_matter(wiring, stops):
    """The product of all ratios is the factor, whatever the batches; a factor never grows."""
    landing, _ = landing_on(wiring)
    at_once, _ = landing_on(wiring)
    product = np.ones(wiring.n_channels)
    for progress in sorted(stops):
        ratio = landing.advance(progress)
        assert ((ratio >= 0) & (ratio <= 1)).all() and (ratio[landing.kept] == 1).all()
        product *= ratio
    at_once.advance(max(stops, default=0))
    assert product == pytest.approx(at_once.factor, abs=1e-12) and landing.factor == pytest.approx(at_once.factor)


def test_the_least_leave_first_and_few_at_a_time(wiring):
    landing, scores = landing_on(wiring, 0, 1)
    before, lost = 0.0, []
    for progress in np.linspace(0, 1, 101)[1:]:
        landing.advance(progress)
        for group in wiring.free:
            leaving = group.channels[~landing.kept[group.channels]]
            by_score = np.argsort(scores[group.name][~landing.kept[group.channels]])
            assert (np.diff(landing.factor[leaving[by_score]]) >= 0).all()
        gone = 1 - landing.factor[~landing.kept].mean()
        lost.append(gone - before)
        before = gone
    assert max(lost) < 0.04, "no hundredth of the landing takes more than a twenty-fifth of what leaves"
    assert sum(lost[:50]) > 0.6, "fast at first, slowly at the end"


def test_a_channel_fades_linearly_over_its_window(wiring):
    landing, _ = landing_on(wiring, 0, 1)
    first = np.flatnonzero(landing.start == 0)
    assert len(first) == len(wiring.free), "one a group begins at once"
    for share in (0.25, 0.5, 0.75):
        landing.advance(share * WINDOW)
        assert landing.factor[first] == pytest.approx(1 - share)
    last = [landing.start[g.channels[~landing.kept[g.channels]]].max() for g in wiring.free]
    assert last == pytest.approx([1 - WINDOW] * len(last)), "and one last, to be gone at the very end"


def test_chosen_anew_those_on_their_way_stay_ahead(wiring):
    landing, _ = landing_on(wiring, 0, 1)
    landing.advance(0.3)
    begun, factor = landing.begun, landing.factor.copy()
    others = scores_of(wiring, 1)
    scores = {g.name: np.where(begun[g.channels], -1, others[g.name]) for g in wiring.groups}
    kept = half(wiring, scores)
    assert (kept != landing.kept).any() and not kept[begun].any()
    landing.choose(wiring, kept, scores)
    ratio = landing.advance(0.3)
    assert landing.factor == pytest.approx(factor, abs=1e-9), "nobody jumps"
    assert ratio[factor > 0] == pytest.approx(1)
    landing.advance(1.0)
    assert np.array_equal(landing.factor == 0, ~kept)


def test_a_channel_that_stays_after_all_is_let_alone(wiring):
    landing, scores = landing_on(wiring, 0, 1)
    landing.advance(0.4)
    everything = np.ones(wiring.n_channels, bool)
    landing.choose(wiring, everything, scores)
    assert (landing.advance(0.9) == 1).all() and landing.landed == 1 and not landing.begun.any()


def test_state_goes_on(wiring):
    landing, _ = landing_on(wiring)
    landing.advance(0.3)
    again = Landing(0.1, 0.6, wiring.n_channels)
    again.restore(landing.state())
    assert np.array_equal(again.advance(0.4), landing.advance(0.4))
    assert np.array_equal(again.kept, landing.kept) and np.array_equal(again.factor, landing.factor)


def test_fading_multiplies_what_leaves_and_leaves_the_rest(detector, wiring):
    landing, _ = landing_on(wiring, 0, 1)
    live, average = copy.deepcopy(detector), copy.deepcopy(detector)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter += 0.5
    before, lagging = copy.deepcopy(live.state_dict()), copy.deepcopy(average.state_dict())
    fader = Fader(wiring, live)
    fader.fade(live, average, landing.advance(0.5), landing.kept)
    for name, tensor in live.state_dict().items():
        if not tensor.dim():  # a count of batches
            continue
        slots = fader.slots.get(name, np.full(1, -1))
        factor = torch.tensor(np.append(landing.factor, 1)[slots]).float().view(-1, *[1] * (tensor.dim() - 1))
        assert torch.allclose(tensor.float(), before[name].float() * factor), name
        gone = torch.tensor(np.append(~landing.kept, False)[slots]).view_as(factor)
        expected = torch.where(gone, tensor, lagging[name])
        assert torch.equal(average.state_dict()[name], expected), f"{name}: the average is what fades, where it fades"
    assert not silent(live, wiring, landing.kept)
    fader.fade(live, None, landing.advance(1), landing.kept)
    assert silent(live, wiring, landing.kept) and not silent(average, wiring, landing.kept)
