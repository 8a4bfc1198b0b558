"""Several losses, and several teachers, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.distill.binary import other_names
from yolo_slim.distill.view import Pair, Scene, View
from yolo_slim.errors import SlimError

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
        SlimError: a loss that cannot work for a pair, or teachers whose predictions cannot be joined.
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
        if outputs:
            check_joinable(pairs)
        for name, (kind, options) in outputs.items():
            rest = self._weighed(name, kind, options)
            self.outputs[name], *_ = [kind(pair, **rest) for pair in pairs]  # each says whether it can work

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
            name: torch.stack([one(student, t, scene) for one, t in zip(each.children(), teachers, strict=True)]).mean()
            for name, each in self.features.items()
        }
        if self.outputs:
            said = joined(teachers)
            found |= {name: loss(student, said, scene) for name, loss in self.outputs.items()}
        return {name: self.weights[name] * found[name] for name in self.names}


def check_joinable(pairs: Sequence[Pair]) -> None:
    """Nothing, where what the teachers say can be averaged.

    Raises:
        SlimError: other classes, or other bins, than those of the first teacher.
    """
    first, *others = pairs
    for i, other in enumerate(others, 2):
        said = None
        if other.teacher_classes != first.teacher_classes:
            said = f"the first has {first.teacher_classes} classes, the {i}. has {other.teacher_classes}"
        elif other.teacher_bins != first.teacher_bins:
            said = f"the first has {first.teacher_bins} bins a distance, the {i}. has {other.teacher_bins}"
        elif names := other_names(first.teacher_names, other.teacher_names):
            said = f"{names} of the {i}."
        if said:
            raise SlimError(
                f"losses of predictions compare the student with the mean of its teachers, which must know the same "
                f"classes and bins: {said}; take teachers that do, or losses of maps"
            )


def joined(views: Sequence[View]) -> View:
    """What several teachers say together: probabilities averaged, boxes weighted by how sure each is of its class.

    Not logits: a teacher that is sure beyond doubt would outvote all others (Hinton et al., arXiv:1503.02531, 1).
    Distances are averaged as the distributions that they are. The maps are those of the first teacher. All of it at
    temperature 1: a loss at T softens what the teachers say together, it does not average what each says at T.
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
