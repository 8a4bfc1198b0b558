"""A detector of a cfg in a checkpoint of ours: what comes out of the pickle is made anew, and looked at."""

import copy
import io
import pickletools
import zipfile

import numpy as np
import pytest
import torch
from darknet_nets import SMALL, conv, detector, head, image, net, section
from networks import random_plan
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.channels import cut, relative_difference, trace
from yolo_slim.errors import SlimError
from yolo_slim.formats import darknet
from yolo_slim.formats.writing import content_of

PARTS = (
    net()
    + conv(8, 3, 2, "mish")
    + section("maxpool", size=2, stride=1)
    + conv(8, 3, groups=8)
    + conv(8, activation="swish", norm=False)
    + section("shortcut", from_=-2, activation="linear")
    + section("route", layers=-1, groups=2, group_id=1)
    + conv(6, 3, 2, "relu")
    + head()
)


def pickled(model):
    """As our checkpoints hold it."""
    file = io.BytesIO()
    torch.save(content_of(model), file)
    return file


def slim(model, seed=0):
    """Cut at random, and marked so."""
    found = trace(model, 32)
    kept = random_plan(found, np.random.default_rng(seed))
    result = cut(model, found, kept)
    checkpoint.mark_slim(result, {name: [0] for name in found.convs})
    return result


def test_a_pickle_names_five_classes_of_ours():
    """All that a safe loader has to allow."""
    archive = zipfile.ZipFile(pickled(slim(detector(PARTS))))
    pickle = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    named = {arg for op, arg, _ in pickletools.genops(pickle) if op.name == "GLOBAL" and "yolo_slim" in arg}
    ours = ("DarknetHead", "DarknetModel", "EdgePool", "Part", "Sum")
    assert named == {f"yolo_slim.formats.darknet.modules {name}" for name in ours}


@pytest.mark.parametrize("cuts", [0, 1, 2])
def test_what_was_pickled_comes_back(tmp_path, cuts):
    """Whole or cut: the same answers to fp16, the same cfg, and its cuts."""
    model = detector(PARTS)
    for seed in range(cuts):
        model = slim(model, seed)
    file = pickled(model)
    file.seek(0)
    again = darknet.restored(torch.load(file, weights_only=False)["model"])
    assert not again.training and next(again.parameters()).dtype == torch.float32
    assert all(p.requires_grad for p in again.parameters())
    half = copy.deepcopy(model).half().float()
    assert relative_difference(half, again, image(model)) == 0
    assert again.yaml == model.yaml and again.names == model.names
    for name, one in (("a", half), ("b", again)):
        darknet.save(one, tmp_path / f"{name}.cfg")
    for end in ("cfg", "weights"):
        assert (tmp_path / f"a.{end}").read_bytes() == (tmp_path / f"b.{end}").read_bytes()


def text(model, value):
    model.yaml["darknet"]["cfg"] = value


def header(model, value):
    model.yaml["darknet"]["header"] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda m: setattr(m, "yaml", 3), "yaml.darknet.cfg", id="no description"),
        pytest.param(lambda m: m.yaml.pop("darknet"), "yaml.darknet.cfg", id="no cfg"),
        pytest.param(lambda m: text(m, 3), "yaml.darknet.cfg", id="a number for a cfg"),
        pytest.param(lambda m: text(m, "#" * (2 << 20)), "yaml.darknet.cfg", id="a long cfg"),
        pytest.param(lambda m: text(m, SMALL.replace("leaky", "elu")), "its cfg is refused at line", id="a bad cfg"),
        pytest.param(lambda m: text(m, SMALL + section("route", layers=0) + head()), "no weights of it", id="another"),
        pytest.param(lambda m: text(m, SMALL.replace("size=3", "size=5", 1)), "holds 794 numbers", id="other kernels"),
        pytest.param(lambda m: text(m, SMALL.replace("mask=0,1", "mask=0")), "expected 8", id="fewer anchors"),
        pytest.param(lambda m: header(m, [0, 2, 5]), "yaml.darknet.header", id="a short header"),
        pytest.param(lambda m: header(m, [0, 2, 5, -1]), "yaml.darknet.header", id="a header below zero"),
        pytest.param(lambda m: setattr(m, "names", {0: "a"}), "names", id="too few names"),
        pytest.param(lambda m: setattr(m, "names", {0: 1, 1: "b", 2: "c"}), "names", id="a number for a name"),
        pytest.param(lambda m: m.model[0].bn.weight.data.fill_(torch.nan), "NaN", id="no numbers"),
        pytest.param(lambda m: m.model[0].bn.running_var.fill_(-1), "below zero", id="a variance below zero"),
        pytest.param(lambda m: m.model.append(nn.Linear(2, 2)), "800 numbers", id="a layer more"),
        pytest.param(lambda m: delattr(m.model[0], "bn"), "770 numbers", id="a norm less"),
        pytest.param(
            lambda m: setattr(m.model[1].bn, "bias", nn.Parameter(torch.ones(2, 4))), "size mismatch", id="a matrix"
        ),
        pytest.param(
            lambda m: setattr(m.model[0].conv, "weight", nn.Parameter(torch.ones(3))), "no weights", id="a vector"
        ),
    ],
)
def test_what_is_not_what_it_seems_is_refused(change, message):
    change(model := detector(SMALL))
    with pytest.raises(SlimError, match=message):
        darknet.restored(model)


def test_modules_are_thrown_away():
    """Whatever they say of themselves: strides, anchors, what they are called."""
    model = detector(SMALL)
    expected = model(image(model))[0]
    model.model[-1].levels[0]["anchors"] = [[1e9, 1e9]] * 2
    model.model[0].act, model.model[0].f, model.save = nn.Tanh(), 17, [3]
    model.model[0].bn.eps = 0.5
    assert torch.equal(darknet.restored(model)(image(model))[0], expected)
