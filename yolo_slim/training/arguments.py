"""Ultralytics' train arguments held against the detector that they are to train, before the first stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from yolo_slim.errors import SlimError, shown
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import classes_of

STRIDE, ALWAYS_FROZEN = 32, ".dfl"
"""Pixels that Ultralytics rounds image sides to at least, and the layer that it never trains."""


def check_against(
    detector: Detector, arguments: Mapping[str, Any], where: str = "train", classes: int | None = None
) -> None:
    """Nothing, where a detector can be trained with these arguments.

    Args:
        detector: or one with the same layers.
        arguments: for Ultralytics.
        where: they were given, for the message.
        classes: that it will have; default: those it has.

    Raises:
        SlimError: classes or layers that the detector does not have, or nothing left to train.
    """
    _check_classes(classes or classes_of(detector), arguments, where)
    if arguments.get("freeze") is not None:
        _check_freeze(detector, arguments["freeze"], where)


def _check_classes(count: int, arguments: Mapping[str, Any], where: str) -> None:
    asked = arguments.get("classes")
    if arguments.get("single_cls") and count > 1:
        raise SlimError(
            f"{where}.single_cls makes one class of all, but the detector tells {count} apart: leave it out, or train "
            "a detector with single_cls first"
        )
    ids = asked if isinstance(asked, list) else [asked] if asked is not None else []
    if beyond := [each for each in ids if each >= count]:
        raise SlimError(
            f"{where}.classes: expected numbers from 0 to {count - 1}, got {shown(beyond[0])}: nothing would be learnt"
        )


def _check_freeze(detector: Detector, freeze: int | list[int | str], where: str) -> None:
    layers, names = len(detector.model), [name for name, _ in detector.named_parameters()]
    asked = freeze if isinstance(freeze, list) else [max(freeze - 1, 0)] if freeze else []
    for each in asked:
        if isinstance(each, int) and each >= layers:
            raise SlimError(f"{where}.freeze: the detector has {layers} layers, from 0 to {layers - 1}, got {freeze}")
        if isinstance(each, str) and not any(f"model.{each}." in name for name in names):
            raise SlimError(f"{where}.freeze: the detector has no layer {shown(each)}; expected names such as 23.cv2")
    frozen = [f"model.{each}." for each in (freeze if isinstance(freeze, list) else range(freeze))]
    if all(any(part in name for part in (*frozen, ALWAYS_FROZEN)) for name in names):
        raise SlimError(f"{where}.freeze={shown(freeze)} leaves nothing to train: freeze fewer layers")


def check_last_batch(images: int, imgsz: int, arguments: Mapping[str, Any], where: str = "train") -> None:
    """Nothing, where batch norm has more than one value a channel in every batch.

    Args:
        images: of the training split.
        imgsz: image side in pixels.
        arguments: for Ultralytics.
        where: they were given, for the message.

    Raises:
        SlimError: the last batch is one image, of which the deepest maps are one pixel.
    """
    batch, fraction = arguments.get("batch", 16), arguments.get("fraction", 1.0)
    share = fraction[0] if isinstance(fraction, list) else fraction
    if batch < 1 or arguments.get("compile"):  # chosen by Ultralytics, or a last batch is left out
        return
    images = min(images, share) if isinstance(share, int) and share > 1 else max(1, round(images * share))
    whole = min(batch, images)
    if smallest(imgsz, arguments) < 2 * STRIDE and (images % whole or whole) == 1:
        raise SlimError(
            f"{where}.batch={batch} leaves a last batch of one image ({images} images), of which batch norm sees a "
            f"single value at {smallest(imgsz, arguments)} px: choose another batch, or images of {2 * STRIDE} px on"
        )


def smallest(imgsz: int, arguments: Mapping[str, Any]) -> int:
    """The smallest image side in pixels of a training with several sizes."""
    least = max(STRIDE, int(imgsz * (1 - arguments.get("multi_scale", 0.0))))
    return math.floor(least / STRIDE) * STRIDE
