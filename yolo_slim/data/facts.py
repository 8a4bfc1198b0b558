"""Where a data set is and what is in it, as Ultralytics reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.data.utils import find_dataset_yaml
from ultralytics.utils import DATASETS_DIR, ROOT, remove_colorstr

from yolo_slim.channels import image_channels
from yolo_slim.data.described import SPLITS, described, elsewhere
from yolo_slim.data.names import ONE, check_names, one_class
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import classes_of

YAMLS = (".yaml", ".yml")


@dataclass(frozen=True)
class Split:
    """What is in a split."""

    images: int  # that can be read
    labelled: int  # of those, with a box
    boxes: int


def yaml_of(data: str | Path | None) -> Path | None:
    """The YAML that decides what a data set is: the file given, that in the folder given, or one of Ultralytics' own.

    None: there is none, or it cannot be told which; `dataset_info` says why.
    """
    try:
        return _found(data) if data else None
    except SlimError:
        return None


def dataset_info(data: str | Path, split: str = "", *, single_cls: bool = False) -> dict[str, Any]:
    """The data set as Ultralytics reads it: names, nc, channels, and a folder or list per split; never downloaded.

    Args:
        data: its YAML, or a folder that holds one.
        split: whose images must be there; else those to train and to validate on, where it names any.
        single_cls: take all classes for one, as Ultralytics does.

    Raises:
        SlimError: missing or malformed, an address, or an archive.
    """
    file = _found(data)
    info = {**described(file), "yaml_file": str(file)}
    root = _root(info, file)
    for key in SPLITS:
        if info.get(key):
            places = info[key] if isinstance(info[key], list) else [info[key]]
            placed = [_placed(root, place) for place in places]
            info[key] = placed if isinstance(info[key], list) else placed[0]
    if split and not info.get(split):
        raise SlimError(f"{data} has no '{split}' images")
    for needed in (split,) if split else ("train", "val"):
        for place in _places(info.get(needed)):
            if not os.path.exists(place):
                raise SlimError(
                    f"cannot use the data set {data}: its '{needed}' images are not at {place}, and nothing is "
                    "downloaded here: put them there, or correct `path` in the YAML"
                )
    one = {"names": dict(ONE), "nc": 1} if single_cls else {}
    return {**info, "path": root, **one}


def dataset_for(
    detector: Detector, data: str | Path, whose: str = "the detector", *, single_cls: bool = False
) -> dict[str, Any]:
    """`dataset_info` as a detector takes it: with one class, if it was trained so, or is to be.

    Raises:
        SlimError: as `dataset_info`; or the detector's classes have other names, or its images other channels.
    """
    single, head = single_cls or one_class(detector), classes_of(detector)
    info = dataset_info(data, single_cls=single)
    if not single or head != 1:
        names = detector.names if len(detector.names) == head else {i: str(i) for i in range(head)}
        check_names(names, info["names"], whose, str(data))
    _check_channels(image_channels(detector), info, whose, str(data))
    return info


def _check_channels(reads: int, info: dict[str, Any], whose: str, data: str) -> None:
    if (has := info["channels"]) != reads:
        raise SlimError(
            f"{whose} reads images of {reads} channels, but those of {data} have {has}: give the data set that it was "
            f"trained on, or say `channels: {reads}` in the YAML, if its files have as many"
        )


def images_of(info: dict[str, Any], split: str, imgsz: int, batch: int = 16, *, single_cls: bool = False) -> Any:
    """Ultralytics' data set of a split, not augmented.

    Raises:
        SlimError: the split is not there, or no image in it can be read.
    """
    data = info["yaml_file"]
    if not info.get(split):
        raise SlimError(f"{data} has no '{split}' images")
    args = get_cfg(
        overrides={
            "imgsz": imgsz,
            "task": "detect",
            "mode": "val",
            "data": data,
            "rect": False,
            "single_cls": single_cls,
        }
    )
    try:
        return build_yolo_dataset(args, info[split], batch, info, mode="val", rect=False)  # type: ignore[arg-type]
    except (OSError, RuntimeError, AssertionError) as e:
        raise SlimError(f"cannot read the '{split}' images of {data}: {remove_colorstr(str(e))}") from e


def split_facts(data: str | Path, split: str, *, single_cls: bool = False) -> Split:
    """How much there is in a split; its labels come from their cache where that is up to date.

    Raises:
        SlimError: as `images_of`.
    """
    info = dataset_info(data, split, single_cls=single_cls)
    boxes = [len(label["cls"]) for label in images_of(info, split, 32, single_cls=single_cls).labels]
    return Split(len(boxes), sum(map(bool, boxes)), sum(boxes))


def labelled(data: str | Path, split: str) -> bool:
    """Whether any image of a split has a label.

    Raises:
        SlimError: as `images_of`.
    """
    return split_facts(data, split).labelled > 0


def _found(data: str | Path) -> Path:
    """The YAML.

    Raises:
        SlimError: there is none, or several.
    """
    given = str(data)
    refusal = f"cannot use the data set {given}: "
    if not os.path.exists(given) and (said := elsewhere(given)):
        raise SlimError(refusal + said)
    if "\0" in given:
        raise SlimError(f"{refusal}no path holds a NUL")
    path = Path(given)
    if os.path.isdir(given):
        return _in_folder(path, refusal)
    if not os.path.exists(given):
        path = next((p for p in _stock(given) if p.is_file()), path)
    if not os.path.exists(path):
        raise SlimError(f"{refusal}it does not exist")
    if not path.is_file() or path.suffix.lower() not in YAMLS:
        what = elsewhere(given) or "it is no YAML file"
        raise SlimError(f"{refusal}{what}; expected a data-set YAML, or a folder that holds one")
    return path


def _stock(name: str) -> Iterator[Path]:
    """Ultralytics comes with descriptions of well-known data sets, such as coco8.yaml."""
    if name == Path(name).name:
        yield from (ROOT / "cfg" / "datasets" / f"{name}{end}" for end in ("", *YAMLS))


def _in_folder(folder: Path, refusal: str) -> Path:
    try:
        return find_dataset_yaml(folder)
    except AssertionError as e:
        found = ", ".join(sorted(p.name for end in YAMLS for p in folder.glob(f"*{end}"))) or "none"
        raise SlimError(f"{refusal}expected one YAML in this folder, found {found}: give the YAML itself") from e
    except OSError as e:
        raise SlimError(f"{refusal}{e.filename or folder}: {e.strerror or e}") from e


def _root(info: dict[str, Any], file: Path) -> Path:
    """What paths in the YAML start from: `path`, from the working directory or Ultralytics' data folder, or its own."""
    root = Path(info.get("path") or file.parent)
    if not os.path.exists(root) and not root.is_absolute():
        return Path(os.path.realpath(DATASETS_DIR / root))
    return root


def _placed(root: Path, place: str) -> str:
    found = os.path.realpath(root / place)
    if not os.path.exists(found) and place.startswith("../"):
        return os.path.realpath(root / place[3:])
    return found


def _places(split: str | list[str] | None) -> list[str]:
    return split if isinstance(split, list) else [split] if split else []
