"""HoldingTrainer: training that keeps what methods of `compress` have made of a detector's numbers.

Zeros stay zero, shared values stay shared. Ultralytics' optimizers move every number by momentum and weight decay, also
where its gradient is zero, so that each method says how its numbers are brought back (`Hold`), and that is done after
every step. A method that finds out in training what is held (`Deciding`) looks at the detector then, and may train
numbers of its own beside it: `last.pt` keeps these for a resume, the saved detector has no trace of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from yolo_slim.compress import METHODS, Hold
from yolo_slim.compress.method import Deciding
from yolo_slim.errors import SlimError, why
from yolo_slim.training.distill import DistillTrainer
from yolo_slim.training.plans import load_plan
from yolo_slim.training.stepping import SteppingTrainer, train_beside

SETTINGS = "holding.yaml"
"""In the run folder: a list, in the order in which the methods were applied, of `method` (a name in `METHODS`),
`options` (its settings) and `plan` (a file of `save_plan`; a relative path is one from the run folder). A file, because
multi-GPU workers rebuild the trainer from its arguments alone, and so does a resumed run."""


class HoldingTrainer(SteppingTrainer):
    """SteppingTrainer that holds what `SETTINGS` names: in the detector, and in the average of its weights.

    Both are held before the first step, also of a resumed training, after every step, and at the end of every epoch, so
    in every checkpoint. A method that decides in training (zeros that become more) has come to its end in `last.pt`,
    also where the training was stopped early; `best.pt` may be of an epoch before.

    Raises:
        SlimError: the settings name a method or a plan that there is not, or one of another detector.
    """

    holds: tuple[Hold, ...] = ()

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Ultralytics' optimizer; with what methods train beside the detector."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        self.holds = read_holds(Path(self.save_dir), self.detector)
        if own := [parameter for hold in self.deciding for parameter in hold.learned]:
            train_beside(optimizer, own)
        return optimizer

    @property
    def deciding(self) -> list[Deciding]:
        """Those of the holds that look at the detector."""
        return [hold for hold in self.holds if isinstance(hold, Deciding)]

    def _setup_train(self) -> None:
        super()._setup_train()
        detector = self.detector
        before = _places(detector)
        self.hold()
        if _places(detector) != before:  # the average and the optimizer would go on with the tensors that were
            raise TypeError("a hold has put other tensors into the detector: it has to write into those that are there")
        self.optimizer.register_step_pre_hook(self._stepping)
        self.optimizer.register_step_post_hook(self._stepped)
        self.add_callback("on_train_epoch_end", HoldingTrainer._hold_at_the_end)

    @torch.no_grad()
    def hold(self, *, average_alone: bool = False) -> None:
        """Hold the average, and the detector as well; at the share of the training that has been stepped through."""
        if not average_alone:
            for deciding in self.deciding:
                deciding.decide(self.detector, self.stepped_to)
        for module in (self.ema.ema,) if average_alone else (self.detector, self.ema.ema):
            for hold in self.holds:
                hold(module, self.stepped_to)

    def _stepping(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for deciding in self.deciding:
            deciding.before_step(self.detector)

    def _stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for deciding in self.deciding:
            deciding.after_step(self.detector)
        if self.stepped(optimizer):
            self.hold()

    def extra_state(self) -> dict[str, Any]:
        """What methods have decided, and what they train."""
        return {**super().extra_state(), "holds": [deciding.state() for deciding in self.deciding]}

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        for deciding, state in zip(self.deciding, ckpt["holds"], strict=True):
            deciding.restore(state)

    def optimizer_step(self) -> None:
        """As Ultralytics', which brings the average nearer to the detector last: what was held in it is so no more."""
        super().optimizer_step()
        self.hold(average_alone=True)

    def _hold_at_the_end(self) -> None:
        if self.stop or self.epoch + 1 >= self.epochs:  # batches that were accumulated and never stepped for
            self.stepped_to = 1.0
        self.hold()


class HoldingDistillTrainer(HoldingTrainer, DistillTrainer):
    """HoldingTrainer in which teachers look at the same images; its run folder has the settings of both."""


def read_holds(run: Path, detector: nn.Module) -> tuple[Hold, ...]:
    """What a run folder says is to be held, in its order; plans without a hold have none here.

    Raises:
        SlimError: see `HoldingTrainer`.
    """
    file = run / SETTINGS
    try:
        asked = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise SlimError(f"cannot read {file}, which says what is to be held: {why(e, file)}") from e
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        raise SlimError(f"{file} is no YAML: {e}") from e
    if not isinstance(asked, list) or not all(isinstance(each, Mapping) and "method" in each for each in asked):
        raise SlimError(f"{file}: expected a list of methods, each with method, options and plan")
    found = [_hold_of(each, file, detector) for each in asked]
    return tuple(hold for hold in found if hold is not None)


def _hold_of(asked: Mapping[str, Any], file: Path, detector: nn.Module) -> Hold | None:
    name = asked["method"]
    if name not in METHODS:
        raise SlimError(f"{file}: no method {name}; expected one of {', '.join(METHODS)}")
    if not isinstance(asked.get("plan"), str):
        raise SlimError(f"{file}: {name}: expected the path of its plan, got {asked.get('plan')!r}")
    try:
        method = METHODS[name](**(asked.get("options") or {}))
    except (TypeError, ValueError) as e:
        raise SlimError(f"{file}: {name}: {e}") from e
    at = file.parent / asked["plan"]
    plan = load_plan(at)
    device = next(detector.parameters()).device  # once, not with every step
    hold = method.hold(replace(plan, tensors={name: tensor.to(device) for name, tensor in plan.tensors.items()}))
    if hold is not None and (strange := _not_in(detector, plan.layers)):
        raise SlimError(f"{at} is a plan of another detector: {file.parent} trains one without {strange}")
    return hold


def _not_in(detector: nn.Module, layers: Iterable[str]) -> str | None:
    """The first of some layers that a detector does not have."""
    known = {name for name, _ in detector.named_modules()}
    return next((name for name in layers if name not in known), None)


def _places(detector: nn.Module) -> list[int]:
    """Where in memory its parameters are."""
    return [parameter.data_ptr() for parameter in detector.parameters()]
