"""SparseTrainer: training under a pull on the batch-norm scales, one pull an optimizer step."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
import yaml
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import unwrap_model

from yolo_slim.channels import trace
from yolo_slim.errors import SlimError
from yolo_slim.training.penalty import Penalty, Travel
from yolo_slim.training.trainer import SlimTrainer

SETTINGS = "sparsity.yaml"
"""In the run folder: strength, penalty, update. A file, because multi-GPU workers rebuild the trainer from its
arguments alone, and so does a resumed run."""


class SparseTrainer(SlimTrainer):
    """SlimTrainer with a pull on the scales of removable channels.

    The pull comes from hooks that the optimizer calls inside its own step: after gradients are unscaled and clipped,
    once a step whatever the accumulation, and not at all when AMP skips the step.
    """

    def _setup_train(self) -> None:
        self.progress, self.travelled, self.steps, self.first = 0.0, 0.0, 0, None  # a resumed one finds its own
        super()._setup_train()
        settings = yaml.safe_load((Path(self.save_dir) / SETTINGS).read_text())
        self.update, self.strength = settings["update"], settings["strength"]
        detector = unwrap_model(self.model)
        self.penalty = Penalty(detector, trace(detector, self.args.imgsz), settings["penalty"])
        warmup = min(self.args.warmup_epochs, max(self.epochs - 1, 0))
        self.travel = Travel(self.strength, self.lf, self.epochs, warmup)
        if self.update == "subgradient":
            if type(self.optimizer) is not torch.optim.SGD:
                raise SlimError(
                    f"sparse_train.update=subgradient needs plain SGD, got {type(self.optimizer).__name__}: an "
                    "adaptive optimizer normalises the penalty away. Set sparse_train.train.optimizer=SGD, or "
                    "sparse_train.update=proximal"
                )
            self.optimizer.register_step_pre_hook(self._pull_gradients)
        else:
            self.optimizer.register_step_post_hook(self._shrink)
        self.add_callback("on_train_epoch_start", SparseTrainer._epoch_starts)
        self.add_callback("on_train_batch_start", SparseTrainer._batch_starts)
        self.add_callback("on_train_epoch_end", SparseTrainer._log)
        self.first = self.first or self.penalty.summary()
        LOGGER.info(self._announcement(warmup))

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

    def extra_state(self) -> dict[str, Any]:
        """Where the scales began, and how far they were pulled: steps may lie batches behind the end of the epoch."""
        return {"travelled": self.travelled, "steps": self.steps, "first": self.first}

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.travelled, self.steps, self.first = ckpt["travelled"], ckpt["steps"], ckpt["first"]

    def _epoch_starts(self) -> None:
        self.batches = 0

    def _batch_starts(self) -> None:
        self.batches += 1
        self.progress = (self.epoch + self.batches / len(self.train_loader)) / self.epochs

    def _amount(self, optimizer: torch.optim.Optimizer) -> float:
        """Travel since the last step; none when a fused optimizer has found infinities and does nothing."""
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return 0.0
        # Out of memory in the first epoch, Ultralytics begins it again with the weights as they are: never pull back.
        reached = max(self.progress, self.travelled)
        amount = self.travel.at(reached) - self.travel.at(self.travelled)
        self.travelled = reached
        self.steps += 1
        return amount

    def _shrink(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.penalty.shrink(self._amount(optimizer))

    def _pull_gradients(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # Under SGD a constant gradient g moves a weight lr * g / (1 - momentum): the same travel as the shrink.
        group = self._scale_group(optimizer)
        lr = group["lr"]
        if lr > 0:
            self.penalty.add_subgradient(self._amount(optimizer) * (1 - group["momentum"]) / lr)

    def _log(self) -> None:
        if RANK not in {-1, 0}:
            return
        now = self.penalty.summary()
        row = {"epoch": self.epoch + 1, "travel": self.travel.at(self.progress), "steps": self.steps, **now}
        self._write_row({k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in row.items()})
        LOGGER.info(
            f"sparsity: travel {row['travel']:.2f}/{self.strength:g}  |scale| 5/25/50/75/95 %: "
            + " ".join(f"{now[q]:.3f}" for q in ("q05", "q25", "q50", "q75", "q95"))
            + f"  below 0.01: {now['share_below_1e-2']:.1%}  cut now: FLOPs x{now['flops_if_cut']:.2f} "
            f"params x{now['params_if_cut']:.2f}"
        )
        if row["travel"] > 0.5 * self.strength and self.first["q50"] - now["q50"] < 0.1 * min(
            row["travel"], self.first["q50"]
        ):
            LOGGER.warning(
                "scales hardly move although half of the travel is spent: training pulls back as hard. "
                "Raise sparse_train.strength or sparse_train.epochs"
            )

    def _write_row(self, row: dict[str, str]) -> None:
        """Append to sparsity.csv; a resumed run replaces the epoch that was cut short."""
        file = Path(self.save_dir) / "sparsity.csv"
        rows = list(csv.DictReader(file.open(newline=""))) if file.exists() else []
        rows = [r for r in rows if int(r["epoch"]) < int(row["epoch"])] + [row]
        part = file.with_name(f".{file.name}.part")
        with part.open("w", newline="") as f:
            writer = csv.DictWriter(f, row)
            writer.writeheader()
            writer.writerows(rows)
        part.replace(file)
