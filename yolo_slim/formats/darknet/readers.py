"""One reader a section: what it says, checked against the layers before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from yolo_slim.errors import shown
from yolo_slim.formats.darknet.cfg import Section
from yolo_slim.formats.darknet.plan import Layer, Shape
from yolo_slim.formats.head import MOST_CLASSES
from yolo_slim.formats.layers import WIDEST

LARGEST_KERNEL = 255
MOST_SOURCES = 64
MOST_ANCHORS = 1000
ACTIVATIONS = ("linear", "leaky", "mish", "relu", "relu6", "logistic", "swish")
"""Of Darknet's; relu6 is one of its GPU code alone, and OpenCV does not know it."""


def _shape(layers: list[Layer], image: Shape, index: int) -> Shape:
    return image if index < 0 else layers[index].shape


def _previous(section: Section, layers: list[Layer]) -> int:
    """The layer before: a `[yolo]` hands nothing on."""
    return _readable(section, layers, len(layers) - 1, None)


def _readable(section: Section, layers: list[Layer], index: int, key: str | None) -> int:
    if index >= 0 and layers[index].kind == "yolo":
        section.refuse(f"it reads {layers[index].place}, whose output is boxes; expected another layer", key)
    return index


def _named(section: Section, layers: list[Layer], key: str) -> tuple[int, ...]:
    """Sources: numbers of layers, counted back from here where they are negative."""
    here = len(layers)
    section.text(key)
    found = []
    for number in section.all_whole(key, least=-here, most=max(here - 1, -1), count=MOST_SOURCES):
        found.append(_readable(section, layers, here + number if number < 0 else number, key))
    return tuple(found)


def _side(n: int, size: int, stride: int, pad: int) -> int:
    return (n + pad - size) // stride + 1


def _stride(section: Section, default: int) -> int:
    stride = section.whole("stride", default, least=1, most=LARGEST_KERNEL)
    for key in ("stride_x", "stride_y"):
        if section.whole(key, stride, least=1, most=LARGEST_KERNEL) != stride:
            section.refuse(f"{key}={section.text(key)} with stride={stride}; expected the same both ways", key)
    return stride


def _window(section: Section, shape: Shape, size: int, stride: int, pad: int) -> tuple[int, int]:
    height, width = (_side(n, size, stride, pad) for n in shape[1:])
    if height < 1 or width < 1:
        section.refuse(f"nothing is left of {shape[1]} x {shape[2]} with size={size}, stride={stride}")
    return height, width


def _convolutional(section: Section, layers: list[Layer], image: Shape) -> Layer:
    source = _previous(section, layers)
    shape = _shape(layers, image, source)
    filters = section.whole("filters", 1, least=1, most=WIDEST)
    size = section.whole("size", 1, least=1, most=LARGEST_KERNEL)
    stride = _stride(section, 1)
    pad = section.whole("padding", 0, least=0, most=size)
    if section.whole("pad", 0, least=0, most=LARGEST_KERNEL):  # any but 0: as much as the kernel needs
        pad = size // 2
    groups = section.whole("groups", 1, least=1, most=WIDEST)
    if shape[0] % groups or filters % groups:
        section.refuse(f"groups={groups} divides {shape[0]} channels into {filters}; expected whole parts", "groups")
    values = {
        "filters": filters,
        "size": size,
        "stride": stride,
        "pad": pad,
        "groups": groups,
        "norm": bool(section.whole("batch_normalize", 0, least=0, most=1)),
        "activation": _activation(section),
    }
    return Layer(len(layers), section, (source,), (filters, *_window(section, shape, size, stride, 2 * pad)), values)


def _activation(section: Section) -> str:
    """Where it is missing, Darknet takes logistic and OpenCV linear: so it may not be."""
    name = section.text("activation")
    if name not in ACTIVATIONS:
        section.refuse(f"activation={shown(name)} is not supported; what is: {', '.join(ACTIVATIONS)}", "activation")
    return name


def _maxpool(section: Section, layers: list[Layer], image: Shape) -> Layer:
    source = _previous(section, layers)
    shape = _shape(layers, image, source)
    stride = _stride(section, 1)
    size = section.whole("size", stride, least=1, most=LARGEST_KERNEL)
    pad = section.whole("padding", size - 1, least=0, most=size - 1)  # of both sides together
    out = shape[0], *_window(section, shape, size, stride, pad)
    return Layer(len(layers), section, (source,), out, {"size": size, "stride": stride, "pad": pad})


def _upsample(section: Section, layers: list[Layer], image: Shape) -> Layer:
    source = _previous(section, layers)
    channels, height, width = _shape(layers, image, source)
    stride = section.whole("stride", 2, least=1, most=LARGEST_KERNEL)
    return Layer(len(layers), section, (source,), (channels, height * stride, width * stride), {"stride": stride})


def _route(section: Section, layers: list[Layer], image: Shape) -> Layer:
    sources = _named(section, layers, "layers")
    groups = section.whole("groups", 1, least=1, most=WIDEST)
    group_id = section.whole("group_id", 0, least=0, most=groups - 1)
    if groups > 1 and len(sources) > 1:
        section.refuse("groups= of several layers is not supported, only of one; OpenCV does not read it", "groups")
    shapes = [layers[i].shape for i in sources]
    if len({shape[1:] for shape in shapes}) > 1:
        sizes = ", ".join(f"{height} x {width}" for _, height, width in shapes)
        section.refuse(f"it lays maps of {sizes} side by side; expected one size", "layers")
    width = sum(shape[0] for shape in shapes)
    if width % groups:
        section.refuse(f"groups={groups} divides the {width} channels of {layers[sources[0]].place}", "groups")
    out = width // groups, *shapes[0][1:]
    return Layer(len(layers), section, sources, out, {"groups": groups, "group_id": group_id})


def _shortcut(section: Section, layers: list[Layer], image: Shape) -> Layer:
    """The layer before and those that are named: all of them, where OpenCV takes the first alone."""
    source = _previous(section, layers)
    others = _named(section, layers, "from")
    if (name := section.text("activation", "linear")) != "linear":
        section.refuse(f"activation={shown(name)} is not supported, only activation=linear", "activation")
    shape = _shape(layers, image, source)
    for i in others:
        if layers[i].shape != shape:
            section.refuse(
                f"it adds {' x '.join(map(str, layers[i].shape))} of {layers[i].place} to "
                f"{' x '.join(map(str, shape))}: only equal widths are supported",
                "from",
            )
    return Layer(len(layers), section, (source, *others), shape)


def _dropout(section: Section, layers: list[Layer], image: Shape) -> Layer:
    source = _previous(section, layers)
    return Layer(len(layers), section, (source,), _shape(layers, image, source))


def _yolo(section: Section, layers: list[Layer], image: Shape) -> Layer:
    source = _previous(section, layers)
    channels, height, width = _shape(layers, image, source)
    numbers = section.numbers("anchors", least=1e-3, most=1e6, count=2 * MOST_ANCHORS)
    if len(numbers) % 2:
        section.refuse(f"anchors= holds {len(numbers)} numbers; expected pairs of a width and a height", "anchors")
    anchors = list(zip(numbers[::2], numbers[1::2], strict=True))
    if section.whole("num", len(anchors), least=1, most=MOST_ANCHORS) != len(anchors):
        section.refuse(f"num={section.text('num')} and {len(anchors)} pairs of anchors=; expected as many", "num")
    mask = list(range(len(anchors)))
    if "mask" in section.entries:
        mask = section.all_whole("mask", least=0, most=len(anchors) - 1, count=MOST_ANCHORS)
    classes = section.whole("classes", least=1, most=MOST_CLASSES)
    if channels != (expected := len(mask) * (5 + classes)):
        section.refuse(
            f"it reads {channels} channels; expected {expected}, for {len(mask)} anchors of 5 numbers and "
            f"{classes} classes"
        )
    strides = {image[1] / height, image[2] / width}
    if len(strides) > 1 or strides != {math.floor(min(strides))}:
        section.refuse(
            f"its map of {height} x {width} cells does not divide an image of {image[1]} x {image[2]} px evenly; "
            "expected a height and a width in [net] that are multiples of its stride"
        )
    values = {
        "anchors": anchors,
        "mask": mask,
        "classes": classes,
        "scale_xy": section.number("scale_x_y", 1.0, least=0.1, most=10),
        "new_coords": bool(section.whole("new_coords", 0, least=0, most=1)),
        "stride": image[1] // height,
    }
    return Layer(len(layers), section, (source,), (channels, height, width), values)


READERS: Mapping[str, Callable[[Section, list[Layer], Shape], Layer]] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "upsample": _upsample,
    "route": _route,
    "shortcut": _shortcut,
    "dropout": _dropout,
    "yolo": _yolo,
}
