"""SoftTrainer: soft filter pruning. Every few epochs the filters that would go are set to zero, and trained on.

Nothing holds them there: a filter that training brings back may be kept next time (He et al., IJCAI 2018,
arXiv:1808.06866, algorithm 1; by distance to the geometric median: He et al., CVPR 2019, arXiv:1811.00250). What is
zero after the last epoch is the plan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.utils import LOGGER, RANK

from yolo_slim.channels import Trace
from yolo_slim.channels.groups import FIXED
from yolo_slim.training.choosing import Chooser
from yolo_slim.training.recovery import agreed
from yolo_slim.training.regularized import RegularizedTrainer


@torch.no_grad()
def zero_filters(detector: nn.Module, trace: Trace, kept: np.ndarray) -> int:
    """Set the filters that make channels not `kept` (bool per channel) to zero, in place; how many there are.

    Weights of convolutions only: batch norm goes on giving those channels a constant, act(beta - gamma mu / sigma),
    which the cut has to absorb.
    """
    count = 0
    for conv in trace.convs.values():
        rows = np.flatnonzero((conv.outputs != FIXED) & ~kept[conv.outputs])
        weight = conv.layer(detector).weight
        weight[torch.as_tensor(rows, device=weight.device)] = 0
        count += len(rows)
    return count


class SoftTrainer(RegularizedTrainer):
    """Zeroes what its chooser leaves out; `SETTINGS`: every (epochs).

    The moving average is left alone: zero for a moment is no value to average towards. The live weights are the result.
    """

    chooser_type: type[Chooser] = Chooser
    kept: np.ndarray | None = None

    def begin(self) -> None:
        """Register the end of an epoch; steps are only counted."""
        self.chooser = self.chooser_type(Path(self.save_dir), self.detector, self.wiring)
        self.optimizer.register_step_post_hook(self._step)
        self.add_callback("on_train_epoch_end", SoftTrainer._epoch_ends)

    def _step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.stepped(optimizer)

    def _epoch_ends(self) -> None:
        if (self.epoch + 1) % self.settings["every"] and self.epoch + 1 < self.epochs:
            return
        before, self.kept = self.kept, agreed(lambda: self.chooser.choose(self.copied())).kept
        count = zero_filters(self.detector, self.wiring, self.kept)
        if RANK in {-1, 0}:
            back = 0 if before is None else int((self.kept & ~before).sum())
            LOGGER.info(f"soft pruning: {count} filters set to zero; {back} channels came back since the last time")

    def logged(self) -> dict[str, float]:
        """The share of all channels that was zeroed last."""
        return {"zeroed": 0.0 if self.kept is None else float((~self.kept).mean())}

    def extra_state(self) -> dict[str, Any]:
        """What was zeroed last."""
        return {**super().extra_state(), "kept": None if self.kept is None else torch.tensor(self.kept)}

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.kept = None if ckpt["kept"] is None else ckpt["kept"].numpy()
