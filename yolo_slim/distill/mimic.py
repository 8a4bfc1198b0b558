"""Feature mimicry: the student's maps, through a 1x1 adapter, should be the teacher's (FitNets, arXiv:1412.6550, 2.1).

The paper's half squared norm is taken here as a mean over elements, so that a weight means the same at any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Mimic(nn.Module):
    """Mean squared error between adapted student maps and teacher maps, averaged over levels."""

    def __init__(self, student_widths: Sequence[int], teacher_widths: Sequence[int]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            nn.Conv2d(s, t, 1, bias=False) for s, t in zip(student_widths, teacher_widths, strict=True)
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """A scalar, fp32.

        Args:
            student: per level (B, Cs, H, W).
            teacher: per level (B, Ct, H, W), without gradients.
        """
        errors = [
            nn.functional.mse_loss(adapter(s).float(), t.float())
            for adapter, s, t in zip(self.adapters, student, teacher, strict=True)
        ]
        return torch.stack(errors).mean()
