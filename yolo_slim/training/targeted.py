"""TargetedTrainer: gradual pruning, a "landing". The channels that must go fade to exactly zero while training goes on.

Meanwhile the weights that stay drift towards where recovery without training would have them make up for it.
Afterwards they are held there, against momentum and weight decay alike, until the end: the cut then takes out what is
silent, and loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.utils import LOGGER, RANK

from yolo_slim.errors import SlimError
from yolo_slim.training.choosing import Chooser
from yolo_slim.training.landing import Drift, Fader, Landing
from yolo_slim.training.recovery import agreed
from yolo_slim.training.regularized import RegularizedTrainer


class TargetedTrainer(RegularizedTrainer):
    """Lands what the plan leaves out; `SETTINGS`: landing (share of the training), rechoose (epochs; 0: never)."""

    chooser_type: type[Chooser] = Chooser
    landed: dict[str, Any] | None = None  # the state of a resumed landing

    def begin(self) -> None:
        """Take up the plan, or that of a resumed training, and register the fade."""
        self.chooser = self.chooser_type(Path(self.save_dir), self.detector, self.wiring)
        end = self.settings["landing"]
        # While the learning rate warms up training cannot answer a loss.
        begin = self.warmup / self.epochs
        self.landing = Landing(begin if begin < end else 0.0, end, self.wiring.n_channels)
        if self.landed:
            self._restore(self.landed)
        else:
            plan = self.chooser.planned()
            self._decide(plan.kept(self.wiring), plan.scores(self.wiring))
        self.fader = Fader(self.wiring, self.detector)
        self.optimizer.register_step_post_hook(self._step)
        self.add_callback("on_train_epoch_start", TargetedTrainer._rechoose)
        self.add_callback("on_train_epoch_end", TargetedTrainer._epoch_ends)

    def _decide(self, kept: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
        if kept.all():
            raise SlimError(
                "sparse_train.mode=targeted lands the channels that the prune: section removes, and it removes none: "
                "give it a budget, e.g. prune.target.flops=0.5"
            )
        stay = self.landing.begun & kept
        self.landing.choose(self.wiring, kept, scores)
        self.drift = Drift(agreed(lambda: self.chooser.made_up(self.copied(), kept)), self.landing.faded)
        if RANK not in {-1, 0}:
            return
        LOGGER.info(
            f"landing: {int((~kept).sum())} of {len(kept)} channels fade to zero between epochs "
            f"{self.landing.begin * self.epochs:g} and {self.landing.end * self.epochs:g}, the least first"
            + (f"; {int(stay.sum())} that had begun to stay after all" if stay.any() else "")
        )

    def _rechoose(self) -> None:
        """Ask again who leaves, of those who have not begun to: each is judged as late as can be."""
        every = self.settings["rechoose"]
        if every and self.epoch and self.epoch % every == 0 and not self.landing.decided:
            found = agreed(lambda: self.chooser.choose(self.copied(), self.landing.begun))
            self._decide(found.kept, found.scores)

    def _step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self.stepped(optimizer):
            self._fade(self.stepped_to)

    def _epoch_ends(self) -> None:
        if self.epoch + 1 == self.epochs:  # batches that were accumulated and never stepped for
            self._fade(1.0)

    def _fade(self, progress: float) -> None:
        ratio: np.ndarray = self.landing.advance(progress)
        detector, average = self.detector, self.ema.ema if self.ema else None
        self.fader.fade(detector, average, ratio, self.landing.kept)
        self.drift.follow(detector, average, self.landing.faded)

    def logged(self) -> dict[str, float]:
        """The share of the channels to go that have gone."""
        return {"landed": self.landing.landed}

    def extra_state(self) -> dict[str, Any]:
        """Who leaves, and how much of each is left."""
        return {**super().extra_state(), **self.landing.state(), "drift": self.drift.state()}

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.landed = {name: ckpt[name] for name in ("kept", "start", "factor", "drift")}
        if hasattr(self, "landing"):  # back to last.pt after a NaN
            self._restore(self.landed)

    def _restore(self, state: dict[str, Any]) -> None:
        self.landing.restore({name: state[name] for name in ("kept", "start", "factor")})
        self.drift = Drift(**state["drift"])
