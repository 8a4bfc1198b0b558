"""Which weights go first, and how many: as often as it is asked, from the weights as they are by then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolo_slim.compress import patterns, saliency
from yolo_slim.compress.masking import Layer, choose, choose_of_m
from yolo_slim.errors import SlimError

EVIDENCE = ":evidence"
"""Parameter + this, in a plan's tensors: what a ranking goes by beside the weights, (U, J) of its units. Of criterion
obs what a unit costs for each square of its size, of random its place in the order."""


@dataclass(frozen=True)
class Ranking:
    """Settings of `Weights` that decide it."""

    pattern: str
    criterion: str
    scope: str
    sparsity: float  # an N:M pattern has its own

    def layer(self, weight: Tensor, there: Tensor, evidence: Tensor | None = None) -> Layer:
        """A layer as a choice sees it.

        Args:
            weight: (Co, Ci, kh, kw).
            there: like it, bool: what is not zero for good.
            evidence: see `EVIDENCE`; None: the criterion needs none.
        """
        units = patterns.units(self.pattern, weight.shape)
        assert isinstance(units, patterns.Units)
        there, weight = there.flatten(1), weight.flatten(1)
        weight, alive = weight * there, units.sums(there.long())
        if self.criterion == "random":
            assert evidence is not None
            scores = evidence
        elif self.criterion == "lamp":
            scores = saliency.lamp(weight, units, alive)
        else:
            scores = saliency.magnitude(weight, units, alive)
            if evidence is not None:
                scores = evidence * scores.square()
        return Layer(units, scores.float(), alive)

    def parts(self, names: Iterable[str]) -> list[list[str]]:
        """Layers whose weights are compared with one another: all of them, or each alone."""
        return [[*names]] if self.scope == "global" else [[name] for name in names]

    def stays(
        self, layers: Mapping[str, Layer], shapes: Mapping[str, torch.Size], begun: float = 0.0, far: float = 1.0
    ) -> dict[str, Tensor]:
        """Layer -> (Co, Ci, kh, kw) bool, what stays of layers that are compared.

        Args:
            layers: of `layer`, of one of the `parts`.
            shapes: of their weights.
            begun: share of their weights that was zero at the beginning of the way.
            far: share of the way to the sparsity that they are to have.
        """
        of = patterns.n_of_m(self.pattern)
        target = 1 - of[0] / of[1] if of else self.sparsity
        due = target if far == 1 else begun + (target - begun) * far
        # A pattern of blocks goes to its end, also where zeros of before leave fewer than one has to take.
        found = choose_of_m(layers, shapes, *of, 1.0 if far == 1 else due) if of else choose(layers, due)
        return {name: stays.reshape(shapes[name]) for name, stays in found.items()}


def weights_of(detector: nn.Module, name: str) -> Tensor:
    """A layer's weights (Co, Ci, kh, kw), on the CPU in fp32.

    Raises:
        SlimError: they are not finite.
    """
    weight = detector.get_parameter(f"{name}.weight").detach().float().cpu()
    if not torch.isfinite(weight).all():
        raise SlimError(f"{name}.weight holds numbers that are not finite: no order of weights can be made of these")
    return weight
