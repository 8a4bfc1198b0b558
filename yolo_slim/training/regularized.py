"""RegularizedTrainer: training in which something besides the loss acts on channels, with a log of the scales."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from ultralytics.utils import LOGGER, RANK

from yolo_slim.channels import trace
from yolo_slim.mould import duplicate
from yolo_slim.training.penalty import Penalty
from yolo_slim.training.stepping import SteppingTrainer

SETTINGS = "sparsity.yaml"
"""In the run folder: what a mode wants to know. A file, because multi-GPU workers rebuild the trainer from its
arguments alone, and so does a resumed run."""


class RegularizedTrainer(SteppingTrainer):
    """SteppingTrainer that calls `begin` once everything is set up."""

    def _setup_train(self) -> None:
        self.first: dict[str, float] = {}  # a resumed one finds its own
        self.log: list[dict[str, str]] = []
        super()._setup_train()
        self.settings = yaml.safe_load((Path(self.save_dir) / SETTINGS).read_text())
        self.warmup = min(self.args.warmup_epochs, max(self.epochs - 1, 0))
        detector = self.detector
        self.wiring = trace(detector, self.args.imgsz)
        self.penalty = self.make_penalty(detector)
        self.first = self.first or self.penalty.summary()
        self.begin()
        self.add_callback("on_train_epoch_end", lambda trainer: trainer._log())  # after whatever `begin` added

    def make_penalty(self, detector: nn.Module) -> Penalty:
        """The scales, and the pull on them where there is one."""
        return Penalty(detector, self.wiring, self.settings.get("penalty", "group_lasso"))

    def begin(self) -> None:
        """Register what this mode does."""

    def logged(self) -> dict[str, float]:
        """This mode's own columns of the log."""
        return {}

    def judge(self, now: dict[str, float]) -> None:
        """Say what is amiss, given `Penalty.summary` at the end of an epoch."""

    def copied(self) -> nn.Module:
        """The detector as it is now, to look at: on the CPU, in eval mode."""
        return duplicate(self.detector).cpu().float().eval()

    def extra_state(self) -> dict[str, Any]:
        """Where the scales began, and their log."""
        return {**super().extra_state(), "first": self.first, "log": self.log}

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.first, self.log = ckpt["first"], list(ckpt["log"])

    def _log(self) -> None:
        if RANK not in {-1, 0}:
            return
        now, own = self.penalty.summary(), self.logged()
        row = {"epoch": self.epoch + 1, **own, "steps": self.steps, **now}
        self.log.append({k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in row.items()})
        write_log(Path(self.save_dir), self.log)
        LOGGER.info(
            "sparsity: "
            + "".join(f"{name} {value:.2f}  " for name, value in own.items())
            + "|scale| 5/25/50/75/95 %: "
            + " ".join(f"{now[q]:.3f}" for q in ("q05", "q25", "q50", "q75", "q95"))
            + f"  below 0.01: {now['share_below_1e-2']:.1%}  cut now: FLOPs x{now['flops_if_cut']:.2f} "
            f"params x{now['params_if_cut']:.2f}"
        )
        self.judge(now)


def write_log(run: Path, log: list[dict[str, str]]) -> None:
    """sparsity.csv: the scales at the end of each epoch, as `last.pt` remembers them."""
    file = run / "sparsity.csv"
    part = file.with_name(f".{file.name}.part")
    with part.open("w", newline="") as f:
        writer = csv.DictWriter(f, log[0])
        writer.writeheader()
        writer.writerows(log)
    part.replace(file)
