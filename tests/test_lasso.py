"""LASSO: the path against closed forms and coordinate descent; the moments against contributions made one by one."""

import numpy as np
import pytest
import torch
from networks import Probe
from test_importance import line
from torch import nn
from ultralytics.nn.modules import SPPF

from yolo_slim.channels import trace
from yolo_slim.importance import CRITERIA, Evidence
from yolo_slim.importance.lasso import _patches, survival


def descend(gram, target, penalty, start, sweeps=200):
    """The LASSO by plain coordinate descent."""
    beta = start.copy()
    for _ in range(sweeps):
        for i in range(len(target)):
            pull = target[i] - gram[i] @ beta + gram[i, i] * beta[i]
            beta[i] = np.sign(pull) * max(abs(pull) - penalty, 0) / gram[i, i]
    return beta


@pytest.mark.parametrize(
    ("penalty", "beta"),
    [pytest.param(0.2, [2.2, 0.2, 0], id="two survive"), pytest.param(0.3, [1.8, 0, 0], id="one survives")],
)
def test_orthonormal_columns_have_a_closed_form(penalty, beta):
    """Z orthonormal, N = 4, Z^T Y = (3, 1, .5): beta = S(Z^T Y, N lambda), so lambda = (.75, .25, .125)."""
    gram, target = np.eye(3) / 4, np.array([3, 1, 0.5]) / 4
    alive = survival(gram, target)
    assert alive == pytest.approx([0.75, 0.25, 0.125])
    assert descend(gram, target, penalty, np.zeros(3)) == pytest.approx(beta)
    assert ((alive > penalty) == (np.array(beta) > 0)).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_path_against_coordinate_descent(seed):
    """Correlated columns: what has a beta at some lambda survives that lambda; what survives longest is there."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(40, 6)) @ (np.eye(6) + 0.4 * rng.normal(size=(6, 6)))
    gram, target = z.T @ z, z.T @ (z @ rng.normal(size=6) + rng.normal(size=40))
    alive = survival(gram, target)
    assert alive.max() == pytest.approx(np.abs(target).max())
    beta = first = np.zeros(6)  # the largest lambda of a grid at which coordinate descent has a beta
    grid = np.geomspace(alive.max() * 0.999, alive.max() * 1e-2, 30)
    for penalty in grid:
        beta = descend(gram, target, penalty, beta)
        first = np.where((first == 0) & (np.abs(beta) > 1e-9 * np.abs(beta).max()), penalty, first)
    seen, step = first > 0, grid[0] / grid[1]
    assert seen.sum() >= 4
    assert (alive[seen] >= first[seen] * (1 - 1e-4)).all() and (alive[seen] <= first[seen] * step * (1 + 1e-4)).all()


@pytest.mark.parametrize(
    ("gram", "target", "expected"),
    [
        pytest.param([[2, 2], [2, 2]], [3, 3], [3, 0], id="the same channel twice: one stands in for the other"),
        pytest.param([[0, 0], [0, 1]], [0, 1], [0, 1], id="a dead channel"),
        pytest.param([[1, 0], [0, 1]], [0, 0], [0, 0], id="nothing to explain"),
        pytest.param([[1, 0], [0, 1]], [1, 1], [1, 1], id="two at once"),
        pytest.param([[1, 0], [0, 1]], [-1, 0.5], [1, 0.5], id="a negative beta"),
        pytest.param(np.zeros((0, 0)), np.zeros(0), [], id="no channel"),
    ],
)
def test_the_ends_of_the_path(gram, target, expected):
    assert survival(np.array(gram, float), np.array(target, float)) == pytest.approx(expected)


def test_a_duplicate_goes_first():
    """X3 = 2 X1 with weights 1 and .5: what the one adds the other can."""
    net = line([[1, 0], [0, 1], [2, 0]])
    net[1].weight.data = torch.tensor([1.0, -1.0, 0.5]).reshape(1, 3, 1, 1)
    rows = CRITERIA["lasso"](net, trace(net, 8), Evidence(images=[torch.rand(4, 2, 8, 8)]))["0"][0]
    assert rows.argmin() in (0, 2) and min(rows[0], rows[2]) < 1e-3 * rows[1]


class Readers(nn.Module):
    """Two readers of one group, of other sizes and scales; the second reads another group beside it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.other = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 5, 1)
        self.a, self.b = nn.Conv2d(6, 7, 3, padding=1, bias=False), nn.Conv2d(11, 4, 3, padding=1)
        self.head = nn.Conv2d(11, 2, 1)
        self.b.weight.data *= 100

    def inputs(self, image):
        x, y = nn.functional.silu(self.stem(image)), nn.functional.silu(self.other(image))
        return x, torch.cat([y, x], 1)

    def forward(self, image):
        x, y = self.inputs(image)
        return self.head(torch.cat([self.a(x), self.b(y)], 1)).flatten(2)


@torch.no_grad()
def test_the_moments_against_contributions_made_one_by_one():
    """1x1 maps, so that every random position is the same: Z_i by convolving channel i alone, weighted by 1/|Y|^2."""
    net, images = Readers(), torch.randn(30, 3, 1, 1)
    found = trace(net, 1)
    gram, target = np.zeros((6, 6)), np.zeros(6)
    for conv, values, at in zip((net.a, net.b), net.inputs(images), (0, 5), strict=True):
        pairs = zip(values.split(1, 1), conv.weight.split(1, 1), strict=True)
        alone = [nn.functional.conv2d(v, w, padding=1) for v, w in pairs]
        z = torch.stack([a - a.mean(0) for a in alone]).flatten(1).double().numpy()
        out, mine = z.sum(0), z[at : at + 6]
        gram, target = gram + mine @ mine.T / (out @ out), target + mine @ out / (out @ out)
    rows = CRITERIA["lasso"](net, found, Evidence(images=images.split(8)))["stem"]
    assert rows[0] == pytest.approx(survival(gram, target), rel=1e-3)


@torch.no_grad()
def test_all_slots_of_a_channel_are_one_contribution():
    """SPPF on constant maps: pooling changes nothing, so four slots add up to one weight."""
    net = Probe(SPPF(8, 8))
    found, images = trace(net, 16), torch.rand(20, 3, 1, 1).expand(20, 3, 16, 16)
    net.stem[0].weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0  # 1x1: no border
    (group,) = [g for g in found.free if g.consumers == ("operator.cv2.conv",)]
    x = net.operator.cv1(net.stem(images))[:, :, 0, 0].double()
    weight = net.operator.cv2.conv.weight.flatten(1).double().unflatten(1, (4, -1)).sum(1)  # [Co, Ci]
    z = torch.einsum("ni,oi->ino", x - x.mean(0), weight).flatten(1).numpy()
    y = z.sum(0)
    rows = CRITERIA["lasso"](net, found, Evidence(images=images.split(8)))[group.name]
    assert rows[0] == pytest.approx(survival(z @ z.T / (y @ y), z @ y / (y @ y)), rel=1e-2, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"kernel_size": 3, "padding": 1}, id="padded"),
        pytest.param({"kernel_size": (1, 5), "padding": (0, 2), "stride": (2, 1)}, id="a line"),
        pytest.param({"kernel_size": 6, "padding": 2, "stride": 2}, id="the stem of yolov5"),
        pytest.param({"kernel_size": 3, "dilation": 2, "padding": "same"}, id="dilated, same size"),
        pytest.param({"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, id="reflected"),
    ],
)
@torch.no_grad()
def test_patches_are_what_the_convolution_sees(options):
    """Filters times a patch is the output at some position of the right image."""
    conv, values, points = nn.Conv2d(3, 5, **options).double(), torch.randn(4, 3, 9, 11).double(), 7
    patches = _patches(conv, values, points, torch.Generator().manual_seed(0))
    assert patches.shape == (4 * points, 3 * conv.kernel_size[0] * conv.kernel_size[1])
    seen = patches @ conv.weight.flatten(1).T + conv.bias  # [4 * points, Co]
    where = torch.cdist(seen.unflatten(0, (4, points)), conv(values).flatten(2).mT).min(2)
    assert where.values.max() < 1e-6
    assert len(set(where.indices.flatten().tolist())) > points  # another draw for each image
