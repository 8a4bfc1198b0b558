"""Torch-Pruning on an Ultralytics detector, used as well as it can be: scripts/bench_peers.py compares ours with it.

The traps: it must be told to leave Detect's outputs alone, it traces by gradients, its default arguments are shared
between all pruners, it knows no FLOPs target, and it rounds what remains down.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import unwrap_model

from yolo_slim import checkpoint
from yolo_slim.channels import image_channels
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence
from yolo_slim.measure import cost
from yolo_slim.training.trainer import SlimTrainer

REG = 5e-4
"""Its own default for training under its regularisers (reproduce/main.py of VainF/Torch-Pruning)."""

LABELLED = 64
"""Images that its criteria by gradients look at, one at a time; as many batches as its own examples take."""

STEPS = 400
"""Of its progressive pruning, where one step cannot reach the budget; its own default (the same file)."""


def package() -> Any:
    """torch_pruning, imported late: these rows alone need it.

    Raises:
        SlimError: it is not installed.
    """
    try:
        import torch_pruning
    except ImportError as e:
        raise SlimError("Torch-Pruning is not installed: pip install torch-pruning, or leave the tp_ rows out") from e
    return torch_pruning


def pruner(detector: nn.Module, kind: str, scope: str, imgsz: int, ratio: float = 0.5, steps: int = 1) -> Any:
    """A pruner that will cut this very detector.

    Args:
        detector: left in eval mode, with all parameters trainable.
        kind: magnitude, bnscale, groupnorm_max (the best of its group norms on detectors: scores divided by the
            layer's largest), or taylor or hessian, which read gradients: see `learned`.
        scope: global, or layer.
        imgsz: image side in pixels to trace at.
        ratio: share of the channels to remove.
        steps: in which they go; each call of `step` takes one.
    """
    tp = package()
    cls, importance = {
        "magnitude": (tp.pruner.MagnitudePruner, tp.importance.GroupMagnitudeImportance(p=2)),
        "bnscale": (tp.pruner.BNScalePruner, tp.importance.BNScaleImportance()),
        "groupnorm_max": (tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(p=2, normalizer="max")),
        "taylor": (tp.pruner.BasePruner, tp.importance.GroupTaylorImportance()),
        "hessian": (tp.pruner.BasePruner, tp.importance.GroupHessianImportance()),
    }[kind]
    head = detector.model[-1]
    if hasattr(head, "dfl"):
        outputs = [*(branch[-1] for branches in (head.cv2, head.cv3) for branch in branches), head.dfl]
    else:  # of the YOLOv5 repository
        outputs = list(head.m)
    detector.eval().requires_grad_(True)  # in training mode, tracing would move running statistics
    return cls(
        detector,
        torch.zeros(1, image_channels(detector, imgsz), imgsz, imgsz, device=next(detector.parameters()).device),
        importance=importance,
        pruning_ratio=ratio,
        iterative_steps=steps,
        global_pruning=scope == "global",
        ignored_layers=outputs,
        round_to=8,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )


def cut(
    detector: nn.Module, kind: str, scope: str, imgsz: int, share: float, evidence: Evidence | None = None
) -> nn.Module:
    """A slim copy with at most, and as nearly as can be, this share of the FLOPs.

    Args:
        detector: left alone.
        kind: see `pruner`.
        scope: global, or layer.
        imgsz: image side in pixels.
        share: of its FLOPs, to keep.
        evidence: labelled batches and their loss, for kinds that read gradients.

    Raises:
        SlimError: no pruning ratio leaves so little.
    """
    whole = cost(detector, imgsz).macs
    gradients = learned(detector, kind, evidence) if evidence and kind in BY_GRADIENTS else {}

    def begun(ratio: float, steps: int = 1) -> tuple[nn.Module, Any]:
        narrow = copy.deepcopy(detector)
        shrinking = pruner(narrow, kind, scope, imgsz, ratio, steps)
        for name, parameter in narrow.named_parameters():
            parameter.grad = gradients[name].clone() if gradients else None
        return narrow, shrinking

    def at(ratio: float) -> tuple[float, nn.Module]:
        narrow, shrinking = begun(ratio)
        shrinking.step()
        return cost(narrow, imgsz).macs / whole, narrow.eval()

    try:
        narrow = within(at, share)
    except SlimError:
        narrow = progressive(*begun(1.0, STEPS), whole, imgsz, share)
    for parameter in narrow.parameters():
        parameter.grad = None
    checkpoint.mark_slim(narrow, {})
    return narrow


BY_GRADIENTS = ("taylor", "hessian")


def learned(detector: nn.Module, kind: str, evidence: Evidence) -> dict[str, torch.Tensor]:
    """Of every parameter, what its criteria by gradients expect to find as `.grad`.

    For `taylor` the gradient of the mean loss. For `hessian` the mean of squares of single images' gradients, put there
    by ourselves: in 1.6 `accumulate_grad` looks names up in a dict of parameters, and so keeps the last image alone.
    """
    batches, loss = evidence.need_batches(f"tp_{kind}")
    one = copy.deepcopy(detector).eval().requires_grad_(True)
    sums = {name: torch.zeros_like(parameter) for name, parameter in one.named_parameters()}
    for n, image in enumerate(single(batches), 1):
        one.zero_grad(set_to_none=True)
        loss(one, image).backward()
        for name, parameter in one.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad.square() if kind == "hessian" else parameter.grad
        if n == LABELLED:
            break
    return {name: total / n for name, total in sums.items()}


def single(batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The images of labelled batches, each as a batch of its own."""
    for batch in batches:
        for i in range(len(batch["img"])):
            mine = batch["batch_idx"] == i
            boxes = {key: batch[key][mine] for key in ("cls", "bboxes")}
            yield {"img": batch["img"][i : i + 1], "batch_idx": torch.zeros(int(mine.sum())), **boxes}


def progressive(narrow: nn.Module, shrinking: Any, whole: float, imgsz: int, share: float) -> nn.Module:
    """Cut step by step, scored anew each time, until the share is met.

    In one step it skips a layer that would lose every channel, so that ever higher ratios take out ever fewer; step by
    step such a layer shrinks first.

    Args:
        narrow: what its pruner cuts.
        shrinking: the pruner, of `STEPS` steps.
        whole: MACs that there were.
        imgsz: image side in pixels.
        share: of those MACs, to keep.

    Raises:
        SlimError: no step leaves so little.
    """
    for _ in range(STEPS):
        shrinking.step()
        if cost(narrow, imgsz).macs <= share * whole:
            return narrow.eval()
    raise SlimError(f"neither one pruning ratio nor {STEPS} steps leave x{share:g} or less")


def within(at: Callable[[float], tuple[float, Any]], share: float, steps: int = 14) -> Any:
    """The result that leaves most of those that stay within a share; the ratio is bisected.

    Args:
        at: pruning ratio -> share that is left, and a result.
        share: not to be exceeded.
        steps: halvings of [0, 1].

    Raises:
        SlimError: no ratio tried stays within.
    """
    low, high = 0.0, 1.0
    best: tuple[float, Any] | None = None
    for _ in range(steps):
        ratio = (low + high) / 2
        try:
            left, result = at(ratio)
        except (RuntimeError, IndexError, ZeroDivisionError) as e:  # a layer without channels: too much
            LOGGER.info(f"pruning ratio {ratio:.4f}: {type(e).__name__}: {e}")
            high = ratio
            continue
        if left > share:
            low = ratio
            continue
        high = ratio
        if best is None or left > best[0]:
            best = left, result
    if best is None:
        raise SlimError(f"no pruning ratio leaves x{share:g} or less")
    return best[1]


def regularised(kind: str, scope: str) -> type[SlimTrainer]:
    """SlimTrainer under a pruner's regulariser, which adds to the gradients before each step."""

    class Regularised(SlimTrainer):
        def _setup_train(self) -> None:
            super()._setup_train()
            trainable = [(p, p.requires_grad) for p in self.model.parameters()]
            self.pruner = pruner(unwrap_model(self.model), kind, scope, self.args.imgsz)
            for parameter, was in trainable:
                parameter.requires_grad_(was)

        def optimizer_step(self) -> None:
            self.pruner.reg = REG * self.scaler.get_scale()  # gradients are not unscaled yet
            self.pruner.regularize(unwrap_model(self.model))
            super().optimizer_step()

    return Regularised
