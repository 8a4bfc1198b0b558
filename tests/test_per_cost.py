"""What one channel saves, against the detector without it."""

import numpy as np
import pytest
import thop
import torch
from networks import PX, Network, Probe, detector
from torch import nn
from ultralytics.nn.modules import C3, SPPF, C2f

from yolo_slim.channels import cut, trace
from yolo_slim.importance import score
from yolo_slim.importance.per_cost import savings


def written(net, px):
    """Positions of all maps that convolutions write for one image."""
    numbers = []
    hooks = [
        m.register_forward_hook(lambda m, a, out: numbers.append(out[0].numel()))
        for m in net.modules()
        if isinstance(m, nn.Conv2d)
    ]
    with torch.no_grad():
        net.eval()(torch.rand(1, 3, px, px))
    for hook in hooks:
        hook.remove()
    return sum(numbers)


def flops(net, px):
    return 2 * thop.profile(net, (torch.rand(1, 3, px, px),), verbose=False)[0]


def params(net, px):
    return sum(p.numel() for p in net.parameters())


NETWORKS = [
    pytest.param(lambda: (Probe(SPPF(8, 8)), 16), id="SPPF: four slots"),
    pytest.param(lambda: (Probe(C3(8, 16, n=2)), 16), id="residual: three producers"),
    pytest.param(lambda: (Probe(C2f(8, 8, n=2, shortcut=True)), 16), id="chunk: two slots of one producer"),
    pytest.param(lambda: (Network(5), PX), id="random network"),
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("cost", "of"), [("memory", written), ("params", params), ("flops", flops)])
def test_what_one_channel_less_saves(network, cost, of):
    net, px = network()
    found = trace(net, px)
    saved = savings(found, cost)
    for group in found.free:
        if group.size == 1:
            continue
        kept = np.ones(found.n_channels, bool)
        kept[group.channels[-1]] = False
        assert saved[group.name] == pytest.approx(of(net, px) - of(cut(net, found, kept), px), abs=2)


@pytest.mark.parametrize("cost", ["memory", "params", "flops"])
def test_scores_are_divided_by_it(cost):
    net = detector("yolov5n")
    found = trace(net, 64)
    plain, none, worth = (score(net, found, "bn_scale", per_cost=c) for c in ("auto", "none", cost))
    saved = savings(found, cost)
    for group in found.groups:
        assert plain[group.name].tolist() == none[group.name].tolist()
        assert worth[group.name] == pytest.approx(plain[group.name] / saved[group.name])
        assert saved[group.name] > 0
