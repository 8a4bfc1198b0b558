"""The trainer of each mode of sparse training, and the prune stage's choice of channels for those that choose."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import unwrap_model

from yolo_slim import checkpoint
from yolo_slim.channels import Selection, cut, widened
from yolo_slim.config import Config, Prune, check
from yolo_slim.importance import Evidence
from yolo_slim.pruning.choose import Curves, Findings, choose, curves_of, evidence_from
from yolo_slim.pruning.recover import recover
from yolo_slim.runs.stage import finished
from yolo_slim.timing.clock import layer_table, timing
from yolo_slim.timing.stopwatch import aimed, said, stopwatch
from yolo_slim.training.forced import SETTINGS, ForcedTrainer
from yolo_slim.training.polarization import PolarizedTrainer
from yolo_slim.training.soft import SoftTrainer
from yolo_slim.training.sparse import SparseTrainer
from yolo_slim.training.targeted import TargetedTrainer

CHOICE = "choice.yaml"
"""In the run folder: the configuration whose `prune:` section chooses. A file, for the reason given in `forced`."""


SCAN = "scan.yaml"
"""Likewise: the scan that solver sensitivity goes by."""


class Choosing(ForcedTrainer):
    """Chooses channels with the function that the prune stage chooses with."""

    @cached_property
    def config(self) -> Config:
        """Of the run."""
        return check(yaml.safe_load((Path(self.save_dir) / CHOICE).read_text()), CHOICE)

    @cached_property
    def chosen(self) -> Prune:
        """The `prune:` section, with a latency target as the table of layers must be asked for it."""
        return self.config.prune

    @cached_property
    def evidence(self) -> Evidence:
        """Read once, however often channels are chosen."""
        return evidence_from(self.config, unwrap_model(self.model))

    @cached_property
    def curves(self) -> Curves | None:
        """What solver sensitivity goes by."""
        scan = Path(self.save_dir) / SCAN
        return curves_of(yaml.safe_load(scan.read_text())) if scan.exists() else None

    @cached_property
    def found(self) -> Findings:
        """What solver sensitivity and a latency target go by, the latter of the original, with the same layers."""
        if not timing(self.config):
            return Findings(self.curves)
        whole = checkpoint.load(finished(self.config, "original") or self.config.model)
        return Findings(self.curves, layer_table(self.config, whole), timed=stopwatch(self.config, whole))

    def choose(self, detector: nn.Module, gone: np.ndarray | None = None) -> Selection:
        """By the `prune:` section. A first choice is timed; later ones go by what that has said of the table."""
        selection = choose(detector, self.wiring, self.chosen, self.evidence, gone=gone, found=self.found)
        if selection.measured:
            for line in said(selection, self.config.latency.runtime):
                LOGGER.info(line)
            self.chosen = self.chosen.model_copy(update={"target": aimed(self.chosen.target, selection)})
            self.found = replace(self.found, timed=None)
        return selection


class Targeted(Choosing, TargetedTrainer):
    """Soft landing of what the `prune:` section removes."""

    def made_up(self, detector: nn.Module, kept: np.ndarray) -> dict[str, Tensor]:
        """By the recovery that follows a cut: least squares, or what is absorbed."""
        config, wiring = self.config, self.wiring
        chosen = config.prune.model_copy(update={"recalibrate": 0})  # training measures its statistics itself
        slim = cut(detector, wiring, kept)
        slim = recover(slim, detector, wiring, kept, chosen, self.evidence.images)
        now = dict(detector.named_parameters())
        after = widened(slim, detector, wiring, kept).named_parameters()
        return {name: (p - now[name]).detach() for name, p in after if not torch.equal(p, now[name])}


class Soft(Choosing, SoftTrainer):
    """Soft pruning of what the `prune:` section removes."""


TRAINERS = {"uniform": SparseTrainer, "targeted": Targeted, "soft": Soft, "polarization": PolarizedTrainer}


def files_of(config: Config, scan: Path | None = None) -> dict[str, Any]:
    """What the mode's trainer finds in its run folder: name -> content. `scan` is for solver sensitivity."""
    chosen = config.sparse_train
    wanted = {
        "uniform": {"strength": chosen.strength, "penalty": chosen.penalty, "update": chosen.update},
        "targeted": {"landing": chosen.landing, "rechoose": chosen.rechoose},
        "soft": {"every": chosen.every},
        "polarization": {"strength": chosen.strength, "update": chosen.update, "t": chosen.polarization_t},
    }[chosen.mode]
    choice = {CHOICE: config.model_dump(mode="json")} if issubclass(TRAINERS[chosen.mode], Choosing) else {}
    found = {SCAN: json.loads(scan.read_text(encoding="utf-8"))} if scan else {}
    return {SETTINGS: wanted, **choice, **found}
