"""Masks: weights that do least, one by one or in small units, are zero, and training keeps them there.

Han et al., arXiv:1506.02626 (single weights by size); granularities and patterns: `patterns`; scores: `saliency`. Batch
norms and biases are never touched. Layers keep their widths, so a runtime has to know of zeros to gain by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from yolo_slim.channels import Conv, Trace, trace
from yolo_slim.channels.moments import Moments
from yolo_slim.compress import patterns, saliency
from yolo_slim.compress.gradual import Growing
from yolo_slim.compress.held import check_zeros, holding, masks, untouched
from yolo_slim.compress.layers import Chosen, some_of
from yolo_slim.compress.method import Hold, Material, Plan
from yolo_slim.compress.ranking import EVIDENCE, Ranking, weights_of
from yolo_slim.compress.skeleton import Striping
from yolo_slim.compress.support import fit_groups, fit_on
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

Criterion = Literal["magnitude", "lamp", "obs", "random", "skeleton"]
Scope = Literal["global", "local"]
Schedule = Literal["once", "cubic"]


@dataclass(frozen=True)
class Weights(Chosen):
    """Zeros by mask. `plan.tensors`: parameter -> bool mask, like it; while it is undecided the zeros of before, and
    parameter + `EVIDENCE` where the ranking goes by more than the weights."""

    help: ClassVar[str] = "sets weights to zero, one by one or in small units, and keeps them there in training"
    speed: ClassVar[str] = "none in dense runtimes; 2:4 where sparse kernels are (TensorRT on Ampere or newer)"
    changes_layers: ClassVar[bool] = False

    pattern: str = field(
        default="unstructured",
        metadata={"help": "what goes together: unstructured, kernel, vector, shape, stripe, N:M (2:4), block:RxC"},
    )
    criterion: Criterion = field(
        default="magnitude",
        metadata={
            "help": "what goes first: magnitude, lamp, obs (looks at images), random; of stripes also skeleton: "
            "training learns a number for each, and those that come to zero go"
        },
    )
    scope: Scope = field(
        default="global",
        metadata={"help": "global: one order for all layers; local: the same share of every layer"},
    )
    sparsity: float = field(
        default=0.5,
        metadata={
            "help": "share of the weights of the layers concerned that are zero, with skeleton at most; an N:M pattern "
            "has its own"
        },
    )
    schedule: Schedule = field(
        default="once",
        metadata={
            "help": "once: zero before training; cubic: training zeroes them by and by, most of them early, each time "
            "the least of what the weights are by then"
        },
    )
    until: float = field(
        default=0.6,
        metadata={"help": "cubic, skeleton: share of the training after which no more become zero"},
    )
    strength: float = field(
        default=1.0,
        metadata={"help": "skeleton: travel, how far the number of a stripe, 1 at first, would go if nothing held it"},
    )
    threshold: float = field(default=0.05, metadata={"help": "skeleton: at which number a stripe goes"})

    def __post_init__(self) -> None:
        """Bounds."""
        patterns.check(self.pattern)
        for name, choices in (("criterion", Criterion), ("scope", Scope), ("schedule", Schedule)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}: expected one of {get_args(choices)}, got {getattr(self, name)!r}")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity: expected a share from 0 to below 1, got {self.sparsity!r}")
        if not 0 < self.until <= 1:
            raise ValueError(f"until: expected a share above 0, 1 at most, got {self.until!r}")
        if not 0 < self.strength <= 1000:
            raise ValueError(f"strength: expected a number above 0, 1000 at most, got {self.strength!r}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold: expected a number from 0 to below 1, got {self.threshold!r}")
        if self.criterion == "skeleton":
            self._check_skeleton()

    def _check_skeleton(self) -> None:
        for name, value in (("pattern", "stripe"), ("scope", "global"), ("schedule", "once")):
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}: criterion skeleton learns in training which stripes of all layers go: expected "
                    f"{value}, got {getattr(self, name)}"
                )

    @property
    def gradual(self) -> bool:
        """Whether training zeroes."""
        return self.schedule == "cubic" or self.criterion == "skeleton"

    @property
    def ranking(self) -> Ranking:
        """By what weights go."""
        return Ranking(self.pattern, self.criterion, self.scope, self.sparsity)

    @torch.no_grad()
    def plan(self, detector: nn.Module, material: Material) -> Plan:
        """Which weights go; those of `material.zeros` are zero already, and count.

        Raises:
            SlimError: no layer can be masked so, a weight is not finite, or `obs` has no images.
        """
        wiring = trace(detector, material.imgsz)
        convs, kept = self.chosen(wiring)
        there = {
            name: material.zeros[f"{name}.weight"].cpu() for name in wiring.convs if f"{name}.weight" in material.zeros
        }
        convs, unfit = self._fit_for(detector, convs)
        weights = {conv.name: weights_of(detector, conv.name) for conv in convs}
        evidence = self._evidence(detector, wiring, convs, weights, there, material)
        if self.criterion == "obs":
            unfit |= {name: "never runs on an image" for name in weights if name not in evidence}
            weights = {name: weight for name, weight in weights.items() if name in evidence}
        if not weights:
            raise SlimError(f"weights.pattern={self.pattern}: no layer can be masked so; {some_of(unfit or kept)}")
        kept |= unfit
        now = {name: there.get(name, torch.ones_like(weight, dtype=torch.bool)) for name, weight in weights.items()}
        tensors = {f"{name}.weight": mask for name, mask in {**there, **now}.items()}  # a refit has to know of all
        if self.gradual:
            tensors |= {f"{name}.weight{EVIDENCE}": of.float() for name, of in evidence.items()}
            return Plan(_rows(now), tensors, kept, undecided=True)
        stays = self._stays(weights, now, evidence)
        kept |= self._nearly_empty(stays)
        rows = _rows(stays)
        tensors |= {f"{name}.weight": mask for name, mask in stays.items()}
        return Plan(rows, tensors, kept, _refitted(wiring, rows))

    def _fit_for(self, detector: nn.Module, convs: list[Conv]) -> tuple[list[Conv], dict[str, str]]:
        """Layers that the pattern fits, and why others do not."""
        unfit: dict[str, str] = {}
        for conv in convs:
            found = patterns.units(self.pattern, conv.layer(detector).weight.shape)
            if self.criterion == "obs" and conv.groups > 1:
                unfit[conv.name] = "is in groups, which obs does not look into"
            elif isinstance(found, str):
                unfit[conv.name] = found
        return [conv for conv in convs if conv.name not in unfit], unfit

    def _evidence(
        self,
        detector: nn.Module,
        wiring: Trace,
        convs: list[Conv],
        weights: Mapping[str, Tensor],
        there: Mapping[str, Tensor],
        material: Material,
    ) -> dict[str, Tensor]:
        """Layer -> what its ranking goes by beside its weights, (U, J); none where it goes by these alone."""
        found: dict[str, Tensor] = {}
        if self.criterion == "random":
            for number, (name, weight) in enumerate(weights.items()):
                found[name] = saliency.chance(_units(self.pattern, weight), weight, [material.seed, number])
        elif self.criterion == "obs":
            for name, covariance in saliency.covariances(detector, convs, material.images, material.seed):
                mask = there.get(name, torch.ones_like(weights[name], dtype=torch.bool)).flatten(1)
                weight, units = weights[name].flatten(1) * mask, _units(self.pattern, weights[name])
                alive, value = units.sums(mask.long()), saliency.worth(detector, wiring, wiring.convs[name])
                found[name] = saliency.curvature(weight, units, alive, covariance, value)
        return {name: found[name] for name in weights if name in found}

    def _stays(
        self, weights: Mapping[str, Tensor], now: Mapping[str, Tensor], evidence: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        ranking, found = self.ranking, dict[str, Tensor]()
        for part in ranking.parts(weights):
            layers = {name: ranking.layer(weights[name], now[name], evidence.get(name)) for name in part}
            found |= ranking.stays(layers, {name: weights[name].shape for name in part})
        return {name: stays & now[name] for name, stays in found.items()}

    def _nearly_empty(self, stays: Mapping[str, Tensor]) -> dict[str, str]:
        """Layers of which nothing but a unit stays."""
        why = "the rest of it stays: without its dearest unit it would say nothing"
        if not self.sparsity or patterns.n_of_m(self.pattern):
            return {}
        units = {name: _units(self.pattern, mask) for name, mask in stays.items()}
        return {name: why for name, mask in stays.items() if int(mask.sum()) <= units[name].size}

    @torch.no_grad()
    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        """A copy with the weights that go at zero; those that training is to zero are as they were."""
        masked = duplicate(detector)
        holding(plan)(masked, 1.0)
        return masked

    def prove(self, detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """That `apply` zeroed what the plan says, and touched nothing else.

        Raises:
            SlimError: it did not.
        """
        figures = self.check(compressed, plan)
        untouched(detector, compressed, masks(plan))
        return figures

    def check(self, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """That all zeros of the plan are there, after a refit or a training as well; figures to be kept.

        Raises:
            SlimError: they are not.
        """
        check_zeros(compressed, plan, None if plan.undecided else patterns.n_of_m(self.pattern))
        return _figures(plan)

    @torch.no_grad()
    def settled(self, trained: nn.Module, plan: Plan) -> Plan:
        """Masks of what training has left: units of which a weight is not zero."""
        stays = {}
        for name in plan.layers:
            weight, before = weights_of(trained, name), plan.tensors[f"{name}.weight"].cpu()
            units = _units(self.pattern, weight)
            alive = units.sums((weight.flatten(1) != 0).long()) > 0
            stays[name] = before & units.spread(alive).reshape(before.shape)
        tensors = {**masks(plan), **{f"{name}.weight": mask for name, mask in stays.items()}}
        return Plan(_rows(stays), tensors, {**plan.kept, **self._nearly_empty(stays)})

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        """Weights (Co, a) that are zero where the plan has zeros, and intercept (Co,), by least squares."""
        mask = plan.tensors.get(f"{layer}.weight")
        if len(moments.x) > weight.shape[1]:
            return fit_groups(moments, weight, None if mask is None else mask.flatten(1))
        return moments.fit(weight) if mask is None else fit_on(moments, weight, mask.flatten(1))

    def describe(self, plan: Plan) -> dict[str, Any]:
        """Zeros among the weights of the layers concerned, and MB of these in fp32: dense, as CSR, with a bitmap."""
        total, zeros = (sum(row[what] for row in plan.layers.values()) for what in ("weights", "zeros"))
        pointers = sum(len(plan.tensors[f"{name}.weight"]) + 1 for name in plan.layers)
        return {
            **_figures(plan),
            "dense_mb": 4 * total / 1e6,
            "csr_mb": (8 * (total - zeros) + 4 * pointers) / 1e6,  # a value and its column, and where rows begin
            "bitmap_mb": (4 * (total - zeros) + total / 8) / 1e6,
            "layers": {name: row["zeros"] / row["weights"] for name, row in plan.layers.items()},
        }

    def hold(self, plan: Plan) -> Hold:
        """Zeroes what goes: all of it or, of a plan that is undecided, what training has come to."""
        if not plan.undecided:
            return holding(plan)
        if self.criterion == "skeleton":
            return Striping(
                plan, strength=self.strength, threshold=self.threshold, sparsity=self.sparsity, until=self.until
            )
        return Growing(plan, self.ranking, self.until)


def _units(pattern: str, weight: Tensor) -> patterns.Units:
    """Of a weight (Co, Ci, kh, kw) that has some."""
    found = patterns.units(pattern, weight.shape)
    assert isinstance(found, patterns.Units)
    return found


def _rows(stays: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Layer -> how many weights it has, and how many of them are zero."""
    return {name: {"weights": mask.numel(), "zeros": int((~mask).sum())} for name, mask in stays.items()}


def _refitted(wiring: Trace, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """From the first layer with zeros on, all that read something else than before."""
    names = list(wiring.convs)
    start = min((names.index(name) for name, row in rows.items() if row["zeros"]), default=len(names))
    return {name: name for name in names[start:] if wiring.convs[name].bias or wiring.convs[name].norm is not None}


def _figures(plan: Plan) -> dict[str, float]:
    total, zeros = (sum(row[what] for row in plan.layers.values()) for what in ("weights", "zeros"))
    return {"weights": total, "zeros": zeros, "sparsity": zeros / total}
