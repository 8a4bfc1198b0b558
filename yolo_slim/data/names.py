"""Whether a detector and a data set mean the same classes by the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import classes_of

ONE = {0: "item"}
"""What Ultralytics calls the class of a training with `single_cls`."""

SHOWN = 3  # classes that a message names


def one_class(detector: Detector) -> bool:
    """Whether it was trained with `single_cls`: it finds objects of any class of its data set, and calls all alike."""
    if classes_of(detector) != 1:
        return False
    args = getattr(detector, "args", None) or {}
    args = args if isinstance(args, Mapping) else vars(args)
    return args.get("single_cls") is True or numbered(detector.names) == ONE


def check_names(detector: Any, named: Any, whose: str, data: str) -> None:
    """Nothing, where class by class both sides have the same name, or one side has none but numbers.

    Case, white space and underscores do not count, unless they tell classes apart; `True` is what Ultralytics makes of
    a class that its YAML calls `yes`.

    Args:
        detector: names by class, as a list or a mapping.
        named: names in the data set, likewise.
        whose: the detector, for the message.
        data: the data set, for the message.

    Raises:
        SlimError: another number of classes, or another name of one.
    """
    ours, theirs = numbered(detector), numbered(named)
    if len(ours) != len(theirs):
        raise SlimError(
            f"{whose} detects {len(ours)} classes, but {data} names {len(theirs)}: "
            "give the data set that the detector was trained on, or have it trained for these classes first: "
            "original.transfer=true (one of Darknet: there)"
        )
    if _alike(ours, theirs):
        return
    permuted = sorted(ours.values()) == sorted(theirs.values())
    if not permuted and (is_nameless(ours) or is_nameless(theirs)):
        return
    other = [i for i in ours if ours[i] != theirs.get(i)]
    told = "; ".join(f"class {i} is {ours[i]!r} in the detector and {theirs.get(i)!r} there" for i in other[:SHOWN])
    more = f"; and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
    advice = (
        "these are the same names in another order: bring `names:` of the data set into the detector's order, and the "
        "numbers in its label files too if they follow the list as it is now"
        if permuted
        else "give the data set that the detector was trained on, or, where both mean the same classes, write the "
        f"detector's names into {data}"
    )
    raise SlimError(f"{whose} and {data} name classes differently: {told}{more}. {advice[0].upper()}{advice[1:]}")


def numbered(names: Any) -> dict[int, str]:
    """Names by class, however they were given."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {int(i): str(name) for i, name in sorted((int(i), name) for i, name in pairs)}


def is_nameless(names: Mapping[int, str]) -> bool:
    """Whether these are what Ultralytics gives to classes that nobody has named."""
    return all(name in (str(i), f"class{i}", f"class_{i}") for i, name in names.items())


def _alike(ours: Mapping[int, str], theirs: Mapping[int, str]) -> bool:
    for fold in (str, _folded, lambda name: _folded(_as_read(name))):
        if _told_apart(ours, fold) and _told_apart(theirs, fold) and _through(ours, fold) == _through(theirs, fold):
            return True
    return False


def _through(names: Mapping[int, str], fold: Callable[[str], str]) -> dict[int, str]:
    return {i: fold(name) for i, name in names.items()}


def _told_apart(names: Mapping[int, str], fold: Callable[[str], str]) -> bool:
    return len(set(_through(names, fold).values())) == len(set(names.values()))


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _as_read(name: str) -> str:
    """As Ultralytics alone would have read it from a YAML: `yes` is True, and 01 is 1."""
    try:
        return str(yaml.safe_load(name))
    except (yaml.YAMLError, ValueError, RecursionError):
        return name
