"""The text of a cfg to what it describes, within the bounds of what a detector is; nothing is built yet."""

from __future__ import annotations

from collections.abc import Mapping

from yolo_slim.formats.darknet.cfg import rewritten, sections
from yolo_slim.formats.darknet.keys import check_keys
from yolo_slim.formats.darknet.plan import Layer, Net, Shape
from yolo_slim.formats.darknet.readers import READERS
from yolo_slim.formats.guard import LARGEST_TENSOR, MOST_MACS
from yolo_slim.formats.head import PX as MACS_PX
from yolo_slim.formats.layers import WIDEST
from yolo_slim.formats.model_yaml import MOST_PARAMETERS

LARGEST_SIDE = 16_384
"""Pixels of an image."""
MOST_IMAGE_CHANNELS = 1024


def read_net(text: str) -> Net:
    """What the text of a cfg describes.

    Raises:
        SlimError: the line, what it says, and what is supported or expected.
    """
    head, *rest = sections(text)
    height, width = (head.whole(key, least=1, most=LARGEST_SIDE) for key in ("height", "width"))
    image = head.whole("channels", least=1, most=MOST_IMAGE_CHANNELS), height, width
    layers: list[Layer] = []
    spent = Spent(image)
    for section in rest:
        check_keys(section)
        layer = READERS[section.kind](section, layers, image)
        spent.count(layer, layers)
        layers.append(layer)
    net = Net(image, tuple(layers), head)
    _check_yolos(net)
    return net


def resized(text: str, widths: Mapping[int, tuple[int, int]]) -> str:
    """The same text with other `filters=` and `groups=` where they are other now.

    Args:
        text: of a cfg that was read.
        widths: number of a convolution -> its filters and groups.

    Raises:
        SlimError: a number changes that the text does not say.
    """
    changed = {}
    for layer in read_net(text).convs:
        for key, now in zip(("filters", "groups"), widths.get(layer.index, ()), strict=False):
            if now != layer.values[key]:
                layer.section.text(key)
                changed[layer.section.entries[key].line, key] = now
    return rewritten(text, changed)


class Spent:
    """What a net comes to, layer by layer, within the bounds of what a detector is."""

    def __init__(self, image: Shape) -> None:
        self.image, self.parameters, self.macs = image, 0, 0

    def count(self, layer: Layer, before: list[Layer]) -> None:
        """Refuse a layer with which it is too large.

        Raises:
            SlimError: what there is too much of.
        """
        channels, height, width = layer.shape
        if channels > WIDEST or channels * height * width > LARGEST_TENSOR:
            layer.section.refuse(f"it gives {channels:,} channels of {height:,} x {width:,}: no detector does")
        if layer.kind != "convolutional":
            return
        (source,) = layer.sources
        into = (self.image if source < 0 else before[source].shape)[0]
        weights = channels * into // layer.values["groups"] * layer.values["size"] ** 2
        self.parameters += weights + 4 * channels
        self.macs += weights * height * width
        if self.parameters > MOST_PARAMETERS:
            layer.section.refuse(f"with it the net has {self.parameters:,} parameters: no detector does")
        if self.macs * MACS_PX**2 // (self.image[1] * self.image[2]) > MOST_MACS:
            layer.section.refuse(
                f"with it an image of {MACS_PX} px takes more than {MOST_MACS / 1e9:.0f} G multiplications: "
                "no detector does"
            )


def _check_yolos(net: Net) -> None:
    """It ends in a `[yolo]`, each of them tells the same classes apart."""
    if not net.layers:
        net.section.refuse("no layer follows")
    if (last := net.layers[-1]).kind != "yolo":
        last.section.refuse("it is the last section; expected a detector, which ends in [yolo]")
    for layer in net.yolos:
        if layer.values["classes"] != net.classes:
            layer.section.refuse(
                f"classes={layer.values['classes']}, and {net.classes} in {net.yolos[0].place}; expected the same",
                "classes",
            )
