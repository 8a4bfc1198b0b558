"""What is beside the losses of fine-tuning: Sobolev, rocket launching, ensembles of branches, and dreamt images."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from tiny import PX, script
from torch import nn

from yolo_slim import checkpoint
from yolo_slim.data.unlabelled import images_at
from yolo_slim.distill.dream import dream, gap, variation, watched
from yolo_slim.distill.one import Gate, ensemble, lesson, ramp
from yolo_slim.distill.rocket import hint
from yolo_slim.distill.sobolev import confidence, sobolev
from yolo_slim.errors import SlimError

pytest_plugins = ["tiny"]

dreaming = script("dream")

# ---- Sobolev ----


@pytest.mark.parametrize("directions", [1, 3])
def test_the_oracle_of_sobolev(directions):
    """f = ax, t = 2x, a = 1.5, x in {1, 2}: (a - 2)^2 * 2.5 + (a - 2)^2 = .875, with the derivative -3.5."""
    a = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    loss = sobolev(lambda x: a * x, lambda x: 2 * x, x, directions=directions)
    loss.backward()
    assert (loss.item(), a.grad.item()) == pytest.approx((0.875, -3.5), abs=1e-12)


def test_projections_are_the_jacobian_on_average():
    """E |grad <v, Ax>|^2 = |A|^2 / D for unit vectors v of D numbers."""
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 7, dtype=torch.float64, generator=draw)
    x = torch.zeros(4000, 7, dtype=torch.float64)
    found = sobolev(lambda x: x @ matrix.T, lambda x: x @ matrix.T * 0, x, value=0, generator=draw)
    assert found.item() == pytest.approx(matrix.square().sum().item() / 5, rel=0.05)


def test_gradients_are_learned_and_none_reaches_the_teacher():
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Conv2d(6, 2, 1)) for _ in range(2))
    images = torch.rand(2, 3, 6, 6)
    ask = lambda net: lambda x: confidence(net(x).flatten(2))  # noqa: E731
    optimizer, losses = torch.optim.Adam(student.parameters(), 0.02), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = sobolev(ask(student), ask(teacher), images, value=0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(p.grad is None for p in teacher.parameters())
    assert sobolev(ask(teacher), ask(teacher), images).item() < 1e-12


def test_answers_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="answers of one shape"):
        sobolev(lambda x: x, lambda x: x[:, :1], torch.ones(2, 3))


# ---- rocket launching ----


def test_the_hint_of_a_booster():
    """.03 |b - l|^2 / B, and the booster does not come down to the light net."""
    light, booster = (torch.tensor(v, requires_grad=True) for v in ([[1.0, 2.0], [0.0, 0.0]], [[1.0, 0.0], [3.0, 0.0]]))
    loss = hint(light, booster)
    loss.backward()
    assert loss.item() == pytest.approx(0.03 * (4 + 9) / 2)
    assert booster.grad is None
    assert light.grad.tolist() == [[0, pytest.approx(0.06)], [pytest.approx(-0.09), 0]]
    with pytest.raises(ValueError, match="logits of one shape"):
        hint(light, booster[:, :1])


# ---- ensembles of branches ----


def test_what_branches_say_together():
    one, two = (torch.tensor([[v, 0.0]], requires_grad=True) for v in (2.0, -2.0))
    gate = torch.tensor([[0.75, 0.25]], requires_grad=True)
    together = ensemble([one, two], gate)
    assert together.tolist() == [[1.0, 0.0]]
    together.sum().backward()
    assert gate.grad.tolist() == [[2.0, -2.0]] and one.grad.tolist() == [[0.75, 0.75]]
    with pytest.raises(ValueError, match="expected a gate of shape"):
        ensemble([one, two], gate[:, :1])


def test_branches_learn_from_it_and_it_does_not_from_them():
    one, two = (torch.tensor([[v, 0.0]], dtype=torch.float64, requires_grad=True) for v in (2.0, -2.0))
    together = ensemble([one, two], torch.tensor([[0.5, 0.5]], dtype=torch.float64))  # 0, 0
    lesson([one, two], together).backward()
    # d/ds of T^2 KL(sigmoid(0) || sigmoid(s / T)) is T (sigmoid(s / T) - 1/2); a mean over two numbers.
    wanted = 3 * (1 / (1 + math.exp(-2 / 3)) - 0.5) / 2
    assert one.grad.tolist() == [[pytest.approx(wanted), 0.0]] and two.grad.tolist() == [[pytest.approx(-wanted), 0.0]]
    assert lesson([together, together], together).item() == 0


def test_a_gate_is_a_share_of_each_branch():
    torch.manual_seed(0)
    gate = Gate(4, 3)
    found = gate(torch.randn(5, 4, 6, 6))
    assert found.shape == (5, 3) and torch.allclose(found.sum(1), torch.ones(5)) and (found > 0).all()
    found[:, 0].sum().backward()
    assert gate.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("epoch", "value"), [(0, math.exp(-5)), (40, math.exp(-1.25)), (80, 1.0), (200, 1.0)])
def test_the_ramp(epoch, value):
    assert ramp(epoch) == pytest.approx(value)


# ---- dreamt images ----


def test_the_gap_of_one_norm():
    """Means off by 1 and 2, variances by 3 and 0: 1 + 4 + 9 + 0; relative: the root of 2.5 / 2.5 and of 4.5 / 2.5^2."""
    norm = nn.BatchNorm2d(2)
    norm.running_var.copy_(torch.tensor([1.0, 4.0]))
    mean, var = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 4.0])
    assert gap(mean, var, norm).item() == pytest.approx(14)
    assert gap(mean, var, norm, relative=True).item() == pytest.approx(1 + 0.72**0.5, rel=1e-4)


def test_images_that_a_norm_remembers_have_no_gap():
    torch.manual_seed(0)
    net, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=1.0)), torch.rand(4, 3, 8, 8)
    net(images)
    net[1].running_var.mul_((4 * 36 - 1) / (4 * 36))  # torch remembers the unbiased one
    with watched(net.eval(), relative=False) as gaps:
        net(images)
        net(1 - images)
    assert gaps[0].item() < 1e-9 and gaps[1].item() > 1e-4
    net(images)
    assert len(gaps) == 2, "nobody looks any more"


def test_variation_is_of_neighbours():
    stripes = torch.zeros(1, 1, 4, 4)
    stripes[..., ::2] = 1
    assert variation(stripes).item() == 1 and variation(torch.full((1, 1, 4, 4), 0.5)).item() == 0


def remembering() -> nn.Module:
    """Three layers that remember smooth, dark images; an untrained detector amplifies without bounds what it sees."""
    torch.manual_seed(0)
    layers = [(nn.Conv2d(c, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.SiLU()) for c in (3, 8, 8)]
    net = nn.Sequential(*[module for layer in layers for module in layer])
    for _ in range(20):  # a plain average of all batches; those behind see what those in front come to
        net(nn.functional.interpolate(torch.rand(8, 3, 4, 4) * 0.4, size=(PX, PX), mode="bilinear"))
    return net


def test_noise_comes_nearer_and_the_detector_stays():
    detector = remembering()
    detector[1].eval()
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    modes = [m.training for m in detector.modules()]
    draw = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    noise, losses = torch.rand(4, 3, PX, PX, generator=draw()), []
    made = dream(detector, noise, 25, generator=draw(), on_step=lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.5 * losses[0] and len(losses) == 25
    assert made.shape == noise.shape and made.min() >= 0 and made.max() <= 1 and not made.requires_grad
    assert torch.equal(made, dream(detector, noise, 25, generator=draw())), "the same noise, the same pictures"
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    assert [m.training for m in detector.modules()] == modes
    assert all(p.grad is None for p in detector.parameters())


@pytest.mark.parametrize(
    ("net", "words"),
    [
        pytest.param(nn.Conv2d(3, 4, 3), "expected a detector with batch norms", id="no batch norm"),
        pytest.param(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "no number any more", id="not finite"),
    ],
)
def test_what_cannot_be_dreamt_of(net, words):
    if isinstance(net, nn.Sequential):
        nn.init.constant_(net[0].weight, math.inf)
    with pytest.raises(SlimError, match=words):
        dream(net, torch.rand(2, 3, 8, 8), 2)


def asked(model, out, **numbers):
    """The words of a command."""
    given = {"model": model, "out": out, "imgsz": PX, **numbers}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def test_pictures_are_written_and_read_and_a_second_time_not_again(original, tmp_path, capsys):
    out = tmp_path / "dreamt"
    words = [
        "--model",
        str(original),
        "--images",
        "5",
        "--batch",
        "4",
        "--steps",
        "6",
        "--imgsz",
        str(PX),
        "--out",
        str(out),
    ]
    told = dreaming.main(words)
    files = sorted(out.iterdir())
    assert [f.name for f in files] == [f"dream{i:05d}.png" for i in range(5)]
    assert len(told) == 2 and all(math.isfinite(loss) for both in told for loss in both)
    assert all(cv2.imread(str(f)).shape == (PX, PX, 3) for f in files)
    assert not np.array_equal(cv2.imread(str(files[0])), cv2.imread(str(files[4])))
    contents = [f.read_bytes() for f in files]
    files[4].unlink()
    assert len(dreaming.main(words)) == 1, "the first batch is there"
    assert [f.read_bytes() for f in files] == contents
    detector = checkpoint.load(original)
    assert detector(torch.from_numpy(cv2.imread(str(files[0]))).permute(2, 0, 1)[None] / 255)
    capsys.readouterr()


def test_a_folder_of_dreams_is_one_of_images(original, tmp_path):
    out = tmp_path / "dreamt"
    dreaming.main(
        [
            "--model",
            str(original),
            "--images",
            "2",
            "--batch",
            "2",
            "--steps",
            "2",
            "--imgsz",
            str(PX),
            "--out",
            str(out),
        ]
    )
    found = images_at([str(out)], checkpoint.load(original), PX)
    assert len(found) == 2


@pytest.mark.parametrize("more", [["--images", "0"], ["--steps", "0"], ["--batch", "1"]])
def test_what_cannot_be_asked_of_dreams(tmp_path, capsys, more):
    with pytest.raises(SystemExit):
        dreaming.arguments(["--model", "a.pt", "--out", str(tmp_path), *more])
    assert "expected 1 or more" in capsys.readouterr().err
