"""A criterion of the user's own: what it may return, and what is said when it does not."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from test_importance import OWN
from tiny import PX, refused, run
from torch import nn

from yolo_slim import SlimError, prune
from yolo_slim.channels import trace
from yolo_slim.importance import CRITERIA, criterion_of, rows_of, score

pytest_plugins = ["tiny"]

GROUP = "model.1.conv"


@pytest.fixture(scope="module")
def wiring(loaded):
    return trace(loaded, PX)


@pytest.fixture
def own(monkeypatch):
    """Registers a function as criterion `own`."""
    return lambda judge: monkeypatch.setitem(CRITERIA, "own", judge)


def ones(wiring):
    return {group.name: np.ones((1, group.size)) for group in wiring.free}


def size_of(wiring) -> int:
    return next(g.size for g in wiring.free if g.name == GROUP)


RETURNS = {  # what it says of one group -> what is said of that
    "too short": (lambda n: np.ones((1, n - 1)), r"got the shape \(1, 31\)"),
    "too long": (lambda n: np.ones((2, n + 1)), r"got the shape \(2, 33\)"),
    "one row": (lambda n: np.ones(n), r"got the shape \(32,\); one row is scores\[None\]"),
    "a column": (lambda n: np.ones((n, 1)), r"got the shape \(32, 1\)"),
    "a cube": (lambda n: np.ones((1, n, 1)), r"got the shape \(1, 32, 1\)"),
    "a number": (lambda n: 1.0, r"got the shape \(\)"),
    "nothing": (lambda n: None, "got object in a NoneType"),
    "text": (lambda n: ["a"] * n, "got <U1 in a list"),
    "ragged": (lambda n: [[1.0], [1.0, 2.0]], "got a list"),
    "complex": (lambda n: np.ones((1, n), complex), "got complex128 in a ndarray"),
    "no number": (lambda n: np.where(np.arange(n) == 3, np.nan, 1.0)[None], "got 1 of 32 .* nan for channel 3"),
    "less than all": (lambda n: np.where(np.arange(n) > 3, -np.inf, 1.0)[None], "got 28 of 32 .* -inf for channel 4"),
    "a dict": (lambda n: {"a": 1}, "got object in a dict"),
}


@pytest.mark.parametrize("what", RETURNS)
def test_wrong_scores_are_told(what, own, loaded, wiring):
    make, said = RETURNS[what]
    own(lambda detector, wiring, evidence: {**ones(wiring), GROUP: make(size_of(wiring))})
    with pytest.raises(
        SlimError, match=rf"criterion=own: expected an array \(rows, 32\) of scores for {GROUP}, {said}"
    ):
        score(loaded, wiring, "own")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(lambda w: None, "got a NoneType", id="nothing"),
        pytest.param(lambda w: list(ones(w).values()), "got a list", id="a list"),
        pytest.param(lambda w: {}, f"such as {'model.0.conv'}, got none for any of them", id="no group"),
        pytest.param(lambda w: {k: v[:0] for k, v in ones(w).items()}, "got none for any of them", id="no rows"),
        pytest.param(
            lambda w: {**ones(w), "model.1.con": 1}, "'model.1.con'.*did you mean model.1.conv", id="misspelt"
        ),
        pytest.param(lambda w: {**ones(w), 7: 1}, "scores for 7, which is no group", id="a number"),
    ],
)
def test_something_else_than_scores_is_told(found, said, own, loaded, wiring):
    own(lambda detector, wiring, evidence: found(wiring))
    with pytest.raises(SlimError, match=rf"criterion=own: expected a dict.*{said}"):
        score(loaded, wiring, "own")


def test_what_it_raises_is_told_with_its_place(own, loaded, wiring):
    def fails(detector, wiring, evidence):
        return detector.no_such_layer

    own(fails)
    with pytest.raises(SlimError, match=r"criterion=own raised AttributeError: .*no_such_layer.*test_own_criterion.py"):
        score(loaded, wiring, "own")
    own(lambda detector: {})
    with pytest.raises(SlimError, match=r"criterion=own raised TypeError: .*its arguments do not fit"):
        prune(loaded, imgsz=PX, criterion="own", ratio=0.3)
    own(lambda *_: sys.exit(3))
    with pytest.raises(SlimError, match=r"criterion=own raised SystemExit: 3"):
        score(loaded, wiring, "own")


def test_other_kinds_of_numbers_will_do(own, loaded, wiring):
    """Tensors that gradients flow to, lists, whole numbers, yes and no; a group left out stays whole."""
    kinds = [
        lambda n: torch.arange(float(n), requires_grad=True)[None],
        lambda n: [list(range(n))],
        lambda n: np.arange(n, dtype=np.uint8)[None],
        lambda n: (np.arange(n) > 3)[None],
    ]
    names = [group.name for group in wiring.free]
    own(lambda d, w, e: {g.name: kinds[i % 4](g.size) for i, g in enumerate(w.free) if i})
    found = score(loaded, wiring, "own")
    assert np.isinf(found[names[0]]).all()
    assert all(np.array_equal(found[name], np.arange(len(found[name]))) for name in names[1:3])
    assert found[names[3]].tolist() == [float(i > 3) for i in range(len(found[names[3]]))]


def test_it_may_do_to_its_detector_what_it_likes(own, detector, wiring):
    before = {name: value.clone() for name, value in detector.state_dict().items()}

    def spoils(spoilt, wiring, evidence):
        for layer in spoilt.train().modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.zeros_(layer.weight)
        return ones(wiring)

    own(spoils)
    score(detector, wiring, "own")
    assert not detector.training
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_a_module_that_ends_the_process_is_no_criterion(tmp_path, monkeypatch):
    (tmp_path / "ending.py").write_text("import sys\nsys.exit(1)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SlimError, match=r"ending:shift cannot be imported \(SystemExit: 1\)"):
        criterion_of("ending:shift")


def test_the_command_line_says_it_in_one_message(original, tmp_path, monkeypatch):
    (tmp_path / "short_criterion.py").write_text(OWN.replace("np.concatenate(rows)", "np.concatenate(rows)[:, 1:]"))
    monkeypatch.chdir(tmp_path)
    words = [f"model={original}", f"imgsz={PX}", "sparse_train.epochs=0", "prune.ratio=0.3"]
    try:
        answer = run("prune", *words, "prune.criterion=short_criterion:shift")
    finally:
        sys.modules.pop("short_criterion", None)
    refused(answer, "prune.criterion=short_criterion:shift", "(rows, 16)", "(1, 15)")
    assert not list(tmp_path.rglob("pruned.pt"))


def test_one_that_is_right_is_as_it_was(own, loaded, wiring):
    def shift(detector, wiring, evidence):
        found = {}
        for group in wiring.free:
            rows = [rows_of(group, wiring.norms[n].channels, detector.get_submodule(n).bias.abs()) for n in group.norms]
            found[group.name] = np.concatenate(rows)
        return found

    own(shift)
    beta = loaded.get_submodule(GROUP.replace("conv", "bn")).bias.detach().abs().numpy()
    assert score(loaded, wiring, "own")[GROUP] == pytest.approx(beta)
