"""Darknet detectors small enough for tests: hand-written cfgs, random ones, and random weights for both."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolo_slim.formats.darknet.build import built
from yolo_slim.formats.darknet.net import read_net
from yolo_slim.formats.darknet.weights import Header, content_of

PX = 32
CLASSES = 3
HEADER = Header(0, 2, 5, 12_345)
ANCHORS = "4,5, 8,6, 10,14, 20,18"
SMOOTH = ("linear", "leaky", "mish", "relu", "swish", "relu6")
"""With f(0) = 0: channels pass."""


def net(width=PX, height=PX, channels=3):
    """The first section."""
    return f"[net]\n# Testing\nbatch=1\nwidth={width}\nheight={height}\nchannels={channels}\nlearning_rate=0.001\n"


def section(kind, **entries):
    """`[kind]` and its lines."""
    return f"\n[{kind}]\n" + "".join(f"{key.strip('_')}={value}\n" for key, value in entries.items())


def conv(filters, size=1, stride=1, activation="leaky", norm=True, **more):
    """A convolution that pads as YOLO's do."""
    first = {"batch_normalize": 1} if norm else {}
    entries = {**first, "filters": filters, "size": size, "stride": stride, "pad": 1, **more, "activation": activation}
    return section("convolutional", **entries)


def yolo(mask="0,1", classes=CLASSES, anchors=ANCHORS, **more):
    """A head for these anchors; 4 of them by default."""
    return section("yolo", mask=mask, anchors=anchors, classes=classes, num=len(anchors.split(",")) // 2, **more)


def head(mask="0,1", classes=CLASSES, activation="linear", **more):
    """The last convolution and its head."""
    rows = len(mask.split(",")) * (5 + classes)
    return conv(rows, activation=activation, norm=False) + yolo(mask, classes, **more)


SMALL = net() + conv(6, 3, 2) + conv(8, 3, 2) + head()
"""Two convolutions and a head at stride 4."""


def randomised(model, seed=0):
    """Weights and statistics that are far from trivial, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(0, 0.3, generator=generator)
                layer.running_mean.normal_(0, 0.3, generator=generator)
                layer.running_var.uniform_(0.5, 1.5, generator=generator)
            elif isinstance(layer, nn.Conv2d):
                fan = layer.weight[0].numel()
                layer.weight.normal_(0, fan**-0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.3, generator=generator)
    return model


def detector(text, seed=0, header=HEADER):
    """A detector of a cfg's text, with random weights."""
    found = read_net(text)
    return randomised(built(found, text, tuple(header), {i: str(i) for i in range(found.classes)}), seed)


def written(folder: Path, text: str, seed=0, header=HEADER, name="net") -> Path:
    """A cfg, and random weights beside it."""
    path = folder / f"{name}.cfg"
    path.write_bytes(text.encode())
    path.with_suffix(".weights").write_bytes(content_of(detector(text, seed, header), read_net(text), header))
    return path


def random_cfg(seed: int) -> str:
    """A net of Darknet's parts in a random order: one or two heads, an image of some shape."""
    return RandomCfg(np.random.default_rng(seed)).text


class RandomCfg:
    """Writes sections one after another and keeps account of the shapes that leave them."""

    def __init__(self, rng):
        self.rng = rng
        self.text = net(int(rng.choice([32, 64])), 32, int(rng.choice([1, 3, 4])))
        self.shapes: list[tuple[int, int, int]] = []
        width = 32 if "width=32" in self.text else 64
        self.last = (int(self.text.split("channels=")[1].split()[0]), 32, width)
        self.conv(stride=2)
        steps = [self.conv, self.depthwise, self.grouped, self.pool, self.up, self.route, self.part, self.shortcut]
        for step in rng.choice([*steps, self.conv, self.shortcut, self.dropout], int(rng.integers(6, 14))):
            step()
        self.end("2,3")
        if rng.random() < 0.7:
            self.add(section("route", layers=-int(rng.integers(3, len(self.shapes) + 1))), None)
            self.conv()
            self.end("0")

    def add(self, text, shape):
        self.text += text
        if shape is None:  # a route: what it names
            shape = self.shapes[int(text.split("layers=")[1].split()[0])]
        self.shapes.append(shape)
        self.last = shape

    def pick(self, *values):
        return values[self.rng.integers(len(values))]

    def conv(self, filters=None, stride=None):
        h, w = self.last[1:]
        filters = filters or int(self.rng.integers(4, 13))
        stride = stride or (self.pick(1, 1, 2) if min(h, w) > 4 else 1)
        size = self.pick(1, 3, 3, 5)
        activation = self.pick(*SMOOTH, "logistic") if self.rng.random() < 0.3 else "leaky"
        text = conv(filters, size, stride, activation, norm=self.rng.random() < 0.8)
        self.add(text, (filters, -(-h // stride), -(-w // stride)))

    def depthwise(self):
        c, h, w = self.last
        self.add(conv(c, 3, groups=c), (c, h, w))

    def grouped(self):
        c, h, w = self.last
        if c % 2 == 0:
            self.add(conv(6, 3, groups=2), (6, h, w))

    def pool(self):
        c, h, w = self.last
        size, stride = self.pick((2, 2), (2, 1), (3, 1), (5, 1), (3, 2), (4, 1), (4, 2))
        if min(h, w) > 5:
            out = [(n - 1) // stride + 1 for n in (h, w)]
            self.add(section("maxpool", size=size, stride=stride), (c, *out))

    def up(self):
        c, h, w = self.last
        if max(h, w) <= 16:
            self.add(section("upsample", stride=2), (c, h * 2, w * 2))

    def route(self):
        h, w = self.last[1:]
        fitting = [i for i, shape in enumerate(self.shapes) if shape[1:] == (h, w)]
        chosen = [int(i) for i in self.rng.choice(fitting, min(len(fitting), int(self.rng.integers(1, 4))))]
        width = sum(self.shapes[i][0] for i in chosen)
        if width > 40:
            return
        here = len(self.shapes)
        named = ", ".join(str(i if self.rng.random() < 0.5 else i - here) for i in chosen)
        self.add(section("route", layers=named), (width, h, w))

    def part(self):
        even = [i for i, shape in enumerate(self.shapes) if shape[0] % 2 == 0]
        if even:
            i = int(self.rng.choice(even))
            c, h, w = self.shapes[i]
            text = section("route", layers=i - len(self.shapes), groups=2, group_id=int(self.rng.integers(2)))
            self.add(text, (c // 2, h, w))

    def shortcut(self):
        here = len(self.shapes)
        target = int(self.rng.integers(here))
        if self.shapes[target][1:] != self.last[1:]:
            self.add(section("route", layers=target), self.shapes[target])
            here += 1
        self.conv(self.shapes[target][0], stride=1)
        others = [i for i, shape in enumerate(self.shapes) if shape == self.last and i != here]
        named = ",".join(str(i - here - 1) for i in dict.fromkeys([target, *others[: self.rng.integers(2)]]))
        self.add(section("shortcut", from_=named, activation="linear"), self.last)

    def dropout(self):
        self.add(section("dropout", probability=0.2), self.last)

    def end(self, mask):
        self.add(head(mask), self.last)
        self.shapes.append(self.last)  # two sections


def image(model, seed=1, batch=1):
    """Images of the cfg's size."""
    c, h, w = read_net(model.yaml["darknet"]["cfg"]).image
    return torch.rand(batch, c, h, w, generator=torch.Generator().manual_seed(seed))
