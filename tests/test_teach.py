"""Training from scratch beside another: what is added to the loss, what is kept of it, and what a step costs."""

from __future__ import annotations

import re

import pytest
import torch
from tiny import PX, TINY, script
from torch import nn
from training_helpers import Killed

from yolo_slim import checkpoint
from yolo_slim.errors import SlimError
from yolo_slim.heads import raw

pytest_plugins = ["tiny"]

teach = script("teach")


@pytest.fixture(scope="module")
def yaml_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("yaml") / "tiny.yaml"
    file.write_text(TINY)
    return file


def words(how, yaml_file, data, out, **more):
    """Of a command that is quick."""
    given = {"how": how, "model": yaml_file, "data": data, "out": out, "imgsz": PX, "epochs": 2, "batch": 4, "steps": 2,
             "warmup": 0.0, **more}  # fmt: skip
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("how", ["rocket", "one", "sobolev"])
def test_a_whole_run(how, yaml_file, data, tmp_path, capsys):
    """Both trained from the same weights and to others; the file is the light detector alone; a step has its price."""
    asked = words(how, yaml_file, data, tmp_path)
    rows = teach.main(asked)["rows"]
    assert [*rows] == ["plain", how, "step"]
    start, plain, taught = (
        checkpoint.load(tmp_path / file)
        for file in ("start.pt", "plain/train/weights/best.pt", f"{how}/train/weights/best.pt")
    )
    assert start.state_dict().keys() == plain.state_dict().keys() == taught.state_dict().keys()
    assert rows["plain"]["params"] == rows[how]["params"]
    weights = [net.get_parameter("model.1.conv.weight") for net in (start, plain, taught)]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert all((0 <= rows[kind]["map50"] <= 1) for kind in ("plain", how))
    assert rows["step"]["ms"].keys() == {"plain", how} and rows["step"]["ratio"] > 0
    told = capsys.readouterr().out
    assert re.search(rf"\| {how} \| [\d,]+ \| [\d.]+ \| [\d.]+ \| \d+ \| [\d.]+ \|", told)
    assert teach.main(asked)["rows"] == rows, "nothing is done again"
    assert teach.main([*asked, "--print"])["rows"] == rows


@pytest.mark.parametrize("how", ["rocket", "one"])
def test_what_learns_beside_goes_on_after_a_kill(how, yaml_file, data, tmp_path, monkeypatch):
    trainer = teach.TaughtTrainer

    class Mortal(trainer):
        def save_model(self):
            super().save_model()
            if self.epoch == 0:
                raise Killed

    asked = words(how, yaml_file, data, tmp_path)
    monkeypatch.setattr(teach, "TaughtTrainer", Mortal)
    with pytest.raises(Killed):
        teach.main(asked)
    left = checkpoint.read(tmp_path / how / "train" / "weights" / "last.pt")["distill"]
    began = []

    class Watched(trainer):
        def _setup_train(self):
            super()._setup_train()
            began.append({k: v.clone() for k, v in self.beside.state_dict().items()})

    monkeypatch.setattr(teach, "TaughtTrainer", Watched)
    teach.main(asked)
    assert left and all(torch.equal(began[0][name], left[name]) for name in left)
    assert checkpoint.load(tmp_path / how / "train" / "weights" / "best.pt")


def built(yaml_file, seed=0):
    torch.manual_seed(seed)
    return checkpoint.build(str(yaml_file), 4)


SETTINGS = {"depth": 3, "branches": 3, "seed": 1, "weight": 1.0}


def test_a_branch_is_the_neck_and_head_of_a_detector(yaml_file):
    """With the backbone of its own it says what it says as a whole."""
    light = built(yaml_file).train()
    beside = teach.One(light, {**SETTINGS, "branches": 2})
    (branch,) = beside.branches
    assert not any(name.startswith("model.0.") for name, _ in branch.named_parameters())
    own = [m for m in light.model[beside.split :].parameters()]
    with torch.no_grad():
        for mine, theirs in zip(branch.model[beside.split :].parameters(), own, strict=True):
            assert mine.shape == theirs.shape
            mine.copy_(theirs)
    image = torch.rand(2, 3, PX, PX)
    beside.taps.open()
    whole = raw(light(image))
    (said,) = beside.said()
    torch.testing.assert_close(said["scores"], whole["scores"])
    torch.testing.assert_close(said["boxes"], whole["boxes"])
    said["scores"].sum().backward()
    assert light.model[0].conv.weight.grad is not None, "the backbone learns from it"


def test_a_booster_is_deeper_and_begins_by_its_seed(yaml_file):
    light = built(yaml_file)
    rockets = [teach.Rocket(light, {**SETTINGS, "seed": seed}) for seed in (1, 1, 2)]
    of = [sum(p.numel() for p in net.parameters()) for net in (rockets[0], light.model[rockets[0].split :])]
    assert of[0] > of[1]
    first, same, other = (next(r.parameters()) for r in rockets)
    assert torch.equal(first, same) and not torch.equal(first, other)
    with pytest.raises(SlimError, match="no blocks that a booster could repeat"):
        teach.deeper({"head": [[-1, 1, "Conv", [8]]]}, 3)


def test_batch_norms_remember_nothing_of_what_is_looked_at_once_more():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    with teach.still(net):
        net(torch.rand(4, 3, 8, 8))
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items()) and net[1].momentum == 0.1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param({"how": "shout"}, "invalid choice", id="no such way"),
        pytest.param({"model": "best.pt"}, "expected a model YAML, got best.pt", id="a trained one"),
        pytest.param({"branches": 1}, "expected 2 or more", id="one branch is none"),
    ],
)
def test_what_cannot_be_asked(tmp_path, capsys, more, said):
    with pytest.raises(SystemExit):
        teach.arguments(words(**{"how": "one", "yaml_file": "a.yaml", "data": "d.yaml", "out": tmp_path, **more}))
    assert said in capsys.readouterr().err


def test_a_folder_of_other_rows_is_left_alone(yaml_file, data, tmp_path):
    teach.record.write_json(tmp_path / "rows.json", {"settings": {"how": "one"}, "rows": {}})
    with pytest.raises(SlimError, match="holds rows with other settings"):
        teach.main(words("rocket", yaml_file, data, tmp_path))
