"""What a cfg describes, as modules: torch's and Ultralytics', and the few that neither has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn
from ultralytics.nn.modules import Concat, Conv

from yolo_slim.formats.darknet.modules import DarknetHead, DarknetModel, EdgePool, Part, Sum
from yolo_slim.formats.darknet.plan import Layer, Net

EPS = 1e-5
"""Darknet adds it to a variance; OpenCV takes 1e-6."""
MOMENTUM = 0.03
"""As Ultralytics trains its own."""

ONLY_OURS = (
    "this detector comes from a Darknet cfg, and the stock trainer cannot build it: "
    "train it with YOLO(...).train(trainer=yolo_slim.SlimTrainer, ...)"
)
"""Stands where a model YAML names its first layer, so that the stock trainer stops and says so."""

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "mish": nn.Mish,
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": nn.ReLU6,
    "logistic": nn.Sigmoid,
    "swish": lambda: nn.SiLU(inplace=True),
}


def built(net: Net, text: str, header: tuple[int, int, int, int], names: Mapping[int, str]) -> DarknetModel:
    """A detector whose weights are still random.

    Args:
        net: what `text` describes.
        text: of the cfg.
        header: of the weights: major, minor, revision, images seen.
        names: class -> its name.
    """
    layers: list[nn.Module] = []
    for layer in net.layers:
        module: Any = BUILDERS[layer.kind](net, layer)
        sources = [-1 if i == layer.index - 1 else i for i in layer.sources]
        module.f = sources if isinstance(module, (Sum, Concat)) or len(sources) > 1 else sources[0]
        layers.append(module)
    head = DarknetHead(net.classes, [_level(layer) for layer in net.yolos])
    head.f = [layer.index for layer in net.yolos]
    yaml = {
        "darknet": {"cfg": text, "header": list(header)},
        "nc": net.classes,
        "channels": net.image[0],
        "backbone": [[-1, 1, ONLY_OURS, []]],
        "head": [],
    }
    model = DarknetModel(layers, head, yaml, dict(names))
    model.args["imgsz"] = max(net.image[1:])
    return model


def _level(layer: Layer) -> dict[str, Any]:
    values = layer.values
    masked = [list(values["anchors"][i]) for i in values["mask"]]
    return {"anchors": masked, **{key: values[key] for key in ("stride", "scale_xy", "new_coords")}}


def _convolutional(net: Net, layer: Layer) -> nn.Module:
    v, into = layer.values, net.channels_into(layer)
    act = ACTIVATIONS[v["activation"]]()
    if v["norm"]:
        module = Conv(into, v["filters"], v["size"], v["stride"], v["pad"], v["groups"], act=act)
        module.bn.eps, module.bn.momentum = EPS, MOMENTUM
        return module
    conv = nn.Conv2d(into, v["filters"], v["size"], v["stride"], v["pad"], groups=v["groups"])
    return conv if v["activation"] == "linear" else nn.Sequential(conv, act)


def _maxpool(net: Net, layer: Layer) -> nn.Module:
    """Darknet pads by `pad` rows and columns in all, the smaller half of them before the first."""
    size, stride, pad = (layer.values[key] for key in ("size", "stride", "pad"))
    if pad % 2 == 0:
        return nn.MaxPool2d(size, stride, pad // 2)
    if stride == 2:  # one more behind than before is what rounding up comes to
        return nn.MaxPool2d(size, stride, pad // 2, ceil_mode=True)
    return EdgePool(size, stride, pad // 2)


def _route(net: Net, layer: Layer) -> nn.Module:
    if layer.values["groups"] > 1:
        return Part(layer.values["groups"], layer.values["group_id"])
    return Concat(1) if len(layer.sources) > 1 else nn.Identity()


BUILDERS: Mapping[str, Callable[[Net, Layer], nn.Module]] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "upsample": lambda net, layer: nn.Upsample(scale_factor=layer.values["stride"], mode="nearest"),
    "route": _route,
    "shortcut": lambda net, layer: Sum(),
    "dropout": lambda net, layer: nn.Identity(),
    "yolo": lambda net, layer: nn.Identity(),
}
"""Section -> its module. A `[dropout]` does nothing once a net is trained, a `[yolo]` leaves its map to the head."""


def conv_and_norm(module: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """The convolution of a layer that `built` made, and the batch norm behind it."""
    if isinstance(module, Conv):
        return module.conv, getattr(module, "bn", None)
    return cast(nn.Conv2d, module[0] if isinstance(module, nn.Sequential) else module), None
