"""SteppingTrainer: a training that knows how far it is, and goes on from there when it is resumed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from yolo_slim.training.trainer import SlimTrainer


class SteppingTrainer(SlimTrainer):
    """SlimTrainer that counts its batches and the steps of its optimizer.

    What acts once a step does so from hooks that the optimizer calls inside its own step: after gradients are unscaled
    and clipped, once a step whatever the accumulation, and not at all when AMP skips the step.
    """

    def _setup_train(self) -> None:
        self.batches, self.progress, self.stepped_to, self.steps = 0, 0.0, 0.0, 0
        super()._setup_train()
        self.add_callback("on_train_epoch_start", SteppingTrainer._count_from_none)
        self.add_callback("on_train_batch_start", SteppingTrainer._count_batch)

    def extra_state(self) -> dict[str, Any]:
        """How far training has come: steps may lie batches behind the end of the epoch."""
        return {**super().extra_state(), "stepped_to": self.stepped_to, "steps": self.steps}

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.stepped_to, self.steps = ckpt["stepped_to"], ckpt["steps"]

    def _count_from_none(self) -> None:
        self.batches = 0

    def _count_batch(self) -> None:
        self.batches += 1
        self.progress = (self.epoch + self.batches / len(self.train_loader)) / self.epochs

    def stepped(self, optimizer: torch.optim.Optimizer) -> bool:
        """Count a step, up to `stepped_to`; no when a fused optimizer has found infinities and does nothing."""
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return False
        # Out of memory in the first epoch, Ultralytics begins it again with the weights as they are: never back.
        self.stepped_to = max(self.progress, self.stepped_to)
        self.steps += 1
        return True


def train_beside(optimizer: torch.optim.Optimizer, own: list[nn.Parameter]) -> None:
    """Let an optimizer of Ultralytics train what is no part of the detector, in a group of its own.

    Momentum, betas and all are as batch norms have them; MuSGD trains some of those at three times the rate.
    """
    norms = min((g for g in optimizer.param_groups if g["param_group"] == "bn"), key=lambda g: g["lr"])
    optimizer.add_param_group({**norms, "params": own, "weight_decay": 0.0})
