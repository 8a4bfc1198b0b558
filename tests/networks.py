"""Random networks made of YOLO's operators, friendly and hostile, and random plans for them.

A network is a recipe: a list of (layer, indices of earlier values), replayed by `forward`. Same seed, same network.
"""

from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from ultralytics.nn.modules import C3, SPPF, Bottleneck, C2f, Conv
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

PX = 32  # side of the image the random networks read


def randomise_norms(model, seed=0):
    """Give every batch norm scales, shifts and statistics that are far from trivial; returns the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                if layer.weight is not None:
                    layer.weight.uniform_(0.5, 1.5, generator=generator)
                    layer.bias.normal_(0, 0.3, generator=generator)
                if layer.running_mean is not None:
                    layer.running_mean.normal_(0, 0.3, generator=generator)
                    layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def detector(name, seed=0, width=None, **options):
    """An untrained Ultralytics detector from its shipped YAML, batch norms randomised.

    `width` takes the place of what the YAML multiplies channels with: all layers and wires stay.
    """
    torch.manual_seed(seed)
    described = yaml_model_load(f"{name}.yaml")
    if width is not None and "scales" in described:
        described["scales"] = {scale: [depth, width, most] for scale, (depth, _, most) in described["scales"].items()}
    elif width is not None:
        described["width_multiple"] = width
    return randomise_norms(DetectionModel(described, verbose=False, **options), seed)


def random_plan(trace, rng):
    """Bool per channel: about four in five free groups keep any number of channels from 1 up, chosen at random."""
    kept = np.ones(trace.n_channels, bool)
    for group in trace.free:
        if rng.random() < 0.8:
            kept[rng.permutation(group.channels)[rng.integers(1, group.size + 1) :]] = False
    return kept


class Fn(nn.Module):
    """A function in the place of a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *values):
        return self.function(*values)


class Act(nn.Sequential):
    """A convolution, perhaps a batch norm, an activation: in whatever combination."""

    def __init__(self, c1, c2, k=1, *, bias=False, affine=True, norm=True, act=None, **options):
        layers = [nn.Conv2d(c1, c2, k, padding=k // 2, bias=bias, **options)]
        layers += [nn.BatchNorm2d(c2, affine=affine)] if norm else []
        super().__init__(*layers, act or nn.SiLU())


class Line(nn.Sequential):
    """1x1 convolutions in a row, without bias: widths are all there is."""

    def __init__(self, *widths):
        convs = [nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths)]
        super().__init__(*convs, nn.Flatten(2))


class Probe(nn.Module):
    """An operator between two convolutions: stem, operator, reader, flattened predictions."""

    def __init__(self, operator, *, stem=None, channels=8, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.operator = (
            stem or Act(3, channels, 3),
            operator if isinstance(operator, nn.Module) else Fn(operator),
        )
        with torch.no_grad():
            width = self.operator.eval()(self.stem.eval()(torch.rand(2, 3, 8, 8))).shape[1]
        self.reader, self.head = Act(width, 8, 1), nn.Conv2d(8, 5, 1)
        randomise_norms(self, seed)

    def forward(self, image):
        return self.head(self.reader(self.operator(self.stem(image)))).flatten(2)


class SqueezeExcite(nn.Module):
    """Channels gated by a sigmoid of their means."""

    def __init__(self, c):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, max(c // 2, 2), 1), nn.Conv2d(max(c // 2, 2), c, 1)

    def forward(self, x):
        return x * self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


class SplitSizes(nn.Module):
    """A split whose sizes Python holds: it breaks if the width changes."""

    def __init__(self, c):
        super().__init__()
        self.sizes = [c // 3, c - c // 3]
        self.conv = nn.Conv2d(self.sizes[0], self.sizes[0], 1)

    def forward(self, x):
        a, b = x.split(self.sizes, 1)
        return torch.cat([b, self.conv(a)], 1)


class ChunkPair(nn.Module):
    """Chunks into two or more parts, convolves one, puts them together in another order."""

    def __init__(self, c, parts):
        super().__init__()
        self.parts = parts
        self.conv = Act(c // parts, c // parts, 3)

    def forward(self, x):
        first, *rest = x.chunk(self.parts, 1)
        return torch.cat([*rest, self.conv(first)], 1)


class Twice(nn.Module):
    """One convolution, two uses: the same weights read both inputs."""

    def __init__(self, c1, c2):
        super().__init__()
        self.conv = Act(c1, c2, 3)

    def forward(self, x, y):
        return torch.cat([self.conv(x), self.conv(y)], 1) if x.shape[2:] == y.shape[2:] else self.conv(y)


class Predictions(nn.Module):
    """The end: one 1x1 convolution a map, flattened by view, and all of them in one tensor."""

    def __init__(self, widths, classes=5):
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(c, classes, 1) for c in widths)

    def forward(self, *maps):
        flat = [head(x).view(len(x), head.out_channels, -1) for head, x in zip(self.heads, maps, strict=True)]
        return torch.cat(flat, 2)


def shuffle(x, groups=2):
    """ShuffleNet's channel shuffle: view, transpose, flatten."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def last(function):
    """Apply a function with channels moved to the last dimension, and move them back."""
    return lambda x: function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def reshape_like(x, y):
    """Python reads one tensor's width and reshapes another with it: no tracer sees that."""
    return y.reshape(len(y), x.shape[1], *y.shape[2:])


def overwritten(*index):
    """Write a one into part of a copy."""

    def function(x):
        y = x.clone()
        y[index] = 1.0
        return y

    return function


# Operators without weights, (B, C, H, W) to four dimensions again: the first a trace understands, the others it keeps.
FRIENDLY = {
    "roll in space": lambda x: torch.roll(x, 3, 3),
    "flip in space": lambda x: torch.flip(x, (2, 3)),
    "slice in space": lambda x: x[:, :, 1:, :-1],
    "zero pad": lambda x: nn.functional.pad(x, (0, 1, 2, 0)),
    "leaky relu": lambda x: nn.functional.leaky_relu(x, 0.1),
    "silu in place": lambda x: nn.functional.silu(x.clone(), inplace=True),
    "scaled": lambda x: x * 0.5 / 3,
    "scaled by a tensor": lambda x: x * torch.tensor(0.7),
    "activation between permutations": last(nn.functional.silu),
    "roll in space between permutations": last(lambda x: torch.roll(x, 1, 1)),
    "doubled between permutations": lambda x: torch.cat([x.permute(0, 2, 3, 1)] * 2, 2).permute(0, 3, 1, 2),
    "sum with itself": lambda x: x + x,
    "difference of pools": lambda x: nn.functional.max_pool2d(x, 3, 1, 1) - nn.functional.avg_pool2d(x, 3, 1, 1),
    "global mean added": lambda x: x + x.mean((2, 3), keepdim=True),
    "adaptive pool": lambda x: nn.functional.adaptive_avg_pool2d(x, 4),
    "bilinear upsampling": lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear"),
}
HOSTILE = {
    "roll on channels": lambda x: torch.roll(x, 1, 1),
    "roll without dims": lambda x: torch.roll(x, 1),
    "flip on channels": lambda x: torch.flip(x, (1,)),
    "every second channel twice": lambda x: torch.cat(
        [x[:, ::2], x[:, : x.shape[1] - len(range(0, x.shape[1], 2))]], 1
    ),
    "softmax over channels": lambda x: x.softmax(1),
    "sigmoid": torch.sigmoid,
    "plus one": lambda x: x + 1,
    "one minus": lambda x: 1 - x,
    "pad with one": lambda x: nn.functional.pad(x, (1, 1), value=1.0),
    "square": lambda x: x * x,
    "channel mean added": lambda x: x + x.mean(1, keepdim=True),
    "pool over channels": last(lambda x: nn.functional.max_pool2d(x, 3, 1, 1)),
    "mean over channels by pooling": last(lambda x: nn.functional.avg_pool2d(x, 3, 1, 1)),
    "pool over pairs of channels": last(lambda x: nn.functional.avg_pool2d(x, (1, 2))),
    "upsampled channels": last(lambda x: nn.functional.interpolate(x, scale_factor=2)),
    "grand mean added": lambda x: x + x.mean((), keepdim=True),
    "channel overwritten": overwritten(slice(None), 0),
    "half the channels overwritten": overwritten(slice(None), slice(2)),
    "row overwritten": overwritten(slice(None), slice(None), 0),
    "group norm": lambda x: nn.functional.group_norm(x, 1),
    "through a view": lambda x: x.flatten(2).view(x.shape),
    "norm over channels": last(lambda x: nn.functional.layer_norm(x, x.shape[-1:])),
}


class Network(nn.Module):
    """A random network, replaying its recipe."""

    def __init__(self, seed, steps=None):
        super().__init__()
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.recipe, self.layers = [], nn.ModuleList()
        self._values, self._unused = [torch.rand(2, 3, PX, PX)], set()
        self.add(Act(3, self.width(), 3, stride=2), 0)
        for _ in range(steps or self.rng.integers(5, 12)):
            self.grow()
        ends = {len(self._values) - 1, *self.rng.permutation(sorted(self._unused))[:2].tolist()}
        self.add(Predictions([self._values[i].shape[1] for i in ends]), *ends)
        del self.rng, self._values, self._unused
        randomise_norms(self, seed)

    def forward(self, image):
        values = [image]
        for layer, inputs in zip(self.layers, self.recipe, strict=True):
            values.append(layer(*(values[i] for i in inputs)))
        return values[-1]

    # ---- growing ----

    def width(self):
        return int(self.rng.choice([4, 6, 8, 12]))

    def chance(self, p=0.5):
        return bool(self.rng.random() < p)

    def add(self, layer, *inputs):
        """Append a layer and its value; one pass in eval mode tells the shape."""
        with torch.no_grad():
            value = layer.eval()(*(self._values[i].clone() for i in inputs))
        self.layers.append(layer)
        self.recipe.append(tuple(int(i) for i in inputs))
        self._values.append(value)
        self._unused = (self._unused - set(inputs)) | {len(self._values) - 1}
        return len(self._values) - 1

    def pick(self, *, like=None):
        """An earlier value, rather a recent or an unused one; `like` asks for the same height and width."""
        known = range(1, len(self._values))
        if like is not None:
            known = [i for i in known if self._values[i].shape[2:] == self._values[like].shape[2:]]
        weight = np.array([1.0 + 3 * (i in self._unused) + i / len(self._values) for i in known])
        return int(self.rng.choice(list(known), p=weight / weight.sum()))

    def grow(self):
        """Add one operator."""
        i = self.pick()
        c, side = self._values[i].shape[1], min(self._values[i].shape[2:])
        odds = np.array(list(self.KINDS.values()))
        kind = "conv" if c > 32 else str(self.rng.choice(list(self.KINDS), p=odds / odds.sum()))
        if kind == "conv":
            act = [nn.SiLU(), nn.LeakyReLU(0.1), nn.ReLU(inplace=True), nn.Identity()][self.rng.integers(4)]
            norm = self.chance(0.75)
            options = {"bias": not norm or self.chance(0.2), "norm": norm, "affine": self.chance(0.85), "act": act}
            stride = 2 if side >= 8 and self.chance(0.3) else 1
            self.add(Act(c, self.width(), int(self.rng.choice([1, 3])), stride=stride, **options), i)
        elif kind == "depthwise":
            self.add(Act(c, c, 3, groups=c, bias=self.chance(0.3), norm=self.chance(0.7)), i)
        elif kind == "grouped" and c % 2 == 0:
            self.add(Act(c, self.width(), 3, groups=2), i)
        elif kind == "norm":
            self.add(nn.BatchNorm2d(c, affine=self.chance(0.7)), i)
        elif kind == "residual":
            self.add([Bottleneck(c, c, e=1.0), C3(c, c - c % 2)][self.rng.integers(2)], i)
        elif kind == "add":
            j = self.pick(like=i)
            if self._values[j].shape[1] != c:
                j = self.add(Act(self._values[j].shape[1], c, act=nn.Identity()), j)
            self.add(Fn(torch.add), i, j)
        elif kind == "cat":
            parts = [i] + [self.pick(like=i) for _ in range(self.rng.integers(1, 3))]
            self.add(Fn(lambda *x: torch.cat(x, 1)), *(parts if self.chance(0.7) else [i, i]))
        elif kind == "c2f":
            self.add(C2f(c, self.width(), n=int(self.rng.integers(1, 3)), shortcut=self.chance()), i)
        elif kind == "chunk":
            parts = int(self.rng.choice([n for n in (2, 3, 4) if c % n == 0] or [1]))
            self.add(ChunkPair(c, parts), i)
        elif kind == "split" and c >= 4:
            self.add(SplitSizes(c), i)
        elif kind == "sppf":
            self.add(SPPF(c, self.width()), i)
        elif kind == "pool" and side >= 4:
            pools = [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1))]
            self.add(pools[self.rng.integers(3)], i)
        elif kind == "upsample" and side <= 8:
            self.add(nn.Upsample(scale_factor=2), i)
        elif kind == "twice":
            j = self.pick(like=i)
            j = j if self._values[j].shape[1] == c else self.add(Conv(self._values[j].shape[1], c, 1), j)
            self.add(Twice(c, self.width()), i, j)
        elif kind == "squeeze-excite":
            self.add(SqueezeExcite(c), i)
        elif kind == "shuffle" and c % 2 == 0:
            self.add(Fn(shuffle), i)
        elif kind == "reshape":
            j = self.add(Act(self._values[i].shape[1], c), i)
            self.add(Fn(reshape_like), i, j)
        elif kind in ("friendly", "hostile") and side >= 4:
            table = FRIENDLY if kind == "friendly" else HOSTILE
            name = str(self.rng.choice([n for n in table if side <= 8 or "upsampling" not in n]))
            self.add(Fn(table[name]), i)

    KINDS: ClassVar = {
        "conv": 6,
        "depthwise": 1.5,
        "grouped": 0.7,
        "norm": 1,
        "residual": 2,
        "add": 2.5,
        "cat": 2.5,
        "c2f": 1.5,
        "chunk": 1.5,
        "split": 0.5,
        "sppf": 1,
        "pool": 1.5,
        "upsample": 1,
        "twice": 0.7,
        "squeeze-excite": 0.5,
        "shuffle": 0.4,
        "reshape": 0.4,
        "friendly": 2.5,
        "hostile": 1,
    }
