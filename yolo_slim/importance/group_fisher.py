"""What each image's loss would change without a channel, squared (Liu et al., ICML 2021, arXiv:2108.00708, Eq. 4).

The mask stands where the channel is read. The paper divides by the memory that the channel takes: see `per_cost`.
"""

from __future__ import annotations

import torch
from torch import nn

from yolo_slim.channels import Trace
from yolo_slim.importance.combine import Rows, scored
from yolo_slim.importance.evidence import Evidence
from yolo_slim.importance.places import gate_gradients


@scored(per_cost="memory")  # as in its paper
def group_fisher(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """Sum over images of (sum over consumers, slots and positions of A * dL_n/dA)^2: one row a group.

    A is a channel's map at a consumer's input, behind the activation. Batch norm keeps its running statistics, so that
    images do not see one another.

    Raises:
        SlimError: no labelled batches.
    """
    gradients = gate_gradients(detector, trace, evidence, "group_fisher", at="read")
    squares = [gradient.double().square().sum(0).cpu() for gradient in gradients]
    if not squares:
        return {}
    importance = torch.stack(squares).sum(0).numpy()
    return {group.name: importance[group.channels][None] for group in trace.free}
