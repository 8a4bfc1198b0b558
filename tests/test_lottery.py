"""Lottery tickets: what is counted, what goes, what comes back bit for bit, and what stays zero in training."""

from __future__ import annotations

import pytest
import torch
from tiny import PX, TINY, script
from torch import nn
from training_helpers import Killed

from yolo_slim import checkpoint
from yolo_slim.channels import trace
from yolo_slim.compress import Plan
from yolo_slim.compress.held import holding
from yolo_slim.compress.lottery import all_left, left_of, next_round, rewound
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate
from yolo_slim.training.plans import load_plan

pytest_plugins = ["tiny"]

lottery = script("lottery")


def counts(count: int, share: float, rounds: int) -> list[int]:
    """What is left after each of some rounds, the start among them."""
    found = [count]
    for _ in range(rounds):
        found.append(left_of(found[-1], share))
    return found


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        pytest.param(10, 0.2, [10, 8, 7], id="rounded down: rounded up there would be 6"),
        pytest.param(100, 0.29, [100, 71], id=".29 * 100 is 28.999..., and 29 go"),
        pytest.param(3, 0.2, [3, 3], id="a share of few is none"),
        pytest.param(1_000_000, 0.2, [1_000_000, 800_000, 640_000, 512_000, 409_600, 327_680], id=".8 ** 5 of them"),
        pytest.param(5, 0, [5, 5], id="none"),
    ],
)
def test_how_many_are_left(count, share, expected):
    assert counts(count, share, len(expected) - 1) == expected


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match="prune: expected a share from 0 to below 1"):
        left_of(10, share)


def two_layers() -> nn.Module:
    """Ten weights in two layers: sizes 1 to 10, in no order."""
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 3, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([3.0, -1, 8, 5]).view(2, 2, 1, 1))
        net[1].weight.copy_(torch.tensor([-2.0, 7, -10, 4, 6, 9]).view(3, 2, 1, 1))
    return net


def test_the_smallest_of_all_layers_go_together():
    net = two_layers()
    masks = {f"{i}.weight": torch.ones_like(net[i].weight, dtype=torch.bool) for i in (0, 1)}
    once = next_round(net, masks, 0.2)
    assert [once[n].flatten().tolist() for n in once] == [
        [True, False, True, True],
        [False, True, True, True, True, True],
    ]
    with torch.no_grad():
        net[1].weight[1, 1] = 0.0  # what has gone does not come back, however large: nor does it count
        net[0].weight[0, 1] = 99.0
    twice = next_round(net, once, 0.2)
    assert sum(int(m.sum()) for m in twice.values()) == 7
    assert not twice["0.weight"].flatten()[1] and not twice["1.weight"].flatten()[3]


def test_of_equal_weights_as_many_go_as_are_asked_for():
    net = nn.Sequential(nn.Conv2d(10, 1, 1))
    nn.init.ones_(net[0].weight)
    mask = next_round(net, {"0.weight": torch.ones(1, 10, 1, 1, dtype=torch.bool)}, 0.2)["0.weight"]
    assert mask.flatten().tolist() == [False, False, *[True] * 8], "a threshold would take all or none"


def test_the_first_layer_and_those_that_predict_are_left_out(loaded):
    masks = all_left(loaded, trace(loaded, PX))
    assert all(mask.all() and mask.shape == loaded.get_parameter(name).shape for name, mask in masks.items())
    assert "model.0.conv.weight" not in masks and "model.10.cv2.0.2.weight" not in masks
    assert "model.1.conv.weight" in masks and "model.10.cv2.0.0.conv.weight" in masks


@pytest.mark.parametrize(
    ("value", "share", "words"),
    [
        pytest.param(float("nan"), 0.2, "no numbers", id="no number"),
        pytest.param(1.0, 0.05, "of 10 weights that are left, a share of 0.05 is none", id="nothing goes"),
    ],
)
def test_rounds_that_cannot_be(value, share, words):
    net = nn.Sequential(nn.Conv2d(10, 1, 1))
    nn.init.constant_(net[0].weight, value)
    with pytest.raises(SlimError, match=words):
        next_round(net, {"0.weight": torch.ones(1, 10, 1, 1, dtype=torch.bool)}, share)


def test_what_is_left_is_as_it_was_bit_for_bit(loaded):
    masks = next_round(loaded, all_left(loaded, trace(loaded, PX)), 0.5)
    before = duplicate(loaded).state_dict()
    ticket = rewound(loaded, masks).state_dict()
    for name, value in before.items():
        if name in masks:
            assert torch.equal(ticket[name][masks[name]], value[masks[name]]) and not ticket[name][~masks[name]].any()
        else:
            assert torch.equal(ticket[name], value), "biases, and batch norms with their statistics"
    assert all(torch.equal(v, before[k]) for k, v in loaded.state_dict().items()), "the early one is left alone"


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_what_has_gone_stays_zero_under_momentum(optimizer):
    """After a step before the mask: the momentum it has left would move them on."""
    net = two_layers()
    how = {"momentum": 0.9, "weight_decay": 0.1} if optimizer == "SGD" else {}
    steps = getattr(torch.optim, optimizer)(net.parameters(), lr=0.1, **how)

    def step() -> None:
        steps.zero_grad()
        net(torch.ones(1, 2, 1, 1)).square().sum().backward()
        steps.step()

    step()
    masks = next_round(net, {f"{i}.weight": torch.ones_like(net[i].weight, dtype=torch.bool) for i in (0, 1)}, 0.4)
    hold, moved = holding(Plan({}, masks)), False
    hold(net, 0.0)
    for _ in range(3):
        step()
        moved = moved or any(bool(net.get_parameter(n)[~m].any()) for n, m in masks.items())
        hold(net, 0.0)
        assert all(not net.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert moved, "nothing but the hold keeps them there"


# ---- the recipe ----


@pytest.fixture(scope="module")
def words(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lottery")
    (folder / "tiny.yaml").write_text(TINY)
    return ["--model", folder / "tiny.yaml", "--data", data, "--rounds", 2, "--epochs", 2, "--imgsz", PX, "--batch", 4]


def run(words, out, *more):
    return lottery.main([str(w) for w in (*words, "--out", out, *more)])


def test_two_rounds_one_of_them_killed(words, tmp_path, monkeypatch, capsys):
    """Killed in the second round, the same command goes on there; zeros are zero, and tickets are early weights."""
    out, real = tmp_path / "out", lottery.train_in
    asked = []

    def dying(folder, *args, **how):
        asked.append(folder.name)
        if folder.name == "ticket2" and asked.count("ticket2") == 1:
            raise Killed
        return real(folder, *args, **how)

    monkeypatch.setattr(lottery, "train_in", dying)
    with pytest.raises(Killed):
        run(words, out)
    before = {p.name: p.read_bytes() for p in (out / "ticket1" / "train" / "weights").iterdir()}
    rows = run(words, out)
    assert {p.name: p.read_bytes() for p in (out / "ticket1" / "train" / "weights").iterdir()} == before
    assert [(r["round"], r["kind"]) for r in rows] == [
        (0, "dense"), (1, "ticket"), (1, "control"), (2, "ticket"), (2, "control")
    ]  # fmt: skip
    assert all(0 <= row["map50_95"] <= 1 for row in rows)
    early = checkpoint.load(out / "dense" / "train" / "rewind.pt").state_dict()
    start, other = (checkpoint.load(out / name).state_dict() for name in ("start.pt", "other.pt"))
    total = sum(m.numel() for m in load_plan(out / "round1.plan").tensors.values())
    assert [r["left"] for r in rows[1::2]] == pytest.approx([n / total for n in counts(total, 0.2, 2)[1:]], abs=0)
    for number in (1, 2):
        masks = load_plan(out / f"round{number}.plan").tensors
        for kind, source in (("ticket", early), ("control", other)):
            begun = checkpoint.load(out / f"{kind}{number}.pt").state_dict()
            assert all(torch.equal(v, begun[k]) for k, v in source.items() if k not in masks)
            assert all(torch.equal(source[k][m], begun[k][m]) for k, m in masks.items())
            for file in ("best.pt", "last.pt"):
                weights = out / f"{kind}{number}" / "train" / "weights" / file
                trained = checkpoint.load(weights).state_dict()
                assert all(not trained[k][~m].any() for k, m in masks.items())
                assert any(not torch.equal(trained[k][m], begun[k][m]) for k, m in masks.items())
            live = checkpoint.read(weights)["live"]
            assert all(not live[k][~m].any() for k, m in masks.items())
    one, two = (load_plan(out / f"round{number}.plan").tensors for number in (1, 2))
    assert all(not (two[k] & ~one[k]).any() for k in one), "what has gone never comes back"
    name = next(iter(one))
    assert not torch.equal(early[name], start[name]) and not torch.equal(start[name], other[name])
    capsys.readouterr()
    assert run(words, out, "--print") == rows and "| 2 | 64.0% |" in capsys.readouterr().out
    with pytest.raises(SlimError, match="holds rounds with other settings"):
        run(words, out, "--prune", 0.3)


def test_the_rate_goes_on_from_the_early_epoch(words, tmp_path, monkeypatch):
    """Linear from lr0 down to lrf of it: from epoch 2 of 10 on it is the same line."""
    asked = {}
    monkeypatch.setattr(lottery, "train_in", lambda folder, *a, arguments, **h: asked.update(arguments))
    args = lottery.arguments([str(w) for w in (*words, "--epochs", 10, "--rewind", 2, "--warmup", 3)])
    line = lambda how, epoch: how["lr0"] * ((1 - epoch / how["epochs"]) * (1 - how["lrf"]) + how["lrf"])  # noqa: E731
    found = []
    for epochs in (10, 8):
        lottery.train(args, "x", tmp_path / "x.pt", None, epochs)
        found.append((dict(asked), asked["warmup_epochs"]))
    (whole, warm), (rest, less) = found
    assert (warm, less) == (3, 1)
    assert [line(rest, e) for e in range(8)] == pytest.approx([line(whole, e + 2) for e in range(8)])


def test_channels_go_back_with_the_statistics_of_their_norms(words, tmp_path):
    rows = run(words, tmp_path / "out", "--structured", "--rewind", 1)
    out = tmp_path / "out"
    early, ticket = (checkpoint.load(p) for p in (out / "dense" / "train" / "rewind.pt", out / "ticket1.pt"))
    again = checkpoint.load(out / "ticket2.pt")
    assert 1 > rows[1]["left"] > rows[3]["left"] > 0 and len(again.yaml["slim"]["cuts"]) == 2
    kept = ticket.yaml["slim"]["cuts"][0]["model.1.conv"]
    assert 0 < len(kept) < 32
    for name in ("weight", "bias", "running_mean", "running_var"):
        old, new = (getattr(d.model[1].bn, name) for d in (early, ticket))
        assert torch.equal(old[kept], new), name
    assert early.model[1].bn.running_mean.any(), "an epoch has passed"


@pytest.mark.parametrize(
    ("more", "words_said"),
    [
        pytest.param(("--model", "best.pt"), "expected a model YAML", id="a trained one"),
        pytest.param(("--rewind", "2"), "expected an epoch from 0 to below 2", id="after the end"),
        pytest.param(("--prune", "1"), "expected a share between 0 and 1", id="everything"),
        pytest.param(("--rounds", "0"), "--rounds from 1 on", id="no round"),
    ],
)
def test_what_cannot_be_asked(words, capsys, more, words_said):
    with pytest.raises(SystemExit):
        lottery.arguments([str(w) for w in (*words, *more)])
    assert words_said in capsys.readouterr().err
