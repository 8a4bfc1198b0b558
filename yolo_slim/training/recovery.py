"""RecoveringTrainer: an epoch in which a loss or a weight ceases to be a number is done again, from what was whole.

Ultralytics looks at the last batch's loss alone, goes back to a file, and in the first epoch trains on. Here all that a
checkpoint would hold is looked at before it is written, and what was whole last is kept in memory: the end of an epoch,
or the start.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model

from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.mould import duplicate
from yolo_slim.training.finite import unsound

TRIES = 3
"""How often in a row an epoch is done again, as Ultralytics does."""

Answer = TypeVar("Answer")


class RecoveringTrainer(DetectionTrainer):
    """Ultralytics' trainer that never goes on from numbers that are none, nor writes them.

    Raises:
        SlimError: the detector holds such numbers from the start, or an epoch ends in them again and again.
    """

    model: Any  # a path, and from `setup_model` on the detector, or what wraps it
    # Ultralytics begins with None in each of these, and has them all by the first batch.
    ema: ModelEMA  # type: ignore[assignment]
    lf: Callable[[float], float]  # type: ignore[assignment]
    loss: torch.Tensor  # type: ignore[assignment]
    optimizer: torch.optim.Optimizer  # type: ignore[assignment]
    scheduler: torch.optim.lr_scheduler.LRScheduler  # type: ignore[assignment]
    validator: Any
    metrics: Any

    broken: str | None = None  # what broke in this epoch
    lost: str | None = None  # the parts of the loss that broke first
    given_up = False  # this epoch, before its end

    @property
    def detector(self) -> Detector:
        """What is trained, out of whatever wraps it."""
        return cast(Detector, unwrap_model(self.model))

    def extra_state(self) -> dict[str, Any]:
        """What a subclass must find again when training resumes; plain values and tensors."""
        return {}

    def live_state(self) -> dict[str, torch.Tensor]:
        """The live weights as they are now, on the CPU, under the names the saved detector has."""
        names = self.ema.ema.state_dict().keys()
        state = self.detector.state_dict()
        return {name: state[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in names}

    def _setup_train(self) -> None:
        super()._setup_train()
        self.add_callback("on_train_start", RecoveringTrainer._begin)
        self.add_callback("on_train_epoch_start", RecoveringTrainer._epoch_begins)
        self.add_callback("on_train_batch_end", RecoveringTrainer._watch)

    def _begin(self) -> None:
        if where := self._unsound():
            raise SlimError(
                f"{self.args.model}: {where} holds a value that is no number, or too large for a checkpoint: training "
                "cannot start from it. Give a detector that is whole"
            )
        self._remember()

    def _epoch_begins(self) -> None:
        self.lost = None

    def _watch(self) -> None:
        """Keep in mind which part of the loss broke first, and end an epoch that nothing can come of any more."""
        if RANK not in {-1, 0} or _finite(self.loss):
            return
        parts = [name for name, value in self.loss_items.items() if not _finite(value)]
        self.lost = self.lost or ", ".join(parts)
        # Other workers would go on and wait for this one. AMP may have skipped the step: then all is well.
        if RANK == -1 and not self.stop and unsound({"live": self.detector}):
            self.stop = self.given_up = True

    def run_callbacks(self, event: str) -> None:
        """As Ultralytics', but an epoch that will be done again has not ended."""
        if event == "on_train_epoch_end":
            self.broken = agreed(self._what_broke)
            if self.broken:
                return
        super().run_callbacks(event)

    def validate(self) -> tuple[Any, Any]:
        """As Ultralytics', unless there is nothing to validate."""
        return (self.metrics, None) if self.broken else super().validate()

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Whether the epoch has to be done again; then all is as it was before it."""
        broken, self.broken = agreed(lambda: self.broken or self._what_broke()), None
        if not broken:
            self._remember()
            return False
        self.nan_recovery_attempts += 1
        if self.nan_recovery_attempts > TRIES:
            raise SlimError(self._broke_down(epoch, broken))
        LOGGER.warning(
            f"epoch {epoch + 1}: {broken} (attempt {self.nan_recovery_attempts}/{TRIES}), going back to "
            + (f"the end of epoch {epoch}" if epoch else "the start")
        )
        self._model_train()  # validation has left tensors that cannot be trained
        self._load_checkpoint_state(duplicate(self.whole))
        self.scheduler.last_epoch = epoch - 1
        if self.given_up:
            self.stop = self.given_up = False
        return True

    def _remember(self) -> None:
        """What `_load_checkpoint_state` goes back to this moment with; early stopping never hears of broken epochs."""
        self.whole = {
            "ema": duplicate(self.ema.ema).cpu(),
            "updates": self.ema.updates,
            "scaler": copy.deepcopy(self.scaler.state_dict()),
            "best_fitness": self.best_fitness,
            "live": self.live_state(),
            **_on_cpu({"optimizer": self.optimizer.state_dict(), **self.extra_state()}),
        }

    def _unsound(self) -> str | None:
        """The first of all tensors that training changes which is no number, or too large for a checkpoint."""
        learned = {"live": self.detector, "ema": self.ema.ema, "optimizer": self.optimizer.state_dict()}
        return unsound({**self.extra_state(), **learned})

    def _what_broke(self) -> str | None:
        """In words; None: all is well."""
        wrong = []
        if self.loss is not None and not _finite(self.loss):
            wrong.append(f"the loss is not finite ({self.lost or 'its sum'})")
        if self.fitness is not None and not _finite(self.fitness):
            wrong.append("mAP is not finite")
        if where := self._unsound():
            wrong.append(f"{where} is not finite, or too large for a checkpoint")
        return ", ".join(wrong) or None

    def _broke_down(self, epoch: int, broken: str) -> str:
        args = self.args
        return (
            f"training broke down in epoch {epoch + 1} of {self.epochs}, {TRIES + 1} times in a row: {broken}. Nothing "
            "of that was written"
            + (f", and {self.last} is as it was after epoch {epoch}" if self.last.exists() else "")
            + f". Likely causes: a learning rate that is too high (optimizer={args.optimizer}, lr0={args.lr0:g}: try a "
            f"tenth); gains of the loss (box={args.box:g}, cls={args.cls:g}, dfl={args.dfl:g}); labels that are "
            f"wrong; mixed precision (amp={args.amp}: try amp=false). Set them under the stage's train: section, and "
            "run the same command again"
        )


def _finite(value: torch.Tensor | float) -> bool:
    return math.isfinite(torch.as_tensor(value).detach())


def _on_cpu(content: Any) -> Any:
    """A copy of nested dicts and lists, their tensors on the CPU."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: _on_cpu(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_on_cpu, content))
    return copy.deepcopy(content)


def agreed(decide: Callable[[], Answer]) -> Answer:
    """What the first worker decides, on all of them: two GPUs may round a score differently."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return decide()
    answer: list[Any] = [decide() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(answer, 0)
    return answer[0]
