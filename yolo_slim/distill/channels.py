"""Channel-true mimicry: the student was cut from its teacher, and each of its channels is one of the teacher's.

FitNets (arXiv:1412.6550, 2.2) needs a regressor between two networks that share nothing. Here nothing has to be
learned on the way: the channel that stayed should go on saying what it said.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.distill.match import Match, error_share
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.errors import SlimError


class Channels(nn.Module):
    """Squared error between a channel and itself in the teacher, as a share of the teacher's variance."""

    weight = 3.0
    maps_alone = True
    every_block = True

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        if pair.same is None:
            raise SlimError(
                "distillation `channels` needs a student that was cut from this teacher, and knows no common "
                "channels here; take the detector that was pruned as the teacher, or `mimic`, which has adapters"
            )
        self.match = Match(pair, adapter=False, normalize=False)

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar: 0 where each channel is itself, 1 where the student says each level's mean everywhere."""
        pairs = self.match(student.maps, teacher.maps)  # not normalized: one division of a scalar does for both maps
        return torch.stack([error_share(s, t) for s, t in pairs]).mean()
