"""SlimTrainer: Ultralytics' trainer that trains the detector it is given, whatever its widths.

The stock trainer rebuilds the network from its YAML, at full width, and copies what fits. This one keeps the module.
It also keeps the live weights beside their average in `last.pt`, so that a resumed run goes on from where it was (the
stock one goes on from the fp16 average), averages over a fair part of a short training as well, and writes checkpoints
whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOGGER, RANK, remove_colorstr
from ultralytics.utils.torch_utils import strip_optimizer, unwrap_model

from yolo_slim import checkpoint
from yolo_slim.channels import image_channels
from yolo_slim.errors import SlimError, no_images
from yolo_slim.training.calibrate import check_channels

THREADS = torch.get_num_threads()
"""torch's own choice. Ultralytics lowers it by one to leave a core to data loaders, which on a CPU it does not use."""


class SlimTrainer(DetectionTrainer):
    """Train a detector at the widths it has: `YOLO("slim.pt").train(trainer=SlimTrainer, data=..., epochs=...)`.

    Raises:
        SlimError: the data set has another number of classes than the detector, or images of other channels.
    """

    def get_model(
        self, cfg: str | dict | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> nn.Module:
        """The module that was loaded, not one rebuilt from its YAML; without weights, a new one from the YAML."""
        if weights is None:
            if isinstance(cfg, dict) and "slim" in cfg:
                raise SlimError("a slim detector cannot be rebuilt from its YAML: pretrained=False needs full width")
            return super().get_model(cfg=cfg, weights=None, verbose=verbose)
        expected, got = weights.model[-1].nc, self.data["nc"]
        if expected != got:
            raise SlimError(
                f"the detector was trained for {expected} classes, but {self.args.data} names {got}. "
                "Use the data set it was trained on, or train a detector for this one first"
            )
        check_channels(image_channels(weights), self.data["channels"], self.args.data)
        weights.criterion = None
        return weights.float().requires_grad_(True)

    def setup_model(self) -> dict[str, Any] | None:
        """Load the detector through the safe loader."""
        if isinstance(self.model, nn.Module):
            return None
        if not str(self.model).endswith(".pt"):
            return super().setup_model()
        ckpt = checkpoint.read(self.model)
        detector = checkpoint.detector_of(ckpt, self.model)
        untrained = self.args.pretrained is False and not self.resume
        self.model = self.get_model(cfg=detector.yaml, weights=None if untrained else detector)
        return ckpt

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        """On a resume, and when Ultralytics goes back to last.pt after a NaN: the live weights go back too."""
        super()._load_checkpoint_state(ckpt)
        if ckpt.get("live"):
            unwrap_model(self.model).load_state_dict(ckpt["live"])
        self._average_fairly()

    def _do_train(self) -> None:
        # Ultralytics refuses amp=bf16 on a CPU. Where that has AMX, a step takes half to two thirds of the time.
        with patch("ultralytics.engine.trainer.autocast", _autocast):
            super()._do_train()

    def _setup_train(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(THREADS)
        # Ultralytics' AMP check downloads a model to compare with; AMP is kept or switched off by `amp` alone.
        with patch("ultralytics.engine.trainer.check_amp", lambda model: next(model.parameters()).is_cuda):
            super()._setup_train()
        if self.device.type == "cpu":
            # As Ultralytics does on CUDA: a step takes a fifth less time, with amp=bf16 four tenths.
            unwrap_model(self.model).to(memory_format=torch.channels_last)
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

    def extra_state(self) -> dict[str, Any]:
        """What a subclass must find again when training resumes; plain values and tensors."""
        return {}

    def live_state(self) -> dict[str, torch.Tensor]:
        """The live weights as they are now, on the CPU, under the names the saved detector has."""
        names = self.ema.ema.state_dict().keys()
        state = unwrap_model(self.model).state_dict()
        return {name: state[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in names}

    def save_model(self) -> bool:
        """Write last.pt (and best.pt), with the live weights and whatever a subclass adds; whole or not at all."""
        last, best = self.last, self.best
        self.last, self.best = (p.with_name(f".{p.stem}.part.pt") for p in (last, best))
        for part in (self.last, self.best):
            part.unlink(missing_ok=True)  # left behind by a kill
        try:
            super().save_model()
            ckpt = checkpoint.read(self.last)
            checkpoint.write_whole({**ckpt, "live": self.live_state(), **self.extra_state()}, self.last)
            # Renamed only when all is on the disk, and last.pt last: it says how far the training is.
            for part, final in ((self.best, best), (self.last, last)):
                if part.exists():
                    os.replace(part, final)
        except OSError as e:
            raise SlimError(
                f"cannot write {last}: {e.strerror or e}. The last whole epoch is kept; free some space"
            ) from e
        finally:
            for part in (self.last, self.best):
                part.unlink(missing_ok=True)
            self.last, self.best = last, best
        return True

    def final_eval(self) -> None:
        """Strip best.pt of its optimizer, whole or not at all, and validate it. last.pt stays as it is."""
        if RANK not in {-1, 0} or not self.best.exists():
            return
        part = self.best.with_name(f".{self.best.stem}.part.pt")
        strip_optimizer(self.best, s=str(part))
        os.replace(part, self.best)
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


def train(
    trainer_class: type[SlimTrainer], model: Path | str, save_dir: Path, resume: bool, **args: Any
) -> SlimTrainer:
    """Run a trainer into `save_dir`, or go on with it from its last epoch.

    Raises:
        SlimError: Ultralytics refuses the settings or the data set.
    """
    last = save_dir / "weights" / "last.pt"
    overrides = {"task": "detect", "mode": "train", "model": str(model), "save_dir": str(save_dir), **args}
    if resume:
        overrides["resume"] = str(last)
    try:
        trainer = trainer_class(overrides=overrides)
    except (RuntimeError, FileNotFoundError, SyntaxError, ValueError, TypeError) as e:
        raise SlimError(f"Ultralytics cannot start this training: {e}") from e
    try:
        trainer.train()
    except OSError as e:
        why = e.strerror or remove_colorstr(str(e))
        raise SlimError(f"training stopped at {e.filename or save_dir}: {why}") from e
    except RuntimeError as e:
        if not no_images(e):
            raise
        raise SlimError(f"training stopped at {save_dir}: {remove_colorstr(str(e))}") from e
    return trainer
