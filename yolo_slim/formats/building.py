"""Untrained detectors of a model YAML, which is looked at before anything is built from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.model_yaml import check_description, check_runs, described, own_activation


def build(model_yaml: str, classes: int | None = None) -> Detector:
    """An untrained detector from a model YAML, such as `yolov5n.yaml`; `classes`: another number than it says.

    Raises:
        SlimError: there is none, or it describes no detector.
    """
    try:
        found = description(model_yaml)
        channels = found.get("channels", found.get("ch", 3))  # Ultralytics would take 3 for granted
        with own_activation():
            detector = Detector(found, ch=channels, nc=classes, verbose=False)
    except SlimError:
        raise
    except Exception as e:
        raise SlimError(f"cannot build a detector from {model_yaml}: {type(e).__name__}: {e}") from e
    detector.args = {**DEFAULT_CFG_DICT, "model": model_yaml}
    return detector.eval()


def description(model: str | dict[str, Any], channels: int | None = None) -> dict[str, Any]:
    """What a model YAML says, or one that was read before: nothing in it is evaluated, and it can be built and run.

    Raises:
        SlimError: there is none, or it describes no detector.
    """
    named = model if isinstance(model, str) else model.get("yaml_file", "a description")
    try:
        if isinstance(model, str):
            check_local(model)
            found = described(model)
        else:
            check_description(found := model)
        check_runs(found, channels or found.get("channels", found.get("ch", 3)))
    except SlimError as e:
        raise SlimError(f"cannot build a detector from {named}: it {e}") from e
    return found


def check_local(path: str | Path) -> None:
    """Refuse what is no path of this machine: nothing is downloaded.

    Raises:
        SlimError: what to do instead.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE):
        raise SlimError(f"{path} is an address, and nothing is downloaded here: download it, and give the file's path")


def check_there(path: str | Path) -> None:
    """Refuse what is no file of this machine.

    Raises:
        SlimError: what there is instead.
    """
    check_local(path)
    try:
        if not Path(path).is_file():
            raise SlimError(_not_there(Path(path)))
    except OSError as e:  # a name that is too long, say
        raise SlimError(f"no checkpoint at {path!s:.100}: {e.strerror or e}") from e


def _not_there(path: Path) -> str:
    if path.exists():
        return f"expected a checkpoint at {path}, found a {'folder' if path.is_dir() else 'file of another kind'}"
    near = sorted(p.name for p in path.parent.glob("*.pt"))[:5] if path.parent.is_dir() else []
    hint = f"; in that folder: {', '.join(near)}" if near else ""
    if path.name in GITHUB_ASSETS_NAMES:
        hint += f". Nothing is downloaded here: {path.name} is among https://github.com/ultralytics/assets/releases"
    return f"no checkpoint at {path}{hint}"
