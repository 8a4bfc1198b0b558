"""A detector and a data set small enough to train for real in a second, and a way to run each trainer on them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")

import torch
import yaml
from torch import nn
from ultralytics.utils.torch_utils import unwrap_model

from yolo_slim import checkpoint
from yolo_slim.channels import Trace, trace
from yolo_slim.training.trainer import SlimTrainer, train

PX = 64
BATCH = 4
TRAIN = 12  # images, so three batches an epoch
BATCHES = TRAIN // BATCH
CLASSES = 4

# YOLOv5 in small: stem, C3 with shortcuts, SPPF, upsampling and concatenation, two levels of Detect.
YAML = f"""
nc: {CLASSES}
backbone:
  - [-1, 1, Conv, [8, 6, 2, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [24, 3, 2]]
  - [-1, 2, C3, [32]]
  - [-1, 1, Conv, [48, 3, 2]]
  - [-1, 1, SPPF, [48, 5]]
head:
  - [-1, 1, Conv, [32, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 3], 1, Concat, [1]]
  - [-1, 1, Conv, [32, 1]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 1, Conv, [48, 1, 1]]
  - [[9, 12], 1, Detect, [nc]]
"""
ARGUMENTS = {
    "imgsz": PX,
    "batch": BATCH,
    "nbs": BATCH,
    "device": "cpu",
    "plots": False,
    "optimizer": "SGD",
    "lr0": 0.01,
}


def draw_shapes(folder: Path, *, train: int = TRAIN, val: int = 4, test: int = 2, seed: int = 0) -> str:
    """The data-set YAML of a new small set under `folder`."""
    path = Path(__file__).parents[1] / "scripts" / "make_shapes.py"
    spec = importlib.util.spec_from_file_location("make_shapes", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return str(module.draw(folder / "shapes", train=train, val=val, test=test, imgsz=PX, seed=seed))


def write_yaml(folder: Path, text: str = YAML) -> str:
    """A model YAML of the tiny detector."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return str(path)


def tiny(folder: Path, text: str = YAML, seed: int = 0) -> nn.Module:
    """An untrained tiny detector."""
    torch.manual_seed(seed)
    return checkpoint.build(write_yaml(folder, text))


def saved(detector: nn.Module, path: Path) -> Path:
    """The detector's checkpoint, in a folder made for it."""
    return checkpoint.save(detector, path)


def fit(
    trainer: type[SlimTrainer],
    model: Path | str,
    run: Path,
    data: str,
    *,
    epochs: int = 2,
    resume: bool = False,
    files: dict[str, Any] | None = None,
    **arguments: Any,
) -> SlimTrainer:
    """Train into `run`; `files` are written there first: name -> content as YAML."""
    run.mkdir(parents=True, exist_ok=True)
    for name, content in (files or {}).items():
        (run / name).write_text(yaml.safe_dump(content))
    return train(trainer, model, run, resume, data=data, epochs=epochs, **{**ARGUMENTS, **arguments})


class Killed(BaseException):
    """Stands for a kill: nothing in between may catch it."""


def killed_after(trainer: type[SlimTrainer], epoch: int, event: str = "on_model_save") -> type[SlimTrainer]:
    """The trainer, dying at `event` of this epoch (counted from 1); by default with its checkpoint just written."""

    class Mortal(trainer):
        def _setup_train(self) -> None:
            super()._setup_train()
            self.add_callback(event, Mortal._die)

        def _die(self) -> None:
            if self.epoch + 1 == epoch:
                raise Killed

    return Mortal


def watched(trainer: type[SlimTrainer], watch: Callable[[SlimTrainer], None], event: str) -> type[SlimTrainer]:
    """The trainer, with a callback at one of Ultralytics' events."""

    class Watched(trainer):
        def _setup_train(self) -> None:
            super()._setup_train()
            self.add_callback(event, watch)

    return Watched


def live(trainer: SlimTrainer) -> dict[str, torch.Tensor]:
    """A copy of the state of the module being trained."""
    return {k: v.detach().clone() for k, v in unwrap_model(trainer.model).state_dict().items()}


def widths(detector: nn.Module) -> dict[str, tuple[int, int]]:
    """Convolution -> (in, out) channels."""
    return {n: (m.in_channels, m.out_channels) for n, m in detector.named_modules() if isinstance(m, nn.Conv2d)}


def free_norms(wiring: Trace) -> set[str]:
    """Batch norms all of whose scales the penalty may move."""
    return {name for group in wiring.free for name in group.norms}


def wiring_of(detector: nn.Module) -> Trace:
    """The trace at the size these tests train at."""
    return trace(detector, PX)
