"""A removed channel's constant lives on in the layers that read it: exactly where that is possible, known where not."""

import copy

import numpy as np
import pytest
import torch
from networks import Act, Probe, detector, random_plan, randomise_norms
from torch import nn
from torch.nn.functional import silu
from ultralytics.nn.modules import C3

from yolo_slim.channels import absorb, cut, input_means, relative_difference, silenced, trace

ROUNDING = 2e-6  # fp32


def images(channels=3, px=16, batch=2, seed=1):
    return torch.rand(batch, channels, px, px, generator=torch.Generator().manual_seed(seed))


def without(found, **lost):
    """Bool per channel: the named convolutions lose these outputs."""
    kept = np.ones(found.n_channels, bool)
    for name, indices in lost.items():
        kept[found.convs[name.replace("_", ".")].outputs[list(indices)]] = False
    return kept


def healed(net, found, kept, batches, means=None):
    """Silence the removed channels, measure what they say, cut, absorb: what `absorb: beta` does."""
    means = means or input_means(silenced(net, found, kept), found, batches)
    return absorb(cut(net, found, kept), net, found, kept, means)


# ---- o6: along a residual stage a consumer sees the sum so far ----


@pytest.fixture(scope="module")
def stage():
    """C3(8, 8, n=2): the coupled channel 1 has scale 0 in all producers, and shifts that are not."""
    torch.manual_seed(0)
    net = randomise_norms(C3(8, 8, n=2))
    with torch.no_grad():
        for producer in (net.cv1, net.m[0].cv2, net.m[1].cv2):
            producer.bn.weight[1] = 0
        net.m[0].cv2.bn.bias[1], net.m[1].cv2.bn.bias[1], net.cv1.bn.bias[1] = 0.7, -0.6, 0.9
    found = trace(net, 8)
    return net, found, without(found, cv1_conv=[1])


def constants(net):
    """What the coupled channel carries behind cv1, behind the first shortcut and behind the second."""
    single = [silu(c.bn.bias[1].detach()) for c in (net.cv1, net.m[0].cv2, net.m[1].cv2)]
    return [float(sum(single[: i + 1])) for i in range(3)]


def test_partial_sums_are_measured_at_each_consumer(stage):
    net, found, kept = stage
    means = input_means(silenced(net, found, kept), found, [images(8, 7)])
    behind = constants(net)
    for consumer, expected in [("m.0.cv1.conv", behind[0]), ("m.1.cv1.conv", behind[1]), ("cv3.conv", behind[2])]:
        assert float(means[consumer][1]) == pytest.approx(expected, abs=1e-6)


def test_partial_sums_reproduce_the_output(stage):
    """All consumers are 1x1: to float rounding. The total at every consumer does not, nor does nothing at all."""
    net, found, kept = stage
    x = images(8, 7)
    assert relative_difference(net, healed(net, found, kept, [x]), x) < ROUNDING

    total = input_means(silenced(net, found, kept), found, [x])
    for consumer in ("m.0.cv1.conv", "m.1.cv1.conv"):
        total[consumer][1] = constants(net)[2]
    assert relative_difference(net, healed(net, found, kept, [x], total), x) > 1e-3
    assert relative_difference(net, cut(net, found, kept), x) > 1e-3


# ---- 2.3: a filter that is zero, as soft pruning leaves it ----


def test_a_zeroed_filter_says_what_its_norm_makes_of_zero():
    """Its scale and its mean are not zero: act(beta - gamma mu / sigma), not act(beta)."""
    net = Reader(ones(1))
    with torch.no_grad():
        net.make[0].weight[1] = 0
        net.make[1].weight[1], net.make[1].running_mean[1] = 1.3, 0.8
    found, x = trace(net, 5), images(px=5)
    norm, kept = net.make[1], without(found, make_0=[1])
    constant = silu(norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt())[1].item()
    means = input_means(silenced(net, found, kept), found, [x])
    assert float(means["read"][1]) == pytest.approx(constant, abs=1e-6) != pytest.approx(0.7310586, abs=1e-3)
    assert error(net).abs().max() < 1e-5


# ---- O4: what is exact, and what is off at the border ----


class Reader(nn.Module):
    """Two channels, made by 1x1 and batch norm, pass something and are read by one convolution."""

    def __init__(self, reader, between=None, norm=False):
        super().__init__()
        self.make, self.between, self.read = Act(3, 2), between or nn.Identity(), reader
        self.norm = nn.BatchNorm2d(reader.out_channels) if norm else nn.Identity()
        randomise_norms(self)
        with torch.no_grad():
            self.make[1].weight[1], self.make[1].bias[1] = 0, 1.0  # channel 1 says SiLU(1), everywhere

    def forward(self, x):
        return self.norm(self.read(self.between(self.make(x)))).flatten(2).unflatten(2, (-1, 1))


def ones(k, **options):
    conv = nn.Conv2d(2, 1, k, **options)
    with torch.no_grad():
        conv.weight.fill_(1)
    return conv


def error(net, px=5):
    """Healed minus original, one map."""
    found, x = trace(net, px), images(px=px)
    kept = without(found, make_0=[1])
    with torch.no_grad():
        side = net.read(net.between(net.make(x))).shape[-1]
        difference = healed(net, found, kept, [x])(x) - net(x)
    return difference[0, 0].view(-1, side)


def test_padded_3x3_is_exact_inside_and_off_at_the_border():
    """c = SiLU(1), a kernel of ones: 0 inside, 3c at an edge, 5c in a corner (padded zeros do not carry c)."""
    off = error(Reader(ones(3, padding=1)))
    c = 0.7310586
    assert off[1:-1, 1:-1].abs().max() < 1e-5
    assert off[0, 2].item() == pytest.approx(3 * c, abs=1e-5) == pytest.approx(2.193176, abs=1e-5)
    assert off[0, 0].item() == pytest.approx(5 * c, abs=1e-5) == pytest.approx(3.655293, abs=1e-5)


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(Reader(ones(1)), id="1x1, bias: as Detect's last convolution"),
        pytest.param(Reader(ones(1, bias=False), norm=True), id="1x1, batch norm"),
        pytest.param(Reader(ones(1), norm=True), id="1x1, bias and batch norm"),
        pytest.param(Reader(ones(1, stride=2)), id="stride"),
        pytest.param(Reader(ones(3)), id="3x3 without padding"),
        pytest.param(Reader(ones(1), nn.Upsample(scale_factor=2)), id="behind nearest upsampling"),
        pytest.param(Reader(ones(1), nn.MaxPool2d(5, 1, 2)), id="behind max pooling: it pads with -inf"),
        pytest.param(Reader(ones(1), nn.AvgPool2d(2)), id="behind average pooling without padding"),
    ],
)
def test_exact_where_every_position_reads_the_constant(net):
    assert error(net, px=6).abs().max() < 1e-5


def test_exact_through_a_concatenation():
    """The same channel in two slots of one consumer counts twice."""
    net = Probe(lambda x: torch.cat([x, x], 1), stem=Act(3, 8))
    with torch.no_grad():
        net.stem[1].weight[2:5] = 0
    found, x = trace(net, 16), images()
    kept = without(found, stem_0=[2, 3, 4])
    assert relative_difference(net, healed(net, found, kept, [x]), x) < ROUNDING
    assert relative_difference(net, cut(net, found, kept), x) > 1e-3


def test_exact_through_a_depthwise_convolution():
    """It is silenced with the channel and has a constant of its own."""
    net = Probe(Act(8, 8, 3, groups=8), stem=Act(3, 8))
    with torch.no_grad():
        net.stem[1].weight[2:5], net.operator[1].weight[2:5] = 0, 0
    found, x = trace(net, 16), images()
    kept = without(found, stem_0=[2, 3, 4])
    assert relative_difference(net, healed(net, found, kept, [x]), x) < ROUNDING
    assert relative_difference(net, cut(net, found, kept), x) > 1e-3


def test_detect_keeps_its_predictions():
    """In a whole detector: the last hidden channels of Detect are read by 1x1 convolutions with a bias."""
    net = detector("yolov5n")
    hidden = ["model.24.cv3.0.1", "model.24.cv3.1.1", "model.24.cv2.2.1"]
    with torch.no_grad():
        for name in hidden:
            net.get_submodule(name).bn.weight[:20] = 0
    found, x = trace(net, 64), images(px=64)
    kept = np.ones(found.n_channels, bool)
    for name in hidden:
        kept[found.convs[f"{name}.conv"].outputs[:20]] = False
    assert relative_difference(net, healed(net, found, kept, [x]), x) < 1e-5
    assert relative_difference(net, cut(net, found, kept), x) > 1e-4


def test_measured_means_beat_nothing():
    """Channels that are not constant: their means, measured on the original, bring the output nearer."""
    net = Probe(nn.Identity())
    found, x = trace(net, 16), images(batch=8)
    kept = without(found, stem_0=[0, 1, 2])
    with torch.no_grad():
        truth, plain = net(x), cut(net, found, kept)(x)
        better = healed(net, found, kept, [x], input_means(net, found, [x]))(x)
    assert (better - truth).square().mean() < 0.5 * (plain - truth).square().mean()
    assert (better - truth).mean().abs() < (plain - truth).mean().abs()


# ---- what absorbing leaves alone ----


def test_an_empty_plan_changes_nothing():
    net = detector("yolov3-tiny")
    found = trace(net, 64)
    kept = np.ones(found.n_channels, bool)
    after = healed(net, found, kept, [images(px=64)]).state_dict()
    assert all(torch.equal(v, after[k]) for k, v in net.state_dict().items())


def test_only_biases_and_running_means_of_consumers_change():
    net = detector("yolov5n")
    found = trace(net, 64)
    kept = np.ones(found.n_channels, bool)
    kept[found.convs["model.0.conv"].outputs[:4]] = False
    kept[found.convs["model.24.cv3.0.1.conv"].outputs[:4]] = False
    slim = cut(net, found, kept)
    before = copy.deepcopy(slim.state_dict())
    full = copy.deepcopy(net.state_dict())
    after = absorb(slim, net, found, kept, input_means(net, found, [images(px=64)])).state_dict()
    assert {k for k in before if not torch.equal(before[k], after[k])} == {
        "model.1.bn.running_mean",
        "model.24.cv3.0.2.bias",
    }
    assert all(torch.equal(v, before[k]) for k, v in slim.state_dict().items())  # the inputs are left alone
    assert all(torch.equal(v, full[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtype_stays(dtype):
    net = detector("yolov3-tiny")
    found = trace(net, 64)
    kept = random_plan(found, np.random.default_rng(0))
    means = input_means(net, found, [images(px=64)])
    slim = absorb(cut(net.to(dtype), found, kept), net, found, kept, means)
    assert {p.dtype for p in slim.parameters()} == {dtype}
    assert all(torch.isfinite(b).all() for b in slim.buffers())


# ---- measuring ----


def test_means_are_over_images_and_positions():
    """However the images are batched."""
    net = detector("yolov3-tiny")
    found, x = trace(net, 64), images(px=64, batch=4)
    whole = input_means(net, found, [x])
    assert whole.keys() == found.convs.keys()
    assert torch.allclose(whole["model.0.conv"], x.mean((0, 2, 3)), atol=1e-6)
    for batches in ([x[:2], x[2:]], [x[:1], x[1:]]):
        parts = input_means(net, found, batches)
        assert all(torch.allclose(whole[k], parts[k], atol=1e-5) for k in whole), [len(b) for b in batches]


def test_measuring_leaves_the_detector_alone():
    net = detector("yolov3-tiny").train()
    net.model[0].bn.eval()
    weights, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    input_means(net, trace(net, 64), [images(px=64)])
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_hooks_go_when_measuring_fails():
    net = detector("yolov3-tiny").train()
    found = trace(net, 64)
    with pytest.raises(RuntimeError):
        input_means(net, found, [images(px=64), images(channels=5, px=64)])
    assert not any(m._forward_pre_hooks for m in net.modules()) and net.training


def test_silenced_keeps_the_shifts():
    """Scales of removed channels are zero, all else is as it was; the input too."""
    net = Probe(Act(8, 8, 3, groups=8))
    found = trace(net, 16)
    before = copy.deepcopy(net.state_dict())
    after = silenced(net, found, without(found, stem_0=[1, 6])).state_dict()
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
        if key in ("stem.1.weight", "operator.1.weight"):
            assert torch.nonzero(after[key] == 0).flatten().tolist() == [1, 6]
            value[[1, 6]] = 0
        assert torch.equal(value, after[key])
