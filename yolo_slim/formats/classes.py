"""A trained detector for other classes: what tells classes apart starts afresh, all else of it is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yolo_slim.formats.detector import Detector

SURE = 10.0
"""Logit of a class that is the only one, where objectness is said apart: nothing trains it then."""
BRANCHES = ("cv3", "one2one_cv3")
"""Parts of Ultralytics' heads that say classes; the last convolution of each level does, and nothing else."""


def scores_anew(detector: Detector, names: Mapping[int, str]) -> None:
    """Let a detector of Ultralytics tell these classes apart; a class is begun with as rare, as Ultralytics does."""
    head, count = detector.model[-1], len(names)
    for branch in BRANCHES:
        for level, stride in zip(getattr(head, branch, None) or (), detector.stride.tolist(), strict=False):
            while isinstance(level[-1], nn.Sequential):  # low-rank factors: the last of them says classes
                level = level[-1]
            level[-1] = renewed(level[-1], 1, 0, count, math.log(5 / count / (640 / stride) ** 2))
    head.no += count - head.nc
    named(detector, names)


def named(detector: Detector, names: Mapping[int, str]) -> None:
    """What a detector and its head say of their classes, besides their numbers."""
    detector.names = dict(names)
    detector.yaml = {**detector.yaml, "nc": len(names)}
    for module in (detector, detector.model[-1]):
        if hasattr(module, "nc"):
            module.nc = len(names)


@torch.no_grad()
def renewed(conv: nn.Conv2d, anchors: int, kept: int, classes: int, logit: float) -> nn.Conv2d:
    """A convolution that says of each anchor `kept` numbers as it did, and then of so many classes this logit."""
    new = copy.deepcopy(conv)
    new.out_channels = anchors * (kept + classes)
    old = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    new.weight = nn.Parameter(_rows(conv.weight, anchors, kept, classes, 0.0))
    new.bias = nn.Parameter(_rows(old, anchors, kept, classes, logit))
    return new


def _rows(old: Tensor, anchors: int, kept: int, classes: int, value: float) -> Tensor:
    """(anchors * (kept + any), ...) -> (anchors * (kept + classes), ...), `value` for classes."""
    told = old.view(anchors, -1, *old.shape[1:])[:, :kept]
    fresh = old.new_full((anchors, classes, *old.shape[1:]), value)
    return torch.cat((told, fresh), 1).flatten(0, 1)
