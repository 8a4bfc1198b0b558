"""A detector goes out as the cfg and the weights that it came from, narrower where it was cut."""

import hashlib
import json
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_nets import HEADER, SMALL, conv, detector, head, image, net, random_cfg, section, written
from networks import random_plan

import yolo_slim
from yolo_slim.channels import cut, relative_difference, trace
from yolo_slim.errors import SlimError
from yolo_slim.formats import darknet
from yolo_slim.formats.darknet.net import read_net

CORPUS = Path(__file__).parent / "corpus" / "darknet"
CARD = {"steps": [{"stage": "prune", "settings": {"ratio": 0.5}, "params": 12}]}
WIDTHS = re.compile(r"^\s*(filters|groups)\s*=")


def halved(model, seed=0):
    """A random cut of a detector."""
    found = trace(model, read_net(model.yaml["darknet"]["cfg"]).image[1:])
    slim = cut(model, found, random_plan(found, np.random.default_rng(seed)))
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())
    return slim


def same_bytes(a, b):
    return Path(a).read_bytes() == Path(b).read_bytes()


@pytest.mark.parametrize("name", ["v3-tiny", "v4-parts", "new-coords"])
def test_what_was_not_cut_comes_back_to_the_byte(tmp_path, name):
    cfg, weights = darknet.save(darknet.load(CORPUS / f"{name}.cfg"), tmp_path / "deep" / "out.cfg")
    assert (cfg, weights) == (tmp_path / "deep" / "out.cfg", tmp_path / "deep" / "out.weights")
    assert same_bytes(cfg, CORPUS / f"{name}.cfg") and same_bytes(weights, CORPUS / f"{name}.weights")
    assert sorted(os.listdir(tmp_path / "deep")) == ["out.cfg", "out.weights"]


@pytest.mark.parametrize("seed", range(8))
def test_random_nets_come_back_to_the_byte(tmp_path, seed):
    path = written(tmp_path, random_cfg(seed), seed)
    cfg, weights = darknet.save(darknet.load(path), tmp_path / "out.cfg")
    assert same_bytes(cfg, path) and same_bytes(weights, path.with_suffix(".weights"))


def test_an_odd_cfg_comes_back_to_the_byte(tmp_path):
    """Line ends of Windows, blanks in odd places, comments in another script, a key said twice, no end of line."""
    text = SMALL.replace("filters=6", "filters = 6 # six").replace("size=3\n", "\tsize=3\n", 1)
    text = text.replace("batch=1\n", "batch=1\nbatch = 1\n; Übung 训练\n").rstrip().replace("\n", "\r\n")
    path = written(tmp_path, text)
    cfg, weights = darknet.save(darknet.load(path), tmp_path / "out.cfg")
    assert same_bytes(cfg, path) and same_bytes(weights, path.with_suffix(".weights"))
    cfg, _ = darknet.save(halved(darknet.load(path)), tmp_path / "slim.cfg")
    for old, new in zip(text.split("\n"), cfg.read_bytes().decode().split("\n"), strict=True):
        assert old == new or (
            WIDTHS.match(old) and re.sub(r"\d+", "", old, count=1) == re.sub(r"\d+", "", new, count=1)
        )


def test_numbers_that_are_nearly_none_come_back(tmp_path):
    """A variance of 5.6e-45 occurs in the wild, minus zero as well."""
    path = written(tmp_path, SMALL)
    weights = path.with_suffix(".weights")
    numbers = np.frombuffer(weights.read_bytes(), "<f4", offset=20).copy()
    numbers[:6], numbers[18:24] = -0.0, 5.6e-45
    weights.write_bytes(HEADER.packed() + numbers.tobytes())
    assert same_bytes(darknet.save(darknet.load(path), tmp_path / "out.cfg")[1], weights)


def test_older_headers_stay(tmp_path):
    path = written(tmp_path, SMALL, header=HEADER._replace(minor=1))
    content = darknet.save(darknet.load(path), tmp_path / "out.cfg")[1].read_bytes()
    assert (
        content[:16] == struct.pack("<iiiI", 0, 1, 5, HEADER.seen)
        and content == path.with_suffix(".weights").read_bytes()
    )


@pytest.mark.parametrize("name", ["v3-tiny", "v4-parts", "new-coords"])
def test_a_slim_one_comes_in_again_and_again(tmp_path, name):
    """The same answers, only widths are other in its cfg, and it can be cut once more."""
    slim = halved(darknet.load(CORPUS / f"{name}.cfg"))
    for round in range(2):
        cfg, weights = darknet.save(slim, tmp_path / f"{round}.cfg")
        again = darknet.load(cfg)
        assert relative_difference(slim, again, image(again)) == 0
        assert weights.stat().st_size < (CORPUS / f"{name}.weights").stat().st_size
        lines = zip((CORPUS / f"{name}.cfg").read_text().split("\n"), cfg.read_text().split("\n"), strict=True)
        assert all(WIDTHS.match(new) for old, new in lines if old != new)
        found = trace(again, again.args["imgsz"])
        slim = cut(again, found, random_plan(found, np.random.default_rng(round)))


def test_depthwise_convolutions_say_their_groups(tmp_path):
    model = detector(net() + conv(8, 3, 2) + conv(8, 3, groups=8) + conv(6) + head())
    found = trace(model, 32)
    kept = np.ones(found.n_channels, bool)
    kept[found.convs["model.1.conv"].outputs[3:]] = False
    cfg, _ = darknet.save(cut(model, found, kept), tmp_path / "slim.cfg")
    layer = read_net(cfg.read_text()).layers[1]
    assert (layer.values["filters"], layer.values["groups"]) == (3, 3)


def test_groups_of_a_route_stay_as_they_are(tmp_path):
    """Its parts lose the same channels, so that halves stay halves."""
    text = net() + conv(8, 3, 2) + section("route", layers=-1, groups=2, group_id=1) + conv(6, 3) + head()
    model = detector(text)
    found = trace(model, 32)
    kept = np.ones(found.n_channels, bool)
    kept[found.convs["model.0.conv"].outputs[[1, 5]]] = False
    cfg, _ = darknet.save(slim := cut(model, found, kept), tmp_path / "slim.cfg")
    assert "filters=6\n" in cfg.read_text() and "groups=2\ngroup_id=1" in cfg.read_text()
    assert relative_difference(slim, darknet.load(cfg), image(model)) == 0


def test_names_go_along(tmp_path):
    model = darknet.load(written(tmp_path, SMALL))
    model.names = {0: "a cat", 1: "two\nlines", 2: ""}
    cfg, _ = darknet.save(model, tmp_path / "out.cfg")
    assert darknet.load(cfg).names == {0: "a cat", 1: "two lines", 2: "2"}


def test_names_of_another_detector_do_not_stay_beside_it(tmp_path):
    model = darknet.load(written(tmp_path, SMALL))
    (tmp_path / "out.names").write_text("a\nb\nc\n")
    cfg, _ = darknet.save(model, tmp_path / "out.cfg")
    assert darknet.load(cfg).names == model.names == {0: "0", 1: "1", 2: "2"}


# ---- the card ----


def test_a_card_lies_beside_it(tmp_path):
    path = written(tmp_path, SMALL)
    assert darknet.card(path) == {}
    cfg, weights = darknet.save(darknet.load(path), tmp_path / "out.cfg", CARD)
    assert darknet.card(cfg)["steps"][0]["stage"] == "prune"
    weights.write_bytes(weights.read_bytes()[::-1])  # it was trained on by Darknet, say
    assert darknet.card(cfg) == {}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="nothing"),
        pytest.param("[]", id="a list"),
        pytest.param('{"card": 1}', id="no card in it"),
        pytest.param("[" * 100_000, id="without end"),
    ],
)
def test_a_broken_card_is_refused(tmp_path, content):
    path = written(tmp_path, SMALL)
    path.with_suffix(".card.json").write_text(content)
    with pytest.raises(SlimError, match=r"net\.card\.json"):
        darknet.card(path)


def test_a_card_that_says_what_none_does_is_refused(tmp_path):
    path = written(tmp_path, SMALL)
    sums = {k: hashlib.sha256(path.with_suffix(f".{k}").read_bytes()).hexdigest() for k in ("cfg", "weights")}
    path.with_suffix(".card.json").write_text(json.dumps({"card": {"steps": 3}, "sha256": sums}))
    with pytest.raises(SlimError, match="no sound model card"):
        darknet.card(path)


# ---- whole or not at all ----


def test_nothing_is_changed_where_something_cannot_be_written(tmp_path):
    model = detector(SMALL)
    (tmp_path / "out.cfg").write_text("mine")
    (tmp_path / "out.weights").mkdir()
    with pytest.raises(SlimError, match=r"out\.weights.*Nothing was changed"):
        darknet.save(model, tmp_path / "out.cfg")
    assert (tmp_path / "out.cfg").read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["out.cfg", "out.weights"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SlimError, match="No space left"):
        darknet.save(detector(SMALL), tmp_path / "out.cfg", CARD)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda m: m.fuse(verbose=False), "fused", id="fused"),
        pytest.param(lambda m: m.yaml.pop("darknet"), "Darknet cfg", id="its cfg is gone"),
        pytest.param(lambda m: m.model[0].bn.bias.data.fill_(torch.nan), r"NaN.*biases of layer 0", id="no numbers"),
    ],
)
def test_what_is_no_detector_of_a_cfg_is_not_written(tmp_path, change, message):
    change(model := detector(SMALL))
    with pytest.raises(SlimError, match=message):
        darknet.save(model, tmp_path / "out.cfg")
    assert os.listdir(tmp_path) == []


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(SlimError, match=r"\.cfg"):
        darknet.save(detector(SMALL), tmp_path / "out.pt")


def test_python_reads_weights_that_lie_elsewhere(tmp_path):
    path = written(tmp_path, SMALL)
    moved = path.with_suffix(".weights").rename(tmp_path / "elsewhere.weights")
    again = yolo_slim.load(path, weights=moved)
    assert again.state_dict().keys() == darknet.load(path, moved).state_dict().keys()
    with pytest.raises(SlimError, match="no weights beside"):
        yolo_slim.load(path)
