"""SparseTrainer: training under a pull on the batch-norm scales, one pull an optimizer step."""

from __future__ import annotations

from typing import Any

import torch
from ultralytics.utils import LOGGER

from yolo_slim.errors import SlimError
from yolo_slim.training.penalty import Travel
from yolo_slim.training.regularized import SETTINGS, RegularizedTrainer

__all__ = ["SETTINGS", "SparseTrainer"]


class SparseTrainer(RegularizedTrainer):
    """Pulls the scales of removable channels towards zero; `SETTINGS`: strength, penalty, update."""

    def begin(self) -> None:
        """Spread the travel over the training, and register the pull."""
        self.strength = self.settings["strength"]
        self.travel = Travel(self.strength, self.lf, self.epochs, self.warmup)
        if self.settings["update"] == "subgradient":
            if type(self.optimizer) is not torch.optim.SGD:
                raise SlimError(
                    f"sparse_train.update=subgradient needs plain SGD, got {type(self.optimizer).__name__}: an "
                    "adaptive optimizer normalises the penalty away. Set sparse_train.train.optimizer=SGD, or "
                    "sparse_train.update=proximal"
                )
            self.optimizer.register_step_pre_hook(self._pull_gradients)
        else:
            self.optimizer.register_step_post_hook(self._shrink)
        LOGGER.info(self._announcement(self.warmup))

    def _announcement(self, warmup: float) -> str:
        median, strength = self.first["q50"], self.strength
        reach = "to zero" if strength >= median else f"to {median - strength:.2f}"
        text = (
            f"Travel budget {strength:g}: nothing holding it, a scale moves {strength:g} towards zero over "
            f"{self.epochs} epochs (none in the first {warmup:g}); the median |scale| is {median:.3f}, so it can reach "
            f"{reach}."
        )
        if "Adam" not in type(self.optimizer).__name__:
            return text
        # An Adam step moves a weight by about its learning rate, whatever the gradient.
        steps = len(self.train_loader) / max(self.accumulate, 1)
        answer = self._scale_group(self.optimizer)["initial_lr"] * steps * sum(map(self.lf, range(self.epochs)))
        text += f" Training can answer with {answer:.2f} at most (the sum of {type(self.optimizer).__name__}'s steps)."
        if strength > 2 * answer:
            text += (
                " That is far less than the pull: nothing will hold, and accuracy will suffer. Train for more epochs, "
                "take more optimizer steps (a smaller nbs), or lower sparse_train.strength."
            )
        return text

    def _scale_group(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimizer's parameter group that holds the scales."""
        return next(g for g in optimizer.param_groups if any(p is self.penalty.scales[0] for p in g["params"]))

    def _amount(self, optimizer: torch.optim.Optimizer) -> float:
        """Travel since the last step."""
        before = self.stepped_to
        return self.travel.at(self.stepped_to) - self.travel.at(before) if self.stepped(optimizer) else 0.0

    def _shrink(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.penalty.shrink(self._amount(optimizer))

    def _pull_gradients(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # Under SGD a constant gradient g moves a weight lr * g / (1 - momentum): the same travel as the shrink.
        group = self._scale_group(optimizer)
        lr = group["lr"]
        if lr > 0:
            self.penalty.add_subgradient(self._amount(optimizer) * (1 - group["momentum"]) / lr)

    def logged(self) -> dict[str, float]:
        """The travel asked for so far."""
        return {"travel": self.travel.at(self.progress)}

    def judge(self, now: dict[str, float]) -> None:
        """Scales that training holds where they are."""
        spent, begun = self.travel.at(self.progress), self.first["q50"]
        if spent > 0.5 * self.strength and begun - now["q50"] < 0.1 * min(spent, begun):
            LOGGER.warning(
                "scales hardly move although half of the travel is spent: training pulls back as hard. "
                "Raise sparse_train.strength or sparse_train.epochs"
            )
