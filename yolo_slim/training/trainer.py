"""SlimTrainer: Ultralytics' trainer that trains the detector it is given, whatever its widths.

The stock trainer rebuilds the network from its YAML, at full width, and copies what fits. This one keeps the module.
It also keeps the live weights beside their average in `last.pt`, so that a resumed run goes on from where it was (the
stock one goes on from the fp16 average), averages over a fair part of a short training as well, reads checkpoints
restricted, and writes them whole or not at all.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import nn
from ultralytics.utils import LOGGER, RANK, remove_colorstr
from ultralytics.utils.torch_utils import strip_optimizer

from yolo_slim import checkpoint
from yolo_slim.data import LocalValidator, dataset_info, one_class
from yolo_slim.data.facts import dataset_for
from yolo_slim.data.names import is_nameless, numbered
from yolo_slim.errors import SlimError, no_images, why
from yolo_slim.formats.building import description
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.families import known_family
from yolo_slim.measure import THREADS
from yolo_slim.training import fonts, trackers
from yolo_slim.training.recovery import RecoveringTrainer
from yolo_slim.training.resuming import MARK, StartAfresh, mark_of

fonts.keep_local()


class SlimTrainer(RecoveringTrainer):
    """Train a detector at the widths it has: `YOLO("slim.pt").train(trainer=SlimTrainer, data=..., epochs=...)`.

    Raises:
        SlimError: the data set is not here, names classes otherwise than the detector or has images of other channels;
            or see `RecoveringTrainer`.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        """As Ultralytics' trainer, but that what it reads is checked first."""
        place = (named.get("overrides") or {}).get("save_dir")
        with checkpoint.reading_for_ultralytics(), trackers.attached(place) as tracked:
            super().__init__(*args, **named)
        if tracked:
            self.args.project, self.args.name = tracked["run"], tracked["stage"]

    def train(self) -> None:
        """As Ultralytics' trainer, but that what it reads is checked first."""
        with checkpoint.reading_for_ultralytics():
            super().train()

    def get_model(
        self, cfg: str | dict | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> nn.Module:
        """The module that was loaded, not one rebuilt from its YAML; without weights, a new one from the YAML."""
        if weights is None:
            if isinstance(cfg, dict) and "slim" in cfg:
                raise SlimError("a slim detector cannot be rebuilt from its YAML: pretrained=False needs full width")
            checked = description(cfg or {}, self.data["channels"])
            return super().get_model(cfg=checked, weights=None, verbose=verbose)
        detector = cast(Detector, weights)
        self.args.single_cls = self.args.single_cls or one_class(detector)
        self.data = dataset_for(detector, self.args.data, single_cls=self.args.single_cls)
        if not is_nameless(numbered(detector.names)):
            self.data["names"] = numbered(detector.names)
        detector.criterion = None
        return detector.float().requires_grad_(True)

    def get_dataset(self) -> dict[str, Any]:
        """The data set as Ultralytics reads it; nothing is downloaded or run for it."""
        data = dataset_info(self.args.data, self.args.split, single_cls=self.args.single_cls)
        self.args.data = data["yaml_file"]
        return data

    def get_validator(self) -> LocalValidator:
        """Ultralytics', for a data set of this machine."""
        return LocalValidator(self.test_loader, self.save_dir, copy(self.args), self.callbacks)

    def setup_model(self) -> dict[str, Any] | None:
        """Load the detector through the safe loader."""
        if isinstance(self.model, nn.Module):
            return None
        if not checkpoint.is_stored(self.model):
            return super().setup_model()
        if isinstance(self.args.pretrained, (str, Path)) and not self.resume:
            raise SlimError(
                f"pretrained={self.args.pretrained} names other weights than model={self.model}, which is what is "
                "trained: leave one of them out"
            )
        ckpt = checkpoint.read(self.model)
        detector = checkpoint.detector_of(ckpt, self.model)
        untrained = self.args.pretrained is False and not self.resume
        if untrained and not (family := known_family(detector, str(self.model))).rebuilds:
            raise SlimError(
                f"pretrained=False builds a detector anew from its YAML, and {self.model} is of {family.name}, whose "
                "YAMLs are not built here: leave it out, or train from scratch there"
            )
        self.model = self.get_model(cfg=detector.yaml, weights=None if untrained else detector)
        return ckpt

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """As Ultralytics'.

        Raises:
            StartAfresh: the checkpoint is not of this training.
        """
        try:
            super().resume_training(ckpt)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
            raise StartAfresh(f"{self.last} does not fit this training ({type(e).__name__}: {e})") from e

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        """On a resume, and when an epoch is done again: the live weights go back too."""
        super()._load_checkpoint_state(ckpt)
        if ckpt.get("live"):
            self.detector.load_state_dict(ckpt["live"])
        self._average_fairly()

    def _do_train(self) -> None:
        # Ultralytics refuses amp=bf16 on a CPU. Where that has AMX, a step takes half to two thirds of the time.
        with patch("ultralytics.engine.trainer.autocast", _autocast):
            super()._do_train()

    def _setup_train(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(THREADS)  # Ultralytics leaves a core to data loaders, which it has none of on a CPU
        self.mark = mark_of(Path(self.save_dir))
        # Ultralytics' AMP check downloads a model to compare with; AMP is kept or switched off by `amp` alone.
        no_check = patch("ultralytics.engine.trainer.check_amp", lambda model: next(model.parameters()).is_cuda)
        with no_check:
            super()._setup_train()
        if self.device.type == "cpu":
            # As Ultralytics does on CUDA: a step takes a fifth less time, with amp=bf16 four tenths.
            self.detector.to(memory_format=torch.channels_last)
        self._average_fairly()

    def _average_fairly(self) -> None:
        """Let the average of the weights follow `decay`; also when Ultralytics makes a new one after a NaN."""
        if self.ema:
            self.ema.decay = self.decay

    @staticmethod
    def decay(updates: int) -> float:
        """How much of the average stays at an update: two thirds of it come from the last quarter of the updates.

        Polynomial-decay averaging: Shamir & Zhang, ICML 2013, arXiv:1212.1824, section 4, with eta = 3. Ultralytics'
        0.9999 (1 - exp(-n / 2000)) is made for long trainings: after 260 updates it spans eight. Its bound holds here.
        """
        return min(1 - 4 / (updates + 3), 0.9999)

    def save_model(self) -> bool:
        """Write last.pt (and best.pt), with the live weights and whatever a subclass adds; whole or not at all."""
        last, best = self.last, self.best
        self.last, self.best = (p.with_name(f".{p.stem}.part.pt") for p in (last, best))
        for part in (self.last, self.best):
            part.unlink(missing_ok=True)  # left behind by a kill
        ckpt: dict[str, Any] = {}
        try:
            with checkpoint.saving_for_ultralytics(ckpt, **{MARK: self.mark}):
                super().save_model()
            if ckpt:
                checkpoint.write({**ckpt, "live": self.live_state(), **self.extra_state()}, self.last)
            # Renamed only when all is on the disk, and last.pt last: it says how far the training is.
            for part, final in ((self.best, best), (self.last, last)):
                if part.exists():
                    _settle(part, final)
        except OSError as e:
            raise SlimError(f"cannot write {last}: {why(e, last)}. The last whole epoch is kept") from e
        finally:
            for part in (self.last, self.best):
                with suppress(OSError):
                    part.unlink(missing_ok=True)
            self.last, self.best = last, best
        return True

    def final_eval(self) -> None:
        """Strip best.pt of its optimizer, whole or not at all, and validate it. last.pt stays as it is."""
        if RANK not in {-1, 0} or not self.best.exists():
            return
        part = self.best.with_name(f".{self.best.stem}.part.pt")
        with checkpoint.saving_for_ultralytics():
            strip_optimizer(self.best, s=str(part))
        _settle(part, self.best)
        LOGGER.info(f"\nValidating {self.best}...")
        self.validator.args.plots = self.args.plots
        self.metrics = self.validator(model=checkpoint.load(self.best))
        self.metrics.pop("fitness", None)
        self.epoch += 1  # log best metrics at step epochs + 1, as Ultralytics does
        self.run_callbacks("on_fit_epoch_end")
        self.epoch -= 1


def _autocast(enabled: bool | torch.dtype, device: str = "cuda") -> torch.autocast:
    dtype = enabled if isinstance(enabled, torch.dtype) else None
    return torch.autocast(device, dtype=dtype, enabled=bool(enabled))


def _settle(part: Path, final: Path) -> None:
    """Give a file its name, once all of it is on the disk: a power cut leaves the old one or the new one."""
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(part, final)


def train(
    trainer_class: type[SlimTrainer], model: Path | str, save_dir: Path, resume: bool, **args: Any
) -> SlimTrainer:
    """Run a trainer into `save_dir`, or go on with it from its last epoch.

    Raises:
        StartAfresh: what is there is not of this training.
        SlimError: Ultralytics refuses the settings or the data set, or the training broke down.
    """
    last = save_dir / "weights" / "last.pt"
    overrides = {"task": "detect", "mode": "train", "model": str(model), "save_dir": str(save_dir), **args}
    if resume:
        overrides["resume"] = str(last)
    try:
        trainer = trainer_class(overrides=overrides)
    except (RuntimeError, FileNotFoundError, SyntaxError, ValueError, TypeError) as e:
        if isinstance(e.__cause__, SlimError):  # to Ultralytics, a checkpoint that is refused "was not found"
            raise e.__cause__ from e
        raise SlimError(f"Ultralytics cannot start this training: {e}") from e
    try:
        trainer.train()
    except OSError as e:
        reason = why(e) if e.errno else remove_colorstr(str(e))
        raise SlimError(f"training stopped at {e.filename or save_dir}: {reason}") from e
    except subprocess.CalledProcessError as e:
        raise SlimError(f"training stopped at {save_dir}: a worker ended with {e.returncode}; it says why above") from e
    except RuntimeError as e:
        if not no_images(e):
            raise
        raise SlimError(f"training stopped at {save_dir}: {remove_colorstr(str(e))}") from e
    return trainer
