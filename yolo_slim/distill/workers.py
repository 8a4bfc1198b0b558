"""Losses of a batch that several workers share: what each divides by is that of the whole.

Each GPU sees a part of the batch, and the parts' losses are averaged. That is the loss of the whole only if all divide
by the same: without this, a worker whose images hold one object would weigh it as much as another its hundred.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def over_workers(total: Tensor) -> Tensor:
    """The mean over all workers of what each has found, of any shape, without gradients; itself where one is alone."""
    total = total.detach()
    if not (distributed.is_available() and distributed.is_initialized()):
        return total
    total = total.to(torch.float32, copy=True)
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
