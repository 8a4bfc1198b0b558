"""The door: a detector that was loaded is looked at once, from its smallest parts up to one run of the whole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.head import check_head, check_run
from yolo_slim.formats.layers import check_layers
from yolo_slim.formats.model_yaml import check_description
from yolo_slim.formats.modules import check_modules
from yolo_slim.formats.plain import are_whole, check_plain
from yolo_slim.formats.strangers import FUSED

MODELS = ("model", "ema")
WIDEST = 1 << 20


def check_entries(ckpt: Any) -> None:
    """Refuse a checkpoint that is no dict of plain values beside its models, or whose entries are of other types.

    Raises:
        SlimError: the entry, what was expected and what came.
    """
    if not isinstance(ckpt, dict):
        raise SlimError(f"holds a {type(ckpt).__name__}: expected an Ultralytics checkpoint, a dict with a 'model'")
    for key in MODELS:
        if (value := ckpt.get(key)) is not None and not isinstance(value, nn.Module):
            raise SlimError(f"holds a {type(value).__name__} under {key!r}, expected a detector")
    check_plain({key: value for key, value in ckpt.items() if not isinstance(value, nn.Module)}, "the checkpoint")
    for key, (kinds, expected) in ENTRIES.items():
        value = ckpt.get(key)
        if value is not None and not (isinstance(value, kinds) and type(value) is not bool):
            raise SlimError(f"holds {value!r:.60} under {key!r}, expected {expected}")


ENTRIES = {
    "epoch": (int, "a number of epochs"),
    "updates": (int, "a number of updates"),
    "train_args": (dict, "the arguments of its training"),
    "optimizer": (dict, "the state of an optimizer"),
    "scaler": (dict, "the state of a scaler"),
    "train_results": (dict, "what its training came to"),
    "live": (dict, "the weights as they were"),
    "date": (str, "a date"),
    "version": (str, "a version"),
}
"""Of the entries that are read here or by Ultralytics' trainer, what they are where they are there."""


def check_detector(detector: Detector) -> None:
    """Refuse a detector that is not what it seems; its numbers are looked at apart (`check_finite`).

    Raises:
        SlimError: the place in it, what was expected and what came.
    """
    check_modules(detector)
    check_yaml(getattr(detector, "yaml", None))
    check_layers(detector)
    check_head(detector)
    if not any(isinstance(m, nn.BatchNorm2d) for m in detector.modules()):
        raise SlimError(FUSED)
    check_run(detector)


def check_yaml(description: Any) -> None:
    """Refuse a description that is none, and cuts that do not follow from one another.

    Raises:
        SlimError: the entry, what was expected and what came.
    """
    if description is None:
        return
    if not isinstance(description, dict):
        raise SlimError(f"is no sound detector: `yaml` is a {type(description).__name__}, expected a dict")
    for part in ("backbone", "head"):
        if not isinstance(description.get(part), list):
            raise SlimError(
                f"is no sound detector: `yaml.{part}` is {description.get(part)!r:.40}, expected its layers"
            )
    if "slim" in description:
        slim = check_slim(description["slim"])
        try:
            if not {"backbone", "head"} <= slim["full"].keys():
                raise SlimError("lacks its backbone or its head")
            check_description(whole(description))
        except SlimError as e:
            raise SlimError(f"is no sound detector: `yaml.slim.full` {e}") from e
        return
    try:
        check_description(description)
    except SlimError as e:
        raise SlimError(f"is no sound detector: its `yaml` {e}") from e


def check_slim(slim: Any) -> dict[str, Any]:
    """The note of cuts, where each follows from the one before.

    Raises:
        SlimError: the entry, what was expected and what came.
    """
    if not isinstance(slim, dict) or not isinstance(slim.get("full"), dict) or not isinstance(slim.get("cuts"), list):
        raise SlimError("is no sound detector: `yaml.slim` is not what cutting writes there, its `full` and its `cuts`")
    _check_cuts(slim["cuts"], "yaml.slim.cuts")
    grown = slim.get("grown", [])
    if not isinstance(grown, list) or not all(isinstance(step, dict) for step in grown):
        raise SlimError("is no sound detector: `yaml.slim.grown` is not what growing writes there, a list of steps")
    for i, step in enumerate(grown):
        place, outputs = f"yaml.slim.grown[{i}]", step.get("outputs")
        if not isinstance(step.get("cuts"), list) or not isinstance(outputs, dict):
            raise SlimError(f"is no sound detector: `{place}` lacks its `cuts` or its `outputs`")
        _check_cuts(step["cuts"], f"{place}.cuts")
        for name, took in outputs.items():
            if type(name) is not str or not are_whole(took, 0, WIDEST):
                raise SlimError(f"is no sound detector: `{place}` makes {took!r:.60} of {name!r:.60}")
    return slim


def _check_cuts(cuts: list[Any], place: str) -> None:
    """Nothing, where each follows from the one before."""
    widths: dict[str, int] = {}
    for i, cut in enumerate(cuts):
        if not isinstance(cut, dict):
            raise SlimError(f"is no sound detector: `{place}[{i}]` is a {type(cut).__name__}, expected a dict")
        for name, kept in cut.items():
            left = widths.get(name, WIDEST)
            rising = are_whole(kept, 0, left - 1) and all(a < b for a, b in pairwise(kept))
            if type(name) is not str or not rising:
                raise SlimError(
                    f"is no sound detector: `{place}[{i}]` keeps {kept!r:.60} of {name!r:.60}, "
                    f"expected rising numbers of those that were left"
                )
            widths[name] = len(kept)


def cuts_of(detector: Any) -> list[dict[str, list[int]]]:
    """The cuts that a detector tells of, since it last grew, one after the other: convolution -> outputs kept."""
    return list((detector.yaml.get("slim") or {}).get("cuts", []))


def grown_of(detector: Any) -> list[dict[str, Any]]:
    """How a detector has grown, one step after the other: `cuts` made before, `outputs` (convolution -> of each of its
    outputs then, which it was)."""
    return list((detector.yaml.get("slim") or {}).get("grown", []))


def whole(description: dict[str, Any]) -> dict[str, Any]:
    """The description that a slim detector had before it was cut."""
    return {key: value for key, value in description.items() if key != "slim"} | description["slim"]["full"]
