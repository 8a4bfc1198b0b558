"""The laws of a cut, for nets of Darknet's parts: masked equals cut, and what is written answers as what was cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_nets import PX, SMALL, conv, detector, head, image, net, random_cfg, randomised, section
from networks import random_plan

from yolo_slim.channels import cut, masked, reconstruct, relative_difference, trace
from yolo_slim.channels.groups import same_wiring
from yolo_slim.checkpoint import is_slim
from yolo_slim.config import check
from yolo_slim.formats import darknet
from yolo_slim.formats.darknet.net import read_net
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.pruning.cut import cut_to_plan

CORPUS = Path(__file__).parent / "corpus" / "darknet"
TIGHT = 1e-5


def faults(text, seed, folder):
    """Which laws a random cut of a net breaks, and the share of its channels that went."""
    model = detector(text, seed)
    x, hw = image(model), read_net(text).image[1:]
    found = trace(model, hw)
    kept = random_plan(found, np.random.default_rng(seed))
    slim = cut(model, found, kept)
    cfg, _ = darknet.save(slim, folder / f"{seed}.cfg")
    checks = {
        "empty plan": relative_difference(model, cut(model, found, np.ones_like(kept)), x) == 0,
        "output": relative_difference(masked(model, found, kept), slim, x) < TIGHT,
        "wiring": same_wiring(found, kept, trace(slim, hw)),
        "written": relative_difference(slim, darknet.load(cfg), x) == 0,
    }
    return [name for name, held in checks.items() if not held], 1 - kept.mean()


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_laws_of_random_nets(first, tmp_path):
    results = {seed: faults(random_cfg(seed), seed, tmp_path) for seed in range(first, first + 20)}
    assert {seed: found for seed, (found, _) in results.items() if found} == {}
    gone = np.array([share for _, share in results.values()])
    assert np.mean(gone > 0) > 0.8 and np.mean(gone) > 0.1  # not by keeping everything


def test_random_nets_have_every_part():
    kinds = {layer.kind for seed in range(40) for layer in read_net(random_cfg(seed)).layers}
    assert kinds == {"convolutional", "maxpool", "upsample", "route", "shortcut", "dropout", "yolo"}


@pytest.mark.parametrize("name", ["v3-tiny", "v4-parts"])
def test_all_but_the_heads_may_be_cut(name):
    """No pool, route, half or sum of theirs is protected without need."""
    model = darknet.load(CORPUS / f"{name}.cfg")
    found = trace(model, read_net(model.yaml["darknet"]["cfg"]).image[1:])
    kept_whole = {group.name: group.reason for group in found.groups if group.reason}
    into = {f"model.{i - 1}" for i in model.model[-1].f}
    assert kept_whole == dict.fromkeys(kept_whole, "output of the detector") and kept_whole.keys() == into


PROBES = {
    "leaky": conv(8, 3),
    "mish": conv(8, 3, activation="mish"),
    "swish": conv(8, 3, activation="swish"),
    "relu": conv(8, 3, activation="relu"),
    "relu6": conv(8, 3, activation="relu6"),
    "no batch norm": conv(8, 3, norm=False),
    "depthwise": conv(8, 3, groups=8),
    "pool 2/1": section("maxpool", size=2, stride=1),
    "pool 2/2": section("maxpool", size=2, stride=2),
    "pool 5/1": section("maxpool", size=5, stride=1),
    "pool 4/1": section("maxpool", size=4, stride=1),
    "upsample": section("upsample", stride=2),
    "half": section("route", layers=-1, groups=2, group_id=0),
    "twice": section("route", layers="-1,-1"),
    "sum": conv(8) + conv(8) + section("shortcut", from_="-2,-3", activation="linear"),
    "dropout": section("dropout", probability=0.5),
}


@pytest.mark.parametrize("name", PROBES)
def test_a_part_lets_channels_go(name):
    """Between two convolutions it protects none, and the law holds."""
    model = detector(net() + conv(8, 3, 2) + PROBES[name] + conv(8) + head())
    found = trace(model, PX)
    assert "model.0.conv" in {producer for group in found.free for producer in group.producers}
    kept = random_plan(found, np.random.default_rng(3))
    assert relative_difference(masked(model, found, kept), cut(model, found, kept), image(model)) < TIGHT


def test_an_activation_that_is_not_zero_at_zero_keeps_its_channels():
    model = detector(net() + conv(8, 3, 2, activation="logistic") + conv(8) + head())
    (group,) = (g for g in trace(model, PX).groups if "model.0.conv" in g.producers)
    assert "sigmoid" in group.reason


# ---- pruning ----


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"ratio": 0.4}, id="absorbed as beta says"),
        pytest.param({"ratio": 0.4, "reconstruct": "lstsq", "calib_images": 8}, id="least squares"),
        pytest.param({"ratio": 0.4, "reconstruct": "none", "recalibrate": 8}, id="absorbed as measured, recalibrated"),
    ],
)
def test_prune_and_prune_again(settings, tmp_path):
    """What is cut and recovered goes out, comes in, and is cut again; the cut is noted beside the cfg's text."""
    model = darknet.load(CORPUS / "v3-tiny.cfg")
    needs = "calib_images" in settings or "recalibrate" in settings
    images = [torch.rand(8, 3, PX, PX, generator=torch.Generator().manual_seed(0))] if needs else []
    for round in range(2):
        chosen = {"criterion": "l1", "min_channels": 1, "round_to": 1, **settings}
        config = check({"model": "a cfg", "imgsz": PX, "prune": chosen}, "a test")
        evidence = replace(evidence_from(config, model), images=images)
        pruned = cut_to_plan(model, config.prune, PX, evidence)
        assert is_slim(pruned.model) and pruned.difference < TIGHT
        assert len(pruned.model.yaml["slim"]["cuts"]) == 1
        cfg, _ = darknet.save(pruned.model, tmp_path / f"{round}.cfg")
        model = darknet.load(cfg)
        assert relative_difference(pruned.model, model, image(model)) == 0


def test_least_squares_brings_back_what_was_doubled():
    """Each of 8 channels, made twice, is read twice: half of them go, and nothing is lost."""
    text = net() + conv(8, 3, 2, activation="linear") + section("route", layers="-1,-1") + conv(8, 1) + head()
    model = randomised(detector(text))
    images = torch.rand(16, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for half in (model.model[0].conv.weight, model.model[0].bn.weight, model.model[0].bn.bias):
            half[4:] = half[:4]
        for half in (model.model[0].bn.running_mean, model.model[0].bn.running_var):
            half[4:] = half[:4]
    found = trace(model, PX)
    kept = np.ones(found.n_channels, bool)
    kept[found.convs["model.0.conv"].outputs[4:]] = False
    healed = reconstruct(cut(model, found, kept), model, found, kept, [images], ridge=1e-6)
    assert relative_difference(model, healed, image(model)) < 1e-2
    assert relative_difference(model, cut(model, found, kept), image(model)) > 1e-1


def test_anchors_and_text_are_no_weights():
    """What `state_dict` holds is what `.weights` holds."""
    model = detector(SMALL)
    state = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    assert all(name.startswith(("model.0.", "model.1.", "model.2.")) for name in state)
