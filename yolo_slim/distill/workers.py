"""Losses of a batch that several workers share: what each divides by is that of the whole.

Each GPU sees a part of the batch, and the parts' losses are averaged. That is the loss of the whole only if all divide
by the same: without this, a worker whose images hold one object would weigh it as much as another its hundred.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

Module = TypeVar("Module", bound=nn.Module)


def several() -> bool:
    """Whether there are other workers."""
    return distributed.is_available() and distributed.is_initialized()


def same_everywhere(module: Module) -> Module:
    """The module, in place, with the first worker's state: each worker draws with a seed of its own."""
    if several():
        for value in module.state_dict().values():
            distributed.broadcast(value, src=0)
    return module


def over_workers(total: Tensor) -> Tensor:
    """The mean over all workers of what each has found, of any shape, without gradients; itself where one is alone."""
    total = total.detach()
    if not several():
        return total
    total = total.to(torch.float32, copy=True)
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def shared(mine: Tensor) -> Tensor:
    """Likewise, with the gradient of this worker's part: the mean of the workers' gradients is that of the whole."""
    return over_workers(mine) + (mine - mine.detach())


def average_gradients(module: nn.Module) -> None:
    """What DDP does, for a module that it does not wrap."""
    if several():
        for p in module.parameters():
            if p.grad is not None:
                distributed.all_reduce(p.grad)
                p.grad /= distributed.get_world_size()
