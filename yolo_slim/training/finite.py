"""What in a training is not a number, or would not be one in the file it is written to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

LEARNED = ("live", "model", "ema", "best", "optimizer", "distill", "holds")
"""Entries of a checkpoint that training has made. Others may hold infinity by right: a landing's `start`."""
HALF = torch.finfo(torch.float16).max
"""The largest number that a checkpoint can hold: its weights are fp16."""
WIDE = {"running_var", "step", "exp_avg", "exp_avg_sq", "square_avg"}
"""Tensors that may be larger: a variance beyond that is stored as the largest there is, which divides by as good as
the same, and entries of an optimizer's state that Ultralytics leaves in fp32 (`convert_optimizer_state_dict_to_fp16`).
"""


def unsound(learned: Mapping[str, Any]) -> str | None:
    """The dotted name of the first tensor that a checkpoint could not hold as numbers; None: it could hold all.

    Args:
        learned: a checkpoint, or entries of one: modules, tensors, and lists and dicts of them.
    """
    parts = {name: learned[name] for name in LEARNED if name in learned}
    return next((name for name, tensor in _tensors(parts, "") if not _holds(name, tensor)), None)


def _holds(name: str, tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    largest = tensor.detach().abs().max().item()  # NaN where any is
    return largest < torch.inf if name.rpartition(".")[2] in WIDE else largest <= HALF


def _tensors(content: Any, name: str) -> Iterable[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
        return
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if isinstance(content, Mapping):
        inside = list(content.items())
    elif isinstance(content, (list, tuple)):
        inside = list(enumerate(content))
    else:
        return
    for key, value in inside:
        yield from _tensors(value, f"{name}.{key}" if name else str(key))
