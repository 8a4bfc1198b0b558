"""What the loss would change without a channel, to first order (Molchanov et al., CVPR 2019, arXiv:1906.10771, 3.1).

The gate stands right behind the batch norm, where its gradient is gamma * dL/dgamma + beta * dL/dbeta. The paper's
second order, (-g + H/2)^2, is left out: the diagonal of H takes a pass back for every channel, some 4,000 in yolov5n.
`obs` is the criterion here that knows curvature.
"""

from __future__ import annotations

import torch
from torch import nn

from yolo_slim.channels import Trace
from yolo_slim.importance.combine import Rows
from yolo_slim.importance.evidence import Evidence
from yolo_slim.importance.places import gate_gradients


def taylor(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """Mean over labelled batches of (sum over producers of gamma * dL/dgamma + beta * dL/dbeta)^2: one row a group.

    Batch norm keeps its running statistics. A producer without batch norm has its gate on its own output.

    Raises:
        SlimError: no labelled batches.
    """
    gradients = gate_gradients(detector, trace, evidence, "taylor", at="made")
    squares = [gradient.mean(0).double().square().cpu() for gradient in gradients]
    if not squares:
        return {}
    importance = torch.stack(squares).mean(0).numpy()
    return {group.name: importance[group.channels][None] for group in trace.free}
