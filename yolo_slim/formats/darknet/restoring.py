"""A detector that comes out of a pickle, made anew: whoever wrote the pickle may have written anything.

Of the pickled one only what is plain is taken, and looked at: the cfg's text, the header, names, cuts and numbers. Its
modules are thrown away.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from yolo_slim.errors import SlimError, shown
from yolo_slim.formats.darknet.build import built
from yolo_slim.formats.darknet.cfg import LONGEST
from yolo_slim.formats.darknet.modules import DarknetModel
from yolo_slim.formats.darknet.net import read_net, resized
from yolo_slim.formats.darknet.plan import Layer
from yolo_slim.formats.darknet.weights import MOST_SEEN, numbers_of
from yolo_slim.formats.head import LONGEST_NAME
from yolo_slim.formats.layers import check_finite
from yolo_slim.formats.plain import are_whole


def restored(detector: nn.Module) -> DarknetModel:
    """The same detector, in fp32 and eval mode, of modules that were made here.

    Args:
        detector: a `DarknetModel` that was unpickled, its modules' tables of the types they ought to have.

    Raises:
        SlimError: what it says of itself is no cfg, or its numbers are not those of that cfg, whole or cut.
    """
    yaml: Any = getattr(detector, "yaml", None)
    text, header = _described(yaml)
    state = {name: tensor for name, tensor in detector.state_dict().items() if isinstance(tensor, Tensor)}
    try:
        whole = read_net(text)
        slim = resized(text, {layer.index: _widths(layer, state) for layer in whole.convs})
        net = read_net(slim)
    except SlimError as e:
        raise SlimError(f"is no sound detector: its cfg {e}") from e
    needed = sum(numbers_of(net, layer) for layer in net.convs)
    if (held := sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())) != needed:
        raise SlimError(f"is no sound detector: it holds {held:,} numbers, and its cfg describes {needed:,}")
    model = built(net, slim, header, _names(detector, net.classes))
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as e:
        said = " ".join(str(e).split())[:200]
        raise SlimError(f"is no sound detector: its weights are not those of its cfg: {said}") from e
    check_finite(model)
    model.yaml["darknet"]["cfg"] = text
    if "slim" in yaml:
        model.yaml |= {key: yaml[key] for key in ("slim", "backbone")}
    return model


def _described(yaml: Any) -> tuple[str, tuple[int, int, int, int]]:
    """The text of a cfg and the header of its weights."""
    described = yaml.get("darknet") if isinstance(yaml, dict) else None
    text: Any
    header: Any
    text, header = (described.get(key) if isinstance(described, dict) else None for key in ("cfg", "header"))
    if type(text) is not str or len(text) > LONGEST:
        raise SlimError("is no sound detector: `yaml.darknet.cfg` is not the text of a Darknet cfg")
    if not are_whole(header, 0, MOST_SEEN) or len(header) != 4:
        raise SlimError(f"is no sound detector: `yaml.darknet.header` is {shown(header)}, expected four whole numbers")
    major, minor, revision, seen = header
    return text, (major, minor, revision, seen)


def _widths(layer: Layer, state: dict[str, Tensor]) -> tuple[int, int]:
    """Filters and groups of a convolution, by the shape of its weights: a depthwise one loses groups with filters."""
    weight = next((state[name] for name in _weights(layer) if name in state), None)
    if weight is None or weight.dim() != 4:
        raise SlimError(f"describes {layer.place}, and there are no weights of it")
    filters, groups = len(weight), layer.values["groups"]
    return filters, filters if groups == layer.values["filters"] else groups


def _weights(layer: Layer) -> list[str]:
    """How a convolution's weights may be called."""
    return [f"model.{layer.index}.{part}weight" for part in ("conv.", "0.", "")]


def _names(detector: nn.Module, classes: int) -> dict[int, str]:
    names: Any = getattr(detector, "names", None)
    fits = isinstance(names, dict) and names.keys() == set(range(classes))
    if not fits or not all(type(name) is str and len(name) <= LONGEST_NAME for name in names.values()):
        raise SlimError(
            f"is no sound detector: `names` is {shown(names)}, expected one text for each of {classes} classes"
        )
    return dict(names)
