"""A detector as Darknet's files: the user's own cfg with other widths in it, weights, names and the model card.

Each file is written under another name first and renamed once all are there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from yolo_slim.errors import SlimError, plain, why
from yolo_slim.formats.cards import card_of
from yolo_slim.formats.darknet.build import conv_and_norm
from yolo_slim.formats.darknet.net import read_net, resized
from yolo_slim.formats.darknet.plan import Net
from yolo_slim.formats.darknet.reading import SUFFIX
from yolo_slim.formats.darknet.weights import Header, content_of
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.yaml_text import LONGEST
from yolo_slim.text import printable

CARD = ".card.json"
"""How the file of a model card ends, beside `net.cfg` and `net.weights`."""


def save(detector: Detector, cfg_path: str | Path, card: Mapping[str, Any] | None = None) -> tuple[Path, Path]:
    """Write a detector as a cfg and weights, all of it or nothing.

    Of the cfg that it came from, only `filters=` and `groups=` of layers that were cut are other; where nothing was
    cut, both files hold what they held. Names of classes go into `net.names` where they are more than numbers, or where
    such a file of another detector would stand for them.

    Args:
        detector: from `load`, cut or not, on any device, of any precision; left alone.
        cfg_path: ends in `.cfg`; the weights go beside it, under the same name. Its folder is made.
        card: plain values that tell where the detector comes from; beside it, as `net.card.json`.

    Returns:
        the paths of the cfg and of the weights.

    Raises:
        SlimError: no detector of a cfg, a fused one, numbers that are none, or a disk that cannot take it.
    """
    cfg_path = Path(cfg_path)
    if cfg_path.suffix != ".cfg":
        raise SlimError(f"expected the path of a Darknet cfg, ending in .cfg, got {plain(cfg_path)}")
    text, net = slim_text(detector)
    header = Header(*detector.yaml["darknet"]["header"])
    weights_path = cfg_path.with_suffix(SUFFIX)
    files = {weights_path: content_of(detector, net, header), cfg_path: text.encode("utf-8")}
    names_path = cfg_path.with_suffix(".names")
    if names_path.is_file() or any(name != str(i) for i, name in detector.names.items()):
        lines = (" ".join(str(name).split()) or str(i) for i, name in detector.names.items())
        files[names_path] = "".join(f"{line}\n" for line in lines).encode("utf-8")
    if card is not None:
        told = {"card": dict(card), "sha256": _sums(files[cfg_path], files[weights_path])}
        files[cfg_path.with_suffix(CARD)] = json.dumps(told, indent=1).encode("utf-8")
    _write(files)
    return cfg_path, weights_path


def slim_text(detector: Detector) -> tuple[str, Net]:
    """The text of a cfg for a detector as it is now, and what that describes.

    Raises:
        SlimError: it is no detector of a cfg, it was fused, or it has layers that no cfg can say.
    """
    described = (getattr(detector, "yaml", None) or {}).get("darknet")
    if not isinstance(described, dict):
        raise SlimError(f"expected a detector of a Darknet cfg to write one, got a {type(detector).__name__}")
    text = described["cfg"]
    widths = {}
    for layer in read_net(text).convs:
        _check_one(layer, detector.model[layer.index])
        conv, norm = conv_and_norm(detector.model[layer.index])
        if layer.values["norm"] and norm is None:
            raise SlimError(
                "the detector is fused: its batch norms are merged into the convolutions, and its cfg has them. "
                "Save it before it is exported or fused"
            )
        widths[layer.index] = conv.out_channels, conv.groups
    text = resized(text, widths)
    net = read_net(text)
    for layer in net.convs:
        _check_shape(net, layer, detector.model[layer.index])
    return text, net


def _check_one(layer: Any, module: nn.Module) -> None:
    """A section is one convolution, and it is in groups where the cfg has it so."""
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    if len(convs) != 1 or convs[0].groups > layer.values["groups"] == 1:
        now = f"{len(convs)} convolutions" if len(convs) != 1 else f"one in {convs[0].groups} groups"
        raise SlimError(
            f"{layer.place} has become {now}, which its cfg cannot say: methods that put other layers in the place of "
            "one (low_rank, compact) are for detectors of Ultralytics and ultralytics/yolov5"
        )


def _check_shape(net: Net, layer: Any, module: nn.Module) -> None:
    """What Darknet will make of the cfg is what there is."""
    conv, _ = conv_and_norm(module)
    size = layer.values["size"]
    expected = (layer.values["filters"], net.channels_into(layer) // layer.values["groups"], size, size)
    if tuple(conv.weight.shape) != expected:
        raise SlimError(
            f"the weights of {layer.place} are {tuple(conv.weight.shape)}, and the cfg describes {expected}"
        )


def card(cfg_path: str | Path) -> dict[str, Any]:
    """The model card that `save` put beside a cfg; empty: there is none, or the files are no longer those it is of.

    Raises:
        SlimError: it is none.
    """
    cfg_path = Path(cfg_path)
    path = cfg_path.with_suffix(CARD)
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > 64 * LONGEST:
            raise SlimError(f"has {path.stat().st_size:,} bytes: expected a model card")
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or not isinstance(told.get("card"), dict):
            raise SlimError("carries no model card: expected what save() writes")
        beside = [p.read_bytes() if p.is_file() else b"" for p in (cfg_path, cfg_path.with_suffix(SUFFIX))]
        return card_of(told["card"]) if told.get("sha256") == _sums(*beside) else {}
    except SlimError as e:
        raise SlimError(f"{plain(path)} {e}") from e
    except (OSError, ValueError, RecursionError) as e:
        said = why(e, path) if isinstance(e, OSError) else printable(f"{e}")
        raise SlimError(f"{plain(path)} cannot be read: {said}") from e


def _sums(cfg: bytes, weights: bytes) -> dict[str, str]:
    return {"cfg": hashlib.sha256(cfg).hexdigest(), "weights": hashlib.sha256(weights).hexdigest()}


def _write(files: Mapping[Path, bytes]) -> None:
    """Every file under another name, then all of them renamed: nothing is changed before all of it is on the disk.

    Raises:
        SlimError: the disk is full or cannot be written.
    """
    parts = {path: path.with_name(f".{path.name}.part") for path in files}
    path = next(iter(files))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            if path.exists() and not path.is_file():
                raise SlimError(f"cannot write {plain(path)}: it is there, and no file. Nothing was changed")
            with parts[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            part.replace(path)
    except OSError as e:
        raise SlimError(f"cannot write {plain(path)}: {why(e, path)}") from e
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)
