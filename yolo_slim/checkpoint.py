"""How detectors are stored: the only file that knows.

Reading goes through Ultralytics' safe loader alone (`weights_only` with its allow-list). What is written loads with
stock `ultralytics.YOLO(path)` on a machine without this package.
"""

from __future__ import annotations

import copy
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import __version__ as ultralytics_version
from ultralytics.nn.tasks import DetectionModel, guess_model_task, torch_safe_load, yaml_model_load
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.checks import check_yolov5u_filename

from yolo_slim.errors import SlimError

CARD = "yolo_slim"
"""The entry of a checkpoint that holds its model card. Ultralytics leaves it alone."""

STOCK_TRAINER_STOP = (
    "this detector is slim, and the stock trainer would rebuild it at full width: "
    "train it with YOLO(...).train(trainer=yolo_slim.SlimTrainer, ...)"
)
"""Stands where a model YAML names its first layer, so that the stock trainer stops and says so."""


def load(path: str | Path) -> nn.Module:
    """Read a detector: fp32, eval mode, every parameter trainable.

    Args:
        path: an Ultralytics detection checkpoint `.pt`, or a model `.yaml` for an untrained detector.

    Raises:
        SlimError: the file is missing, damaged, names code outside the allow-list, holds no detector, or one that is
            fused or made for another task.
    """
    if str(path).endswith((".yaml", ".yml")):
        return build(str(path))
    detector = detector_of(read(path), path)
    detector.pt_path = str(path)
    return detector


def build(model_yaml: str, classes: int | None = None) -> nn.Module:
    """An untrained detector from a model YAML, such as `yolov5n.yaml`; `classes`: another number than it says."""
    try:
        described = yaml_model_load(model_yaml)
        colours = described.get("channels", described.get("ch", 3))  # Ultralytics would take 3 for granted
        detector = DetectionModel(described, ch=colours, nc=classes, verbose=False)
    except FileNotFoundError as e:
        raise SlimError(
            f"expected a model YAML, found no file {model_yaml} (Ultralytics knows yolov5n.yaml etc.)"
        ) from e
    except Exception as e:
        raise SlimError(f"cannot build a detector from {model_yaml}: {type(e).__name__}: {e}") from e
    if (task := guess_model_task(detector.yaml)) != "detect":
        raise SlimError(f"expected a detection model in {model_yaml}, got one to {task}: that is not supported")
    detector.args = {**DEFAULT_CFG_DICT, "model": model_yaml}
    return detector.eval()


def read(path: str | Path) -> dict[str, Any]:
    """The checkpoint's dict, read safely.

    Raises:
        SlimError: missing, damaged, or naming code outside the allow-list.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.pt"))[:5] if path.parent.is_dir() else []
        hint = f"; in that folder: {', '.join(near)}" if near else ""
        raise SlimError(f"no checkpoint at {path}{hint}")
    if path.suffix != ".pt":
        raise SlimError(f"expected an Ultralytics checkpoint ending in .pt or a model .yaml, got {path}")
    with _plain_name(path) as file, _quiet_torch():
        try:
            ckpt, _ = torch_safe_load(file, safe_only=True)
        except Exception as e:
            raise SlimError(_why_unreadable(path, e)) from e
    if not isinstance(ckpt, dict):
        raise SlimError(f"expected an Ultralytics checkpoint at {path}, got a {type(ckpt).__name__}")
    return ckpt


@contextmanager
def _plain_name(path: Path) -> Iterator[Path]:
    """Ultralytics looks a file named like `yolov5n.pt` up as `yolov5nu.pt`, then online: give it another name."""
    if check_yolov5u_filename(str(path), verbose=False) == str(path) == str(path).strip().replace("'", ""):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        alias = Path(folder) / "checkpoint.pt"
        alias.symlink_to(path.resolve())
        yield alias


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Loading never goes online, whatever a file is called."""
    before = os.environ.get("YOLO_OFFLINE")
    os.environ["YOLO_OFFLINE"] = "true"
    try:
        yield
    finally:
        os.environ.pop("YOLO_OFFLINE")
        if before is not None:
            os.environ["YOLO_OFFLINE"] = before


def _why_unreadable(path: Path, error: Exception) -> str:
    chain = " ".join(str(e) for e in (error, error.__cause__, error.__context__) if e is not None)
    foreign = re.search(r"(?:GLOBAL|global) ([\w.]+(?:\.[\w]+)+)", chain)
    if foreign:
        named = foreign.group(1)
        old = " (a checkpoint of the older ultralytics/yolov5 repository)" if named.startswith("models.") else ""
        return (
            f"{path} names {named}, which is not part of Ultralytics' checkpoint format{old}: refused, since loading "
            "it would run that code. Train or convert it with the `ultralytics` package first"
        )
    if "TorchScript archive" in chain:
        return f"{path} is a TorchScript export: give the checkpoint that it was exported from"
    if isinstance(error, AttributeError):  # loaded, but no dict and no module
        return f"expected an Ultralytics checkpoint at {path}, found something else: {error}"
    return f"{path} is not a readable checkpoint: empty, truncated or damaged ({type(error).__name__}). Copy it again"


def detector_of(ckpt: dict[str, Any], path: str | Path) -> nn.Module:
    """The detector in a checkpoint, in fp32; the average of the weights where there is one, as Ultralytics does.

    Raises:
        SlimError: none in it, or one we cannot slim.
    """
    detector = ckpt.get("ema") or ckpt.get("model")
    if not isinstance(detector, nn.Module):
        raise SlimError(f"{path} holds no detector under 'model' or 'ema', only {', '.join(map(str, list(ckpt)[:6]))}")
    if type(detector) is not DetectionModel:
        task = type(detector).__name__.removesuffix("Model")
        raise SlimError(f"expected a detection model in {path}, got {type(detector).__name__}: {task} is not supported")
    if not any(isinstance(m, nn.BatchNorm2d) for m in detector.modules()):
        raise SlimError(
            f"{path} is fused: its batch norms are merged into the convolutions, so there is nothing to score or to "
            "recalibrate. Use the checkpoint that training wrote (best.pt), not a fused or exported one"
        )
    detector.args = {**DEFAULT_CFG_DICT, **dict(ckpt.get("train_args") or {})}
    detector.task = "detect"
    detector.criterion = None
    return detector.float().eval().requires_grad_(True)


def save(detector: nn.Module, path: str | Path, **extra: Any) -> Path:
    """Write a detector as Ultralytics writes a finished training: fp16, no optimizer, whole or not at all.

    Args:
        detector: as `load` returns it; left alone.
        path: ends in `.pt`.
        extra: further plain entries of the checkpoint's dict.

    Raises:
        SlimError: a name that Ultralytics would look up as another file, or a disk that cannot take it.
    """
    path = Path(path)
    if check_yolov5u_filename(path.name, verbose=False) != path.name:
        raise SlimError(f"{path.name} would be looked up by Ultralytics under another name: choose a name like slim.pt")
    write_whole({**_content(detector), **extra}, path)
    return path


def card(path: str | Path) -> dict[str, Any]:
    """The model card in a checkpoint: where it comes from, and each step on the way; empty: it has none."""
    found = read(path).get(CARD)
    return found if isinstance(found, dict) else {}


def inscribe(path: Path, card: dict[str, Any]) -> None:
    """Write a card of plain values into a checkpoint, which stays as it is otherwise."""
    write_whole({**read(path), CARD: card}, path)


def file_bytes(detector: nn.Module) -> int:
    """How large a file `save` would write."""
    file = io.BytesIO()
    torch.save(_content(detector), file)
    return file.tell()


def _content(detector: nn.Module) -> dict[str, Any]:
    stored = copy.deepcopy(detector).cpu().half().eval().requires_grad_(False)
    stored.criterion = None
    args = stored.args if isinstance(stored.args, dict) else vars(stored.args)
    stored.args = {k: v for k, v in args.items() if k in DEFAULT_CFG_DICT}
    for tensor in stored.state_dict().values():  # a running variance beyond fp16 becomes its largest number
        if tensor.is_floating_point():
            torch.nan_to_num_(tensor)
    return {
        "date": datetime.now(timezone.utc).isoformat(),
        "version": ultralytics_version,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "epoch": -1,
        "best_fitness": None,
        "model": stored,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": stored.args,
    }


def write_whole(ckpt: dict[str, Any], path: Path) -> None:
    """Save to a temporary name and rename: the file is either the old one or all of the new one.

    Raises:
        SlimError: the disk is full or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(ckpt, file)
        part.replace(path)
    except (OSError, RuntimeError) as e:
        raise SlimError(f"cannot write {path}: {e}. Nothing was changed; free some space and run it again") from e
    finally:
        part.unlink(missing_ok=True)


def mark_slim(detector: nn.Module, kept: dict[str, list[int]]) -> None:
    """Note in the detector that its widths are not its YAML's, so that the stock trainer stops instead of regrowing it.

    `detector.yaml` keeps the full description under `slim`, with the cut: convolution -> outputs kept, of `full`;
    none are kept of the convolutions of a residual branch that was taken out.
    Cutting a second time keeps the indices of each cut in order.
    """
    full = detector.yaml.get("slim", {}).get("full") or {k: detector.yaml[k] for k in ("backbone", "head")}
    cuts = [*detector.yaml.get("slim", {}).get("cuts", []), kept]
    detector.yaml = {
        **detector.yaml,
        "backbone": [[-1, 1, STOCK_TRAINER_STOP, []]],
        "slim": {"full": full, "cuts": cuts},
    }


def is_slim(detector: nn.Module) -> bool:
    """Whether `mark_slim` was here."""
    return "slim" in (getattr(detector, "yaml", None) or {})
