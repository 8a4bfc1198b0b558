"""A model's description, looked at before Ultralytics builds it: that looks names up and evaluates texts."""

from __future__ import annotations

import ast
import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import guess_model_scale, guess_model_task, parse_model
from ultralytics.utils.checks import check_yaml

from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector, Layer, Layers
from yolo_slim.formats.guard import bounded
from yolo_slim.formats.head import HEADS, MOST_CLASSES, PX
from yolo_slim.formats.names import layers
from yolo_slim.formats.plain import are_whole, check_plain, check_written, is_number, is_whole
from yolo_slim.formats.yaml_text import LONGEST, values_in

MOST_LAYERS = 1000
MOST_REPEATS = 200
LARGEST = 1 << 17
"""Of the numbers in a layer's arguments."""
MOST_PARAMETERS = 1_000_000_000
TEXT = re.compile(r"[A-Za-z]\w{0,63}|[\d.,+\-eE\[\]() ]{0,64}")
"""What a layer's argument may be as a text: nc, None, nearest, 1e-3."""


def described(model_yaml: str) -> dict[str, Any]:
    """What a model YAML says, or the one of that name which comes with Ultralytics.

    Raises:
        SlimError: there is none, or it is no description of a detector.
    """
    path = Path(model_yaml)
    if path.stem in (f"yolov{d}{x}6" for x in "nsmlx" for d in (5, 8)):  # as Ultralytics calls them now
        path = path.with_name(f"{path.stem[:-1]}-p6{path.suffix}")
    plain = re.sub(r"(\d+)([nslmx])(.+)?$", r"\1\3", str(path))  # yolov5n.yaml is yolov5.yaml at scale n
    found = check_yaml(str(path), hard=False) or check_yaml(plain, hard=False)
    if not found or isinstance(found, list) or not Path(found).is_file():
        raise SlimError("is not there: expected a model YAML, found no file (Ultralytics knows yolov5n.yaml etc.)")
    if Path(found).stat().st_size > LONGEST:
        raise SlimError(f"has {Path(found).stat().st_size:,} bytes: a model YAML has a few thousand")
    try:
        description = values_in(Path(found).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise SlimError(f"cannot be read: {getattr(e, 'strerror', None) or e}") from e
    check_description(description)
    return {**description, "scale": guess_model_scale(path), "yaml_file": str(path)}


def check_description(description: Any) -> None:
    """Refuse what Ultralytics would evaluate, look up beyond its layers, or build without end.

    Raises:
        SlimError: the layer or the key, and what is wrong with it.
    """
    if not isinstance(description, dict):
        raise SlimError(f"describes no model: it is a {type(description).__name__}, expected backbone and head")
    check_plain(description, "the model YAML")
    check_written(description, "the model YAML")
    for part in ("backbone", "head"):
        if not isinstance(description.get(part), list):
            raise SlimError(f"describes no model: it lacks its {part}, a list of layers")
    rows = [*description["backbone"], *description["head"]]
    if len(rows) > MOST_LAYERS:
        raise SlimError(f"describes no model: it has {len(rows)} layers, expected at most {MOST_LAYERS}")
    _check_numbers(description)
    for i, row in enumerate(rows):
        _check_row(i, row)
    if not description["backbone"] or not description["head"]:
        raise SlimError("describes no model: its backbone or its head has no layers")
    if rows[-1][2] not in {head.__name__ for head in HEADS}:
        task = guess_model_task(description)
        other = f", so it is to {task}" if task not in (None, "detect") else ""
        raise SlimError(f"ends in {rows[-1][2]}{other}: expected a detection model, others are not supported")


def _check_numbers(description: dict[str, Any]) -> None:
    if not is_whole(description.get("nc"), 1, MOST_CLASSES):
        raise SlimError(f"describes no model: nc is {description.get('nc')!r:.40}, expected how many classes there are")
    shares = {key: description.get(key) for key in ("depth_multiple", "width_multiple")}
    scales = description.get("scales") or {}
    fits = isinstance(scales, dict) and all(isinstance(row, (list, tuple)) and len(row) == 3 for row in scales.values())
    if not fits:
        raise SlimError(f"describes no model: scales is {scales!r:.80}, expected name: [depth, width, max channels]")
    shares |= {f"scales.{name}[{i}]": row[i] for name, row in scales.items() for i in (0, 1)}
    for key, value in shares.items():
        if value is not None and not (is_number(value) and 0 < value <= 16):
            raise SlimError(f"describes no model: {key} is {value!r:.40}, expected a number up to 16")
    for name, row in scales.items():
        if not is_number(row[2]) or row[2] <= 0:
            raise SlimError(f"describes no model: scales.{name}[2] is {row[2]!r:.40}, expected channels")
    if not is_whole(description.get("reg_max", 16), 1, 1024):
        raise SlimError(f"describes no model: reg_max is {description['reg_max']!r:.40}, expected 16 or the like")
    if description.get("activation") is not None:
        _check_activation(description["activation"])


def _check_activation(text: Any) -> None:
    """`nn.SiLU()` or `torch.nn.LeakyReLU(0.1)`: Ultralytics evaluates this text."""
    wrong = SlimError(f"says activation: {text!r:.80}; expected the like of nn.SiLU() or torch.nn.LeakyReLU(0.1)")
    if not isinstance(text, str) or len(text) > 100:
        raise wrong
    try:
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        called = ast.unparse(call.func).removeprefix("torch.")
        values = [ast.literal_eval(node) for node in (*call.args, *(word.value for word in call.keywords))]
    except Exception as e:
        raise wrong from e
    if f"torch.nn.modules.activation.{called.removeprefix('nn.')}" not in layers() or not called.startswith("nn."):
        raise wrong
    if any(word.arg is None for word in call.keywords) or not all(isinstance(v, (bool, int, float)) for v in values):
        raise wrong


def _check_row(i: int, row: Any) -> None:
    if not isinstance(row, (list, tuple)) or len(row) != 4:
        raise SlimError(f"describes no model: layer {i} is {row!r:.80}, expected [from, repeats, layer, arguments]")
    sources, repeats, kind, arguments = row
    listed = sources if isinstance(sources, (list, tuple)) else [sources]
    if not listed or len(listed) > 64 or not are_whole(listed, -max(i, 1), max(i - 1, -1)):
        raise SlimError(f"describes no model: layer {i} takes its input from {sources!r:.80}")
    if not is_whole(repeats, 1, MOST_REPEATS):
        raise SlimError(
            f"describes no model: layer {i} is repeated {repeats!r:.40} times, expected 1 to {MOST_REPEATS}"
        )
    _check_kind(i, kind)
    if not isinstance(arguments, (list, tuple)) or len(arguments) > 32:
        raise SlimError(f"describes no model: layer {i} ({kind}) has the arguments {arguments!r:.80}")
    for argument in arguments:
        _check_argument(i, argument)


def _check_kind(i: int, kind: Any) -> None:
    if not isinstance(kind, str):
        raise SlimError(f"describes no model: layer {i} is {kind!r:.80}, expected the name of a layer")
    if kind.startswith("torchvision"):
        raise SlimError(
            f"names {kind:.80} as layer {i}: only layers of Ultralytics and torch.nn are read from checkpoints here, "
            "so a detector with this one could be trained, but never loaded again. Use another layer in its place"
        )
    if kind not in known_layers():
        raise SlimError(f"names {kind!r:.80} as layer {i}, which is no layer of Ultralytics, and none of torch.nn")


def known_layers() -> set[str]:
    """How a model YAML may call layers: those of torch.nn begin with nn."""
    found = (name.rpartition(".") for name in layers())
    return {f"nn.{name}" if home.startswith("torch.") else name for home, _, name in found}


def _check_argument(i: int, value: Any, depth: int = 0) -> None:
    if isinstance(value, (list, tuple)) and len(value) <= 64 and depth < 3:
        for inner in value:
            _check_argument(i, inner, depth + 1)
    elif isinstance(value, str):
        if not TEXT.fullmatch(value):
            raise SlimError(f"gives layer {i} the text {value!r:.80}: expected a name or a number")
    elif not (value is None or isinstance(value, bool) or (is_number(value) and abs(value) <= LARGEST)):
        raise SlimError(
            f"gives layer {i} the argument {value!r:.80}: expected numbers up to {LARGEST}, texts and lists"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Building


@contextmanager
def own_activation() -> Iterator[None]:
    """Ultralytics sets the activation of all convolutions while it builds, and leaves it so where that fails."""
    before = Conv.default_act
    try:
        yield
    finally:
        Conv.default_act = before


def layers_of(description: dict[str, Any], channels: int = 3) -> Layers:
    """The layers that a description comes to, on the meta device: shapes without numbers, and within bounds.

    Raises:
        SlimError: it cannot be built, or is larger than any detector.
    """
    try:
        with bounded(), own_activation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's: what is wrong is told in one message
            built, _ = parse_model(copy.deepcopy(description), ch=channels, verbose=False)
    except SlimError:
        raise
    except Exception as e:
        raise SlimError(f"cannot be built: {type(e).__name__}: {str(e).partition(chr(10))[0]:.200}") from e
    if (count := sum(p.numel() for p in built.parameters())) > MOST_PARAMETERS:
        raise SlimError(f"describes a model of {count:,} parameters: no detector has as many")
    return built


def check_runs(description: dict[str, Any], channels: int = 3) -> None:
    """Build a description and run it, on the meta device, before either takes memory and time.

    Raises:
        SlimError: as `layers_of`, or where it does not run.
    """
    ghost = Detector.__new__(Detector)
    nn.Module.__init__(ghost)
    built = layers_of(description, channels)
    ghost.model = built.eval()
    ghost.save = sorted({f % layer.i for layer in built for f in _sources(layer) if f != -1})
    built[-1].training = True
    try:
        with torch.no_grad(), bounded():
            ghost._predict_once(torch.empty(1, channels, PX, PX))
    except SlimError:
        raise
    except Exception as e:
        raise SlimError(f"does not run at {PX} px: {type(e).__name__}: {str(e).partition(chr(10))[0]:.200}") from e


def _sources(layer: Layer) -> list[int]:
    return [layer.f] if isinstance(layer.f, int) else list(layer.f)
