"""Several losses, and several teachers, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.distill.view import Pair, Scene, View

EPS = 1e-6
"""Probabilities stay this far from 0 and 1: their logits are finite."""


class Together(nn.Module):
    """Weighted losses under their names.

    A feature loss compares the student with each teacher and takes the mean; an output loss compares it with what the
    teachers say together.

    Args:
        pairs: the student and each of its teachers.
        features: classes of feature losses, each with its options (`weight` among them); `outputs` likewise.

    Raises:
        SlimError: a loss that cannot work for a pair.
        TypeError: an option that a loss does not have.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        features: Mapping[str, tuple[type[nn.Module], Mapping[str, Any]]],
        outputs: Mapping[str, tuple[type[nn.Module], Mapping[str, Any]]],
    ) -> None:
        super().__init__()
        self.weights: dict[str, float] = {}
        self.features, self.outputs = nn.ModuleDict(), nn.ModuleDict()
        for name, (kind, options) in features.items():
            self.features[name] = nn.ModuleList(kind(pair, **self._weighed(name, kind, options)) for pair in pairs)
        for name, (kind, options) in outputs.items():
            self.outputs[name] = kind(pairs[0], **self._weighed(name, kind, options))

    def _weighed(self, name: str, kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        rest = dict(options)
        self.weights[name] = rest.pop("weight", kind.weight)
        return rest

    @property
    def names(self) -> tuple[str, ...]:
        """Of the losses, in the order in which they are returned."""
        return tuple(self.weights)

    def forward(self, student: View, teachers: Sequence[View], scene: Scene) -> dict[str, Tensor]:
        """Name -> weight * loss, a scalar each."""
        found = {
            name: torch.stack([one(student, t, scene) for one, t in zip(each, teachers, strict=True)]).mean()
            for name, each in self.features.items()
        }
        if self.outputs:
            said = joined(teachers)
            found |= {name: loss(student, said, scene) for name, loss in self.outputs.items()}
        return {name: self.weights[name] * found[name] for name in self.names}


def joined(views: Sequence[View]) -> View:
    """What several teachers say together: probabilities averaged, boxes weighted by how sure each is of its class.

    Not logits: a teacher that is sure beyond doubt would outvote all others (Hinton et al., arXiv:1503.02531, 1).
    Distances are averaged as the distributions that they are. The maps are those of the first teacher.
    """
    if len(views) == 1:
        return views[0]
    each = torch.stack([view.scores.float().sigmoid() for view in views])  # (T, B, K, A)
    sure = each.amax(2).clamp(min=EPS)  # (T, B, A)
    sure = sure / sure.sum(0)
    edges = torch.stack([view.boxes.float().unflatten(1, (4, -1)) for view in views])  # (T, B, 4, bins, A)
    weight = sure[:, :, None, None]
    plain = edges.shape[3] == 1
    boxes = (weight * edges).sum(0) if plain else (weight * edges.softmax(3)).sum(0).clamp(min=EPS).log()
    scores = each.mean(0).clamp(EPS, 1 - EPS).logit()
    return View(views[0].maps, boxes.flatten(1, 2), scores)
