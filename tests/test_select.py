"""Selection by hand-made numbers: floors, rounding, budgets, patterns, and what every solver must keep to."""

from itertools import product
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Line, Network, Probe, detector
from ultralytics.nn.modules import C3

from yolo_slim.channels import Constraints, Curve, Plan, cut, select, trace
from yolo_slim.channels.constraints import SOLVERS
from yolo_slim.errors import SlimError

EXACT = {"min_keep": 0, "min_channels": 1, "round_to": 1}  # no floor but one channel, no rounding


@pytest.fixture(scope="module")
def v5n():
    net = detector("yolov5n")
    return net, trace(net, 64)


def random_scores(found, seed=0):
    rng = np.random.default_rng(seed)
    return {g.name: rng.random(g.size) for g in found.groups}


def keeps(found, selection):
    """Group name -> channels kept, for the groups that may lose any."""
    return {g.name: int(selection.kept[g.channels].sum()) for g in found.free}


def gone(found, selection):
    """Group name -> indices removed."""
    return {g.name: np.flatnonzero(~selection.kept[g.channels]).tolist() for g in found.free}


# ---- which channels go ----

A, B = [0.9, 0.1, 0.5], [0.3, 0.2, 0.8, 0.05, 0.6]


@pytest.mark.parametrize(
    ("scores", "scope", "ratio", "expected"),
    [
        pytest.param((A, B), "global", 0.5, ([1], [0, 1, 3]), id="global: .05 .1 .2 .3 of all eight"),
        pytest.param((A, B), "layer", 0.5, ([1], [1, 3]), id="layer: floor(1.5) and floor(2.5)"),
        pytest.param((A, B), "global", 0.49, ([1], [1, 3]), id="floor(3.92) is three"),
        pytest.param((A, B), "global", 0.0, ([], []), id="nothing asked, nothing removed"),
        pytest.param((A, B), "global", 0.75, ([1, 2], [0, 1, 3, 4]), id="down to one each"),
        pytest.param(([1] * 3, [1] * 5), "global", 0.5, ([0, 1], [0, 1]), id="ties: earlier group, then lower index"),
        pytest.param(([0, 0, 0], [1, 2, 3, 4, 5]), "global", 0.5, ([0, 1], [0, 1]), id="a group keeps one"),
        pytest.param(([np.inf] * 3, B), "global", 0.375, ([], [0, 1, 3]), id="infinite: never removed"),
        pytest.param(([np.inf, 0, np.inf], B), "layer", 0.6, ([1], [0, 1, 3]), id="infinite in part"),
    ],
)
def test_which_channels_go(scores, scope, ratio, expected):
    found = trace(Line(1, 3, 5, 1), 1)
    selection = select(
        found, dict(zip("01", map(np.array, scores), strict=True)), Constraints(scope=scope, ratio=ratio, **EXACT)
    )
    assert gone(found, selection) == dict(zip("01", expected, strict=True))


SIZES = (6, 7, 9)


@pytest.fixture(scope="module")
def line():
    return trace(Line(2, *SIZES, 1), 1)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_exactly_floor_of_ratio_times_n_go(line, data):
    """Whatever the scores and their ties: k channels, always the smallest that the floors allow."""
    scores = {
        str(i): np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))) for i, n in enumerate(SIZES)
    }
    ratio = data.draw(st.floats(0, 0.86, allow_nan=False))
    selection = select(line, scores, Constraints(ratio=ratio, **EXACT))
    left, expected = dict(zip("012", SIZES, strict=True)), {g: [] for g in "012"}
    for _, group, channel in sorted((scores[g][i], g, i) for g in "012" for i in range(len(scores[g]))):
        if sum(map(len, expected.values())) < floor(ratio * sum(SIZES) + 1e-9) and left[group] > 1:
            expected[group].append(channel)
            left[group] -= 1
    assert gone(line, selection) == {g: sorted(i) for g, i in expected.items()}
    assert selection.achieved["channels"] == pytest.approx(selection.asked["channels"])


@pytest.mark.parametrize(("ratio", "n"), [(0.3, 10), (0.7, 10), (0.1, 30), (0.6, 5), (1 / 3, 9), (0.29, 100)])
def test_floating_point_loses_no_channel(ratio, n):
    """0.3 of 10 is 3, though 0.1 * 3 / 1 is not quite 0.3."""
    found = trace(Line(1, n, 1), 1)
    selection = select(found, {"0": np.arange(n)}, Constraints(ratio=ratio, **EXACT))
    assert n - keeps(found, selection)["0"] == round(ratio * n)


def test_a_coupled_channel_counts_once():
    """C3 with three producers of one group of 8: a quarter of 8 + 8 + 4 * 8 + 16 channels, not of the slots."""
    found = trace(Probe(C3(8, 16, n=2)), 16)
    total = sum(g.size for g in found.free)
    assert total == sum(g.size for g in found.groups) - 5  # all but the predictions
    scores = random_scores(found)
    (shared,) = [g for g in found.free if len(g.producers) == 3]
    scores[shared.name] = -np.ones(8)
    selection = select(found, scores, Constraints(ratio=0.25, **EXACT))
    assert sum(map(len, gone(found, selection).values())) == floor(0.25 * total)
    assert keeps(found, selection)[shared.name] == 1
    outputs = Plan.of(found, selection.kept).outputs
    assert outputs[shared.producers[0]] == outputs[shared.producers[1]] == outputs[shared.producers[2]] == [7]


# ---- 3.2 floors, 3.3 rounding ----


@pytest.mark.parametrize(
    ("n", "min_keep", "min_channels", "round_to", "expected"),
    [
        pytest.param(20, 0.3, 1, 1, 6, id="a share of the group"),
        pytest.param(20, 0.31, 1, 1, 7, id="rounded up: ceil(6.2)"),
        pytest.param(10, 0.3, 1, 1, 3, id="0.3 of 10 is 3, not 4"),
        pytest.param(100, 0.07, 1, 1, 7, id="0.07 of 100 is 7, though the product is a little more"),
        pytest.param(20, 0.1, 5, 1, 5, id="channels outweigh the share"),
        pytest.param(20, 0, 0, 1, 1, id="never none"),
        pytest.param(4, 0.05, 8, 1, 4, id="a group narrower than the floor stays whole"),
        pytest.param(20, 0.05, 3, 8, 8, id="the floor is rounded up as well"),
        pytest.param(20, 0.9, 1, 8, 20, id="18 rounds to 24, more than there are"),
    ],
)
def test_floors(n, min_keep, min_channels, round_to, expected):
    """With everything asked of this one group, its floor is what stays."""
    found = trace(Line(1, n, 1), 1)
    options = {"min_keep": min_keep, "min_channels": min_channels, "round_to": round_to}
    selection = select(found, {"0": np.arange(n)}, Constraints(layers={"0": 1.0}, **options))
    assert keeps(found, selection)["0"] == expected
    assert gone(found, selection)["0"] == list(range(n - expected))


@pytest.mark.parametrize(
    ("n", "wanted", "round_to", "expected"),
    [
        pytest.param(20, 5, 8, 8, id="up, not to 0"),
        pytest.param(20, 17, 8, 20, id="24 is more than there are"),
        pytest.param(20, 16, 8, 16, id="already a multiple"),
        pytest.param(20, 9, 8, 16, id="up, not to the nearest"),
        pytest.param(20, 5, 1, 5, id="no rounding"),
        pytest.param(12, 5, 8, 8, id="the request that others turn into 0"),
        pytest.param(6, 2, 8, 6, id="narrower than a multiple: whole"),
        pytest.param(48, 17, 16, 32, id="blocks of 16"),
    ],
)
@pytest.mark.parametrize("by", ["layers", "layer scope"])
def test_rounding_goes_up_and_never_above_n(n, wanted, round_to, expected, by):
    """Rounding brings the best of the removed channels back."""
    found = trace(Line(1, n, 1), 1)
    share = 1 - wanted / n
    how = {"layers": {"0": share}} if by == "layers" else {"scope": "layer", "ratio": share}
    selection = select(
        found, {"0": np.arange(n)[::-1]}, Constraints(**how, min_keep=0, min_channels=1, round_to=round_to)
    )
    assert keeps(found, selection)["0"] == expected
    assert gone(found, selection)["0"] == list(range(expected, n))


# ---- 3.4 budgets ----


def test_two_convolutions_at_half_the_macs():
    """3 -> 4 -> 2 on one position: 12 + 8; with two of four channels 6 + 4, half exactly."""
    found = trace(Line(3, 4, 2), 1)
    selection = select(found, {"0": np.array([4.0, 1, 3, 2])}, Constraints(target={"flops": 0.5}, **EXACT))
    assert (selection.before.macs, selection.after.macs, selection.after.flops) == (20, 10, 20)
    assert (selection.before.params, selection.after.params) == (20, 10)
    assert gone(found, selection) == {"0": [1, 3]}
    assert selection.achieved["flops"] == 0.5
    assert (selection.looser["flops"], selection.tighter["flops"]) == (0.75, 0.25)


TARGETS = [
    pytest.param({"flops": 0.5}, id="flops"),
    pytest.param({"params": 0.4}, id="params"),
    pytest.param({"flops": 0.6, "params": 0.3}, id="both, params binds"),
    pytest.param({"flops": 0.3, "params": 0.9}, id="both, flops binds"),
    pytest.param({"flops": 0.95}, id="hardly anything"),
]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("round_to", [1, 4, 8, 16])
@pytest.mark.parametrize("target", TARGETS)
def test_budgets_are_met_from_below_within_one_step(v5n, target, round_to, scope):
    """Met; and one channel earlier it was not. Every width is a multiple or whole, every floor stands."""
    net, found = v5n
    selection = select(
        found, random_scores(found), Constraints(target=target, round_to=round_to, scope=scope, min_keep=0.1)
    )
    assert all(selection.achieved[k] <= share + 1e-9 for k, share in target.items())
    assert any(selection.looser[k] > share + 1e-9 for k, share in target.items())
    assert selection.tighter["flops"] < selection.achieved["flops"], "rounding: the next step that changes anything"
    assert selection.asked == target
    assert selection.achieved["flops"] == selection.after.macs / selection.before.macs
    assert selection.achieved["params"] == selection.after.params / selection.before.params
    for group in found.free:
        k = int(selection.kept[group.channels].sum())
        assert k == group.size or k % round_to == 0
        assert k >= min(group.size, max(8, ceil(0.1 * group.size)))
    slim = cut(net, found, selection.kept)
    assert sum(p.numel() for p in slim.parameters()) == selection.after.params


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_tighter_budgets_keep_a_subset(v5n, scope):
    """Plans are nested: nothing that a tight budget keeps is removed by a loose one."""
    _, found = v5n
    plans = [
        select(found, random_scores(found), Constraints(target={"flops": f}, scope=scope)).kept for f in (0.3, 0.5, 0.7)
    ]
    assert (plans[0] <= plans[1]).all() and (plans[1] <= plans[2]).all()
    assert plans[0].sum() < plans[1].sum() < plans[2].sum()


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_a_ratio_is_met_after_rounding_too(v5n, ratio):
    """Rounding brings channels back, so more go elsewhere: the ratio asked is the ratio got, from below."""
    _, found = v5n
    n = sum(g.size for g in found.free)
    selection = select(found, random_scores(found), Constraints(ratio=ratio, round_to=8))
    kept = sum(keeps(found, selection).values())
    assert kept <= n - floor(ratio * n)
    assert selection.looser["channels"] > selection.asked["channels"] >= selection.achieved["channels"] == kept / n


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_ratio_and_target_both_hold(v5n, scope):
    _, found = v5n
    selection = select(
        found, random_scores(found), Constraints(ratio=0.1, target={"flops": 0.4}, scope=scope, round_to=1)
    )
    assert selection.achieved["flops"] <= 0.4 and selection.achieved["channels"] <= 0.9 + 1e-3


def test_layer_scope_takes_the_same_share_everywhere(v5n):
    _, found = v5n
    selection = select(found, random_scores(found), Constraints(scope="layer", ratio=0.3, **EXACT))
    assert keeps(found, selection) == {g.name: g.size - floor(0.3 * g.size + 1e-9) for g in found.free}
    selection = select(found, random_scores(found), Constraints(scope="layer", target={"flops": 0.5}, **EXACT))
    shares = [k / g.size for g, k in zip(found.free, keeps(found, selection).values(), strict=True)]
    assert max(shares) - min(shares) <= 1 / 16  # one channel of the narrowest group


# ---- layers and exclude ----


def test_layers_take_their_own_share(v5n):
    """The rest follows the ratio, and the layers named do not count in it."""
    _, found = v5n
    options = {"layers": {"model.2": 0.5, "model.9.cv1": 0.25}, "round_to": 1, "min_channels": 1}
    selection = select(found, random_scores(found), Constraints(ratio=0.2, **options))
    kept = keeps(found, selection)
    named = {g.name: g.size for g in found.free if any(p.startswith("model.2.") for p in g.producers)}
    assert len(named) == 4
    assert all(kept[g] == n // 2 for g, n in named.items())
    assert kept["model.9.cv1.conv"] == 96
    rest = [g for g in found.free if g.name not in named and g.name != "model.9.cv1.conv"]
    total = sum(g.size for g in rest)
    assert sum(kept[g.name] for g in rest) == total - floor(0.2 * total)


def test_layers_alone_leave_the_rest_whole(v5n):
    _, found = v5n
    selection = select(found, random_scores(found), Constraints(layers={"*.cv2.conv": 0.5}))
    kept = keeps(found, selection)
    for group in found.free:
        named = any(p.endswith(".cv2.conv") for p in group.producers)
        assert (kept[group.name] < group.size) == (named and group.size > 8)


def test_zero_in_layers_protects():
    found = trace(Line(1, 3, 5, 1), 1)
    selection = select(found, {"0": np.array(A), "1": np.array(B)}, Constraints(ratio=0.6, layers={"0": 0}, **EXACT))
    assert gone(found, selection) == {"0": [], "1": [0, 1, 3]}


def test_later_patterns_override_earlier_ones(v5n):
    _, found = v5n
    kept = keeps(found, select(found, random_scores(found), Constraints(layers={"model.*": 0.5, "model.0": 0})))
    assert kept["model.0.conv"] == 16 and kept["model.1.conv"] == 16


@pytest.mark.parametrize(
    ("exclude", "whole"),
    [
        pytest.param(["model.0"], {"model.0.conv"}, id="a module stands for what is below it"),
        pytest.param(["model.1.conv"], {"model.1.conv"}, id="a convolution"),
        pytest.param(["model.?.conv"], {f"model.{i}.conv" for i in (0, 1, 3, 5, 7)}, id="a pattern"),
        pytest.param(["model.4.m.1.cv2"], {"model.4.cv1.conv"}, id="one producer holds its whole group"),
        pytest.param(["model.0", "model.24"], {"model.0.conv", "model.24.*"}, id="several, one protected anyway"),
    ],
)
def test_excluded_layers_stay_whole(v5n, exclude, whole):
    _, found = v5n
    kept = keeps(found, select(found, random_scores(found), Constraints(target={"flops": 0.4}, exclude=exclude)))
    stays = {g.name for g in found.free if kept[g.name] == g.size}
    expected = {
        g.name for g in found.free if g.name in whole or (g.name.startswith("model.24.") and "model.24.*" in whole)
    }
    assert expected and expected <= stays


def test_nothing_left_to_prune_is_refused(v5n):
    """A ratio of nothing would be met by nothing, and a detector that is not slim called pruned."""
    _, found = v5n
    with pytest.raises(SlimError, match=r"prune\.exclude keeps every layer whole"):
        select(found, random_scores(found), Constraints(ratio=0.3, exclude=["*"]))


def test_exclude_outweighs_layers():
    found = trace(Line(1, 8, 8, 1), 1)
    selection = select(found, {g: np.arange(8) for g in "01"}, Constraints(layers={"*": 0.5}, exclude=["0"], **EXACT))
    assert keeps(found, selection) == {"0": 8, "1": 4}


# ---- what is refused ----


@pytest.mark.parametrize(
    ("key", "options"),
    [
        pytest.param("flops", {}, id="flops"),
        pytest.param("params", {}, id="params"),
        pytest.param("flops", {"min_keep": 0.5}, id="a high floor"),
        pytest.param("flops", {"exclude": ["model.2", "model.4", "model.24"]}, id="much excluded"),
        pytest.param("params", {"round_to": 32}, id="coarse rounding"),
    ],
)
def test_impossible_targets_name_the_lowest_possible(v5n, key, options):
    """What the message names can be had; a little less cannot."""
    _, found = v5n
    scores = random_scores(found)
    with pytest.raises(SlimError, match=rf"{key} x0\.001 \(lowest possible: x0\.\d+\)") as raised:
        select(found, scores, Constraints(target={key: 0.001}, **options))
    lowest = float(str(raised.value).split("lowest possible: x")[1].split(")")[0])
    assert select(found, scores, Constraints(target={key: lowest + 0.0005}, **options)).achieved[key] <= lowest + 0.0005
    with pytest.raises(SlimError, match="cannot be met"):
        select(found, scores, Constraints(target={key: lowest - 0.001}, **options))


def test_an_impossible_ratio_is_refused():
    found = trace(Line(1, 3, 5, 1), 1)
    with pytest.raises(SlimError, match="cannot be met"):
        select(found, {"0": np.array(A), "1": np.array(B)}, Constraints(ratio=0.9, **EXACT))


def test_nothing_to_do_is_refused(v5n):
    _, found = v5n
    for nothing in ({}, {"target": {}}, {"layers": {}}, {"ratio": None}):
        with pytest.raises(SlimError, match=r"prune\.ratio.*prune\.target"):
            select(found, random_scores(found), Constraints(**nothing))


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        pytest.param("model.2.cv9", "model.2.cv", id="another number"),
        pytest.param("modle.0.conv", "model.0", id="letters swapped"),
        pytest.param("model.99.cv1", r"model\.\d+\.cv1", id="no such layer"),
        pytest.param("model.2.m.0.cv1.bn", r"model\.2\.m\.0\.cv1", id="a batch norm: name the convolution"),
    ],
)
@pytest.mark.parametrize("setting", ["exclude", "layers"])
def test_unknown_patterns_offer_the_nearest_name(v5n, pattern, nearest, setting):
    _, found = v5n
    value = [pattern] if setting == "exclude" else {pattern: 0.5}
    with pytest.raises(SlimError, match=rf"prune\.{setting}: {pattern} matches no layer; did you mean {nearest}"):
        select(found, random_scores(found), Constraints(ratio=0.1, **{setting: value}))


@pytest.mark.parametrize(
    "broken", [pytest.param([1.0, np.nan, 2.0], id="not a number"), pytest.param([1.0, 2.0], id="one score short")]
)
def test_unsound_scores_are_refused(broken):
    found = trace(Line(1, 3, 5, 1), 1)
    with pytest.raises(SlimError, match="expected 3 finite scores for 0"):
        select(found, {"0": np.array(broken), "1": np.array(B)}, Constraints(ratio=0.5, **EXACT))


# ---- the solvers ----


def scans(found, seed=0):
    """Made-up curves: a straight line a group, steeper or flatter."""
    rng = np.random.default_rng(seed)
    return {g.name: Curve((0.5, 0.9), (x, 1.8 * x)) for g in found.free for x in [rng.random()]}


def worth(found, scores, selection):
    """The sum of all finite scores that stay."""
    stay = [scores[g.name][selection.kept[g.channels]] for g in found.free]
    return sum(float(s[np.isfinite(s)].sum()) for s in stay)


@pytest.mark.parametrize("seed", range(10))
def test_every_solver_meets_every_feasible_target_on_random_networks(seed):
    """From below, within floors and rounding; and the knapsack keeps at least what the threshold keeps."""
    found = trace(Network(seed), 32)
    scores, rng = random_scores(found, seed), np.random.default_rng(seed)
    options = {"min_keep": 0.25, "min_channels": 1, "round_to": int(rng.integers(1, 4)), "curves": scans(found, seed)}
    table = {g.name: np.cumsum(rng.random(g.size + 1)) for g in found.groups}
    options["tables"] = {"energy": table}
    lowest = select(
        found, scores, Constraints(layers={g.name.split("[")[0]: 1.0 for g in found.free}, **options)
    ).achieved
    for names in (["flops"], ["params"], ["energy"], ["flops", "energy"], ["flops", "params", "energy"]):
        target = {n: lowest[n] + rng.random() * (1 - lowest[n]) for n in names}
        by = {solver: select(found, scores, Constraints(target=target, solver=solver, **options)) for solver in SOLVERS}
        for selection in by.values():
            assert all(selection.achieved[n] <= share + 1e-9 for n, share in target.items())
            assert all(selection.tighter[n] <= selection.achieved[n] for n in selection.tighter)
            assert not selection.looser or any(selection.looser[n] > share for n, share in target.items())
            for g, k in zip(found.free, keeps(found, selection).values(), strict=True):
                assert k >= max(1, ceil(0.25 * g.size)) and (k == g.size or k % options["round_to"] == 0)
        assert worth(found, scores, by["knapsack"]) >= worth(found, scores, by["threshold"]) - 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_budget_keeps_more(v5n, solver):
    _, found = v5n
    scores = random_scores(found)
    by = [
        select(found, scores, Constraints(target={"flops": f}, solver=solver, curves=scans(found)))
        for f in (0.3, 0.45, 0.6, 0.75)
    ]
    kept = [worth(found, scores, s) for s in by] if solver == "knapsack" else [s.after.macs for s in by]
    assert kept == sorted(kept) and len(set(kept)) == 4


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.7])
def test_a_ratio_is_exact_with_every_solver(v5n, solver, ratio):
    _, found = v5n
    n = sum(g.size for g in found.free)
    selection = select(
        found, random_scores(found), Constraints(ratio=ratio, solver=solver, curves=scans(found), **EXACT)
    )
    assert sum(keeps(found, selection).values()) == n - floor(ratio * n)


def test_where_all_channels_cost_the_same_the_knapsack_is_the_threshold(v5n):
    _, found = v5n
    one, two = (
        select(found, random_scores(found), Constraints(ratio=0.4, solver=s, **EXACT))
        for s in ("threshold", "knapsack")
    )
    assert (one.kept == two.kept).all()


def costs_of(**costs):
    """Cost of each channel in turn, by group -> the table."""
    return {name: np.concatenate([[0], np.cumsum(each)]) for name, each in costs.items()}


@pytest.mark.parametrize(
    ("scores", "costs", "share", "expected"),
    [
        pytest.param(
            ([5, 3, 1], [6, 2]),
            ([4, 2, 2], [3, 3]),
            9 / 14,
            ([2], [1]),
            id="2 and 1, value 14, cost 9",
        ),
        pytest.param(([5, 3, 1], [6, 2]), ([4, 2, 2], [3, 3]), 0.999, ([2], []), id="one has to go: the 1"),
        pytest.param(
            ([1, 3, 5], [2, 6]), ([4, 2, 2], [3, 3]), 9 / 14, ([0], [0]), id="the best are kept, not the first"
        ),
        pytest.param(([5, 4, 3], [9, 2]), ([1, 1, 1], [1, 7]), 5 / 11, ([], [1]), id="dear ones go before small ones"),
        pytest.param(([np.inf, 3, 1], [6, np.inf]), ([4, 2, 2], [3, 3]), 10 / 14, ([1, 2], []), id="infinite: stays"),
        pytest.param(([0, -1, 2], [3, 0]), ([1, 1, 1], [1, 1]), 4 / 5, ([1], []), id="no more goes than has to"),
    ],
)
def test_the_knapsack_by_hand(scores, costs, share, expected):
    found = trace(Line(1, 3, 2, 1), 1)
    given = {g: np.array(s, float) for g, s in zip("01", scores, strict=True)}
    tables = {"price": costs_of(**dict(zip("01", costs, strict=True)))}
    selection = select(found, given, Constraints(solver="knapsack", target={"price": share}, tables=tables, **EXACT))
    assert gone(found, selection) == dict(zip("01", expected, strict=True))
    assert selection.asked == {"price": share} and selection.achieved["price"] <= share + 1e-9


@pytest.mark.parametrize("seed", range(12))
def test_the_knapsack_is_the_best_of_all_plans(seed):
    """Four groups, tables that add up, one or two budgets at once: nothing that fits is worth more."""
    rng = np.random.default_rng(seed)
    widths = rng.integers(2, 6, 4)
    found = trace(Line(1, *widths, 1), 1)
    scores = {g.name: rng.random(g.size) for g in found.groups}
    tables = {n: costs_of(**{g.name: rng.random(g.size) for g in found.free}) for n in ("price", "heat")}
    target = {n: rng.uniform(0.5, 0.9) for n in list(tables)[: 1 + seed % 2]}
    selection = select(found, scores, Constraints(solver="knapsack", target=target, tables=tables, **EXACT))
    best = 0.0
    for plan in product(*(range(1, n + 1) for n in widths)):
        counts = dict(zip("0123", plan, strict=True))
        if all(
            sum(tables[n][g][k] for g, k in counts.items()) <= s * sum(c[-1] for c in tables[n].values())
            for n, s in target.items()
        ):
            best = max(best, sum(np.sort(scores[g])[::-1][:k].sum() for g, k in counts.items()))
    assert worth(found, scores, selection) == pytest.approx(best)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"ratio": 0.25}, {"0": 5, "1": 10}, id="all from the group that does not mind"),
        pytest.param({"ratio": 0.5}, {"0": 3, "1": 7}, id="the 7th there hurts as much as the 3rd here"),
        pytest.param({"tolerance": 0.0}, {"0": 5, "1": 10}, id="nothing may be lost"),
        pytest.param({"tolerance": 0.1}, {"0": 5, "1": 9}, id="a tenth"),
        pytest.param({"tolerance": 0.35}, {"0": 3, "1": 7}, id="interpolated: 30 % is in, 40 % is not"),
        pytest.param({"tolerance": 9.0}, {"0": 1, "1": 1}, id="anything: down to the floor"),
        pytest.param({"tolerance": 0.1, "layers": {"1": 0.5}}, {"0": 5, "1": 5}, id="a layer's own share"),
        pytest.param({"tolerance": 0.1, "round_to": 4}, {"0": 8, "1": 10}, id="rounded up: still tolerated"),
    ],
)
def test_sensitivity_by_hand(options, expected):
    """Group 0 may lose half for nothing and then minds 0.15 a tenth; group 1 minds 0.1 a tenth from the first on."""
    found = trace(Line(1, 10, 10, 1), 1)
    ramp = {"0": Curve((0.5, 1.0), (0.0, 0.75)), "1": Curve((1.0,), (1.0,))}
    scores = {g: np.arange(10.0) for g in "01"}
    selection = select(found, scores, Constraints(solver="sensitivity", curves=ramp, **{**EXACT, **options}))
    assert keeps(found, selection) == expected
    assert all(i == list(range(len(i))) for i in gone(found, selection).values()), "which ones: by score"


# ---- costs a target may name ----


def test_megabytes_are_numbers_in_half_precision_and_the_rest():
    """3 -> 4 -> 2 without norms: 20 parameters, so 40 bytes, and 60 of overhead."""
    found = trace(Line(3, 4, 2), 1)
    options = {"target": {"size_mb": 80e-6}, "overhead": 60, **EXACT}
    for solver in ("threshold", "knapsack"):
        selection = select(found, {"0": np.array([4.0, 1, 3, 2])}, Constraints(solver=solver, **options))
        assert gone(found, selection) == {"0": [1, 3]}
        assert selection.achieved["size_mb"] == pytest.approx(80e-6)
        assert selection.looser["size_mb"] == pytest.approx(90e-6)
        assert selection.tighter["size_mb"] == pytest.approx(70e-6)
    whole = select(found, {"0": np.ones(4)}, Constraints(target={"size_mb": 1.0}, overhead=60))
    assert whole.kept.all() and whole.looser == {}


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_target_is_reported(v5n, solver):
    _, found = v5n
    tables = {"energy": {g.name: np.arange(g.size + 1.0) ** 0.5 for g in found.free}}
    target = {"flops": 0.6, "params": 0.5, "size_mb": 3.0, "energy": 0.8}
    selection = select(
        found,
        random_scores(found),
        Constraints(target=target, solver=solver, tables=tables, overhead=2e5, curves=scans(found)),
    )
    assert selection.asked == target
    assert all(selection.achieved[n] <= share for n, share in target.items())
    assert any(selection.looser[n] > share for n, share in target.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"solver": "magic"}, "threshold, knapsack, sensitivity, got magic", id="no such solver"),
        pytest.param({"solver": "knapsack", "scope": "layer"}, "scope=layer belongs to", id="layer scope"),
        pytest.param({"solver": "sensitivity"}, "goes by a scan of the detector", id="no scan"),
        pytest.param({"solver": "sensitivity", "curves": {}}, "nothing about 0: run", id="a scan of something else"),
        pytest.param({"tolerance": 0.1}, "choose one", id="a tolerance and a ratio"),
        pytest.param({"target": {"energy": 0.5}}, "target.energy is none of flops, params", id="an unknown target"),
        pytest.param({"target": {"size_mb": 0.5}}, "overhead", id="megabytes without the overhead"),
        pytest.param({"target": {"size_mb": 1e-6}, "overhead": 9.0}, r"size_mb 0.00 MB \(low", id="too small a file"),
        pytest.param({"tables": {"flops": {}}}, "cannot be called flops", id="a name that is taken"),
        pytest.param({"tables": {"t": {"7": np.ones(4)}}}, "t names a group .* 7", id="an unknown group"),
        pytest.param({"tables": {"t": {"0": np.ones(3)}}}, "4 finite numbers for 0.* got 3", id="too short"),
        pytest.param({"tables": {"t": {"0": np.array([0, 3, 2, 4])}}}, "none below the one before", id="falling"),
    ],
)
def test_what_solvers_and_targets_refuse(options, message):
    found = trace(Line(1, 3, 5, 1), 1)
    with pytest.raises(SlimError, match=message):
        select(found, {"0": np.array(A), "1": np.array(B)}, Constraints(**{"ratio": 0.5, **EXACT, **options}))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_refuses_what_cannot_be_met(v5n, solver):
    _, found = v5n
    with pytest.raises(SlimError, match=r"flops x0\.001 \(lowest possible: x0\.\d+\)"):
        select(found, random_scores(found), Constraints(target={"flops": 0.001}, solver=solver, curves=scans(found)))
