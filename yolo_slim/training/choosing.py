"""Which channels a training is to lead to: the cut's own choice, made while training goes on."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from ultralytics.utils import LOGGER

from yolo_slim import checkpoint, record
from yolo_slim.channels import Plan, Selection, Trace, cut, widened
from yolo_slim.config import Complete, Prune, check
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence
from yolo_slim.pruning.choose import Findings, choose, evidence_from, findings
from yolo_slim.pruning.plan import read_plan
from yolo_slim.pruning.recover import recover
from yolo_slim.timing.targets import aimed, said

CHOICE = "choice.yaml"
"""In the run folder: the configuration whose `prune:` section chooses. A file: see `regularized`."""


class Chooser:
    """Chooses as the prune stage does, and says what would make up for the choice."""

    def __init__(self, folder: Path, detector: nn.Module, wiring: Trace) -> None:
        """With what lies in the run folder; `detector` as it was when training began."""
        self.config = Complete.of(check(yaml.safe_load((folder / CHOICE).read_text()), CHOICE))
        self.wiring = wiring
        # With a latency target as the table of layers must be asked for it.
        self.chosen: Prune = self.config.prune
        self.evidence: Evidence = evidence_from(self.config, detector)  # read once, however often channels are chosen

    @cached_property
    def found(self) -> Findings:
        """What solver sensitivity and a latency target go by, the latter of the original, with the same layers."""
        scan = self._output("sensitivity", "scan") if self.chosen.solver == "sensitivity" else None
        return findings(self.config, checkpoint.load(self._output("original", "weights")), scan)

    def planned(self) -> Plan:
        """What the plan stage has chosen in the detector as it was before training."""
        return read_plan(self._output("plan", "plan"))

    def _output(self, stage: str, name: str) -> Path:
        """What an earlier stage has written: this one was begun with it."""
        done = record.read(self.config.folder / stage)
        if done is None:
            raise SlimError(f"{self.config.folder / stage} is gone, and this training goes by it")
        return done.output(self.config.folder / stage, name)

    def choose(self, detector: nn.Module, gone: np.ndarray | None = None) -> Selection:
        """By the `prune:` section; `gone` (bool per channel) have left already.

        A first choice is timed; later ones go by what that has said of the table.
        """
        selection = choose(detector, self.wiring, self.chosen, self.evidence, gone=gone, found=self.found)
        if selection.measured:
            for line in said(selection, self.config.latency.runtime):
                LOGGER.info(line)
            aim = self.chosen.target and aimed(self.chosen.target, selection)
            self.chosen = self.chosen.model_copy(update={"target": aim})
            self.found = replace(self.found, timed=None)
        return selection

    def made_up(self, detector: nn.Module, kept: np.ndarray) -> dict[str, Tensor]:
        """What the weights that stay would gain if all others went at once: parameter -> difference, full width.

        By the recovery that follows a cut: least squares, or what is absorbed.
        """
        chosen = self.config.prune.model_copy(update={"recalibrate": 0})  # training measures its statistics itself
        slim = cut(detector, self.wiring, kept)
        slim = recover(slim, detector, self.wiring, kept, chosen, self.evidence.images)
        now = dict(detector.named_parameters())
        after = widened(slim, detector, self.wiring, kept).named_parameters()
        return {name: (p - now[name]).detach() for name, p in after if not torch.equal(p, now[name])}
