"""DistillTrainer: fine-tuning in which a teacher looks at the same images.

The teacher runs in eval mode without gradients on the augmented batch. Adapters live beside the detector, never in
it: the optimizer trains them, `last.pt` keeps them for a resume, the saved detector has no trace of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from ultralytics.utils.torch_utils import unwrap_model

from yolo_slim import checkpoint
from yolo_slim.distill import Mimic
from yolo_slim.errors import SlimError
from yolo_slim.training.trainer import SlimTrainer

SETTINGS = "distill.yaml"
"""In the run folder: teacher, weight. A file, for the reason given in `sparse`."""


def detect_inputs(output: Any) -> list[Tensor]:
    """The maps that enter Detect, per level (B, C, H, W), from what the detector returns in either mode."""
    raw = output[1] if isinstance(output, tuple) else output
    return list(raw.get("one2many", raw)["feats"])


class DistillTrainer(SlimTrainer):
    """SlimTrainer with feature mimicry of a teacher at Detect's inputs, logged as `mimic`."""

    def setup_model(self) -> dict[str, Any] | None:
        """Load the student, then the teacher and the adapters between them."""
        ckpt = super().setup_model()
        settings = yaml.safe_load((Path(self.save_dir) / SETTINGS).read_text())
        self.weight = settings["weight"]
        self.teacher = checkpoint.load(settings["teacher"]).requires_grad_(False).to(self.device)
        student = unwrap_model(self.model).to(self.device)
        image = torch.zeros(1, next(student.parameters()).shape[1], 64, 64, device=self.device)
        maps = [[m.shape for m in detect_inputs(_eval(d, image))] for d in (student, self.teacher)]
        if [s[2:] for s in maps[0]] != [t[2:] for t in maps[1]]:
            raise SlimError(
                f"the teacher {settings['teacher']} has other strides than the student: {maps[1]}, {maps[0]}"
            )
        self.mimic = Mimic([s[1] for s in maps[0]], [t[1] for t in maps[1]]).to(self.device)
        return ckpt

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.mimic.load_state_dict(ckpt["mimic"])

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Ultralytics' optimizer with the adapters in a group of their own."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.add_param_group({"params": list(self.mimic.parameters()), "lr": rate, "weight_decay": 0.0})
        optimizer.register_step_pre_hook(self._average_adapters)
        return optimizer

    def _average_adapters(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The adapters are outside the module that DDP wraps: average their gradients over workers here."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for p in self.mimic.parameters():
                torch.distributed.all_reduce(p.grad)
                p.grad /= torch.distributed.get_world_size()

    def _setup_train(self) -> None:
        super()._setup_train()
        detector = unwrap_model(self.model)
        detector.criterion = _WithMimic(detector.criterion or detector.init_criterion(), self)

    def extra_state(self) -> dict[str, Any]:
        """The adapters, so that a resumed run goes on with them."""
        return {"mimic": {k: v.cpu() for k, v in self.mimic.state_dict().items()}}

    def label_loss_items(self, loss_items: dict | None = None, prefix: str = "train") -> Any:
        """As Ultralytics', without a validation column for mimicry: the teacher does not look at validation images."""
        items = super().label_loss_items(loss_items, prefix)
        if prefix != "val":
            return items
        if isinstance(items, dict):
            return {k: v for k, v in items.items() if k != "val/mimic"}
        return [k for k in items if k != "val/mimic"]


def _eval(detector: nn.Module, image: Tensor) -> Any:
    was_training = detector.training
    with torch.no_grad():
        output = detector.eval()(image)
    detector.train(was_training)
    return output


class _WithMimic:
    """Ultralytics' criterion plus weight * mimicry, scaled with the batch as Ultralytics scales its own."""

    def __init__(self, base: Callable, trainer: DistillTrainer) -> None:
        self.base, self.trainer = base, trainer

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, items = self.base(preds, batch)
        with torch.no_grad():
            wanted = detect_inputs(self.trainer.teacher.eval()(batch["img"]))
        mimic = self.trainer.weight * self.trainer.mimic(detect_inputs(preds), wanted)
        return loss.sum() + mimic * len(batch["img"]), {**items, "mimic": mimic.detach()}

    def __deepcopy__(self, memo: dict) -> Callable:  # a copy of the detector is one without a teacher
        return copy.deepcopy(self.base, memo)

    def __getattr__(self, name: str) -> Any:  # `update`, where Ultralytics' criterion has one
        return getattr(self.__dict__["base"], name)
