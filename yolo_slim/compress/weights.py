"""Masks: weights that do least, one by one or in small units, are zero, and training keeps them there.

Han et al., arXiv:1506.02626 (single weights by size); granularities and patterns: `patterns`; scores: `saliency`. Batch
norms and biases are never touched. Layers keep their widths, so a runtime has to know of zeros to gain by them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from yolo_slim.channels import Conv, Trace, trace
from yolo_slim.channels.moments import Moments
from yolo_slim.channels.reconstruct import refittable
from yolo_slim.compress import patterns, saliency
from yolo_slim.compress.held import ORDER, check_zeros, holding, masks, share_gone, untouched
from yolo_slim.compress.layers import eligible, named, some_of
from yolo_slim.compress.masking import NEVER, Layer, choose, choose_of_m
from yolo_slim.compress.method import Hold, Material, Plan
from yolo_slim.compress.support import fit_on
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate

Criterion = Literal["magnitude", "lamp", "obs", "random"]
Scope = Literal["global", "local"]
Schedule = Literal["once", "cubic"]


@dataclass(frozen=True)
class Weights:
    """Zeros by mask. `plan.tensors`: parameter -> bool mask, like it; with a cubic schedule parameter + `ORDER` too."""

    help: ClassVar[str] = "sets weights to zero, one by one or in small units, and keeps them there in training"
    speed: ClassVar[str] = "none in dense runtimes; 2:4 where sparse kernels are (TensorRT on Ampere or newer)"
    changes_layers: ClassVar[bool] = False

    pattern: str = field(
        default="unstructured",
        metadata={"help": "what goes together: unstructured, kernel, vector, shape, stripe, N:M (2:4), block:RxC"},
    )
    criterion: Criterion = field(
        default="magnitude",
        metadata={"help": "what goes first: magnitude, lamp, obs (looks at images) or random"},
    )
    scope: Scope = field(
        default="global",
        metadata={"help": "global: one order for all layers; local: the same share of every layer"},
    )
    sparsity: float = field(
        default=0.5,
        metadata={"help": "share of the weights of the layers concerned that are zero; an N:M pattern has its own"},
    )
    schedule: Schedule = field(
        default="once",
        metadata={"help": "once: zero before training; cubic: training zeroes them by and by, most of them early"},
    )
    until: float = field(
        default=0.6,
        metadata={"help": "cubic: share of the training after which all are zero"},
    )
    first: bool = field(default=False, metadata={"help": "also the layer that reads the image"})
    predictions: bool = field(default=False, metadata={"help": "also the layers that predict"})
    layers: tuple[str, ...] = field(
        default=(), metadata={"help": "names or patterns of layers; none: all that are eligible"}
    )

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

    @property
    def gradual(self) -> bool:
        """Whether training zeroes."""
        return self.schedule == "cubic"

    @torch.no_grad()
    def plan(self, detector: nn.Module, material: Material) -> Plan:
        """Which weights go; those of `material.zeros` are zero already, and count.

        Raises:
            SlimError: no layer can be masked so, a weight is not finite, or `obs` has no images.
        """
        wiring = trace(detector, material.imgsz)
        convs, kept = self._concerned(wiring)
        zeros = {
            conv.name: material.zeros[f"{conv.name}.weight"].flatten(1).cpu()
            for conv in wiring.convs.values()
            if f"{conv.name}.weight" in material.zeros
        }
        layers, unfit = self._scored(detector, wiring, convs, zeros, material)
        if not layers:
            raise SlimError(f"weights.pattern={self.pattern}: no layer can be masked so; {some_of(unfit or kept)}")
        kept |= unfit
        ways = self._ways(layers, {name: wiring.convs[name].layer(detector).weight.shape for name in layers})
        rows: dict[str, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        for name, way in ways.items():
            if name in zeros:
                way[~zeros[name]] = 0
            shape, mask = wiring.convs[name].layer(detector).weight.shape, way == NEVER
            rows[name] = {"weights": mask.numel(), "zeros": int((~mask).sum())}
            tensors[f"{name}.weight"] = mask.reshape(shape)
            if self.schedule == "cubic":
                tensors[f"{name}.weight{ORDER}"] = way.reshape(shape)
            unit = layers[name].units.rows * layers[name].units.columns.shape[1]
            if self.sparsity and patterns.n_of_m(self.pattern) is None and int(mask.sum()) <= unit:
                kept[name] = "the rest of it stays: without its dearest unit it would say nothing"
        for name, there in zeros.items():  # of other layers: a refit has to know of them
            tensors.setdefault(f"{name}.weight", there.reshape(wiring.convs[name].layer(detector).weight.shape))
        return Plan(rows, tensors, kept, self._refitted(wiring, rows))

    def _concerned(self, wiring: Trace) -> tuple[list[Conv], dict[str, str]]:
        """Layers to be masked as far as the settings go, and why others are not."""
        if self.layers:
            some, why = named(wiring, self.layers), "not among the layers asked for"
        else:
            some = eligible(wiring, first=self.first, predictions=self.predictions)
            why = "reads the image, or predicts"
        there = {conv.name for conv in some}
        return some, {name: why for name in wiring.convs if name not in there}

    def _scored(
        self, detector: nn.Module, wiring: Trace, convs: list[Conv], zeros: dict[str, Tensor], material: Material
    ) -> tuple[dict[str, Layer], dict[str, str]]:
        """Layers with their units and scores, and why others have none."""
        units: dict[str, patterns.Units] = {}
        unfit: dict[str, str] = {}
        for conv in convs:
            found = patterns.units(self.pattern, conv.layer(detector).weight.shape)
            if self.criterion == "obs" and conv.groups > 1:
                found = "is in groups, which obs does not look into"
            if isinstance(found, str):
                unfit[conv.name] = found
            else:
                units[conv.name] = found
        some = [conv for conv in convs if conv.name in units]
        scored: dict[str, Layer] = {}

        def add(name: str, covariance: Tensor | None = None) -> None:
            weight, of = _weights(detector, name), units[name]
            there = zeros[name] if name in zeros else torch.ones_like(weight, dtype=torch.bool)
            weight, alive = weight * there, of.sums(there.long())
            if covariance is not None:
                value = saliency.worth(detector, wiring, wiring.convs[name])
                scores = saliency.surgeon(weight, of, alive, covariance, value)
            elif self.criterion == "random":
                scores = saliency.chance(of, weight, [material.seed, [*units].index(name)])
            else:
                scores = (saliency.lamp if self.criterion == "lamp" else saliency.magnitude)(weight, of, alive)
            scored[name] = Layer(of, scores.float(), alive)

        if self.criterion == "obs":
            for name, covariance in saliency.covariances(detector, some, material.images, material.seed):
                add(name, covariance)
            unfit |= {name: "never runs on an image" for name in units if name not in scored}
        else:
            for conv in some:
                add(conv.name)
        return {name: scored[name] for name in units if name in scored}, unfit

    def _ways(self, layers: dict[str, Layer], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
        if of := patterns.n_of_m(self.pattern):
            parts = [layers] if self.scope == "global" else [{name: layer} for name, layer in layers.items()]
            found = [choose_of_m(part, shapes, *of) for part in parts]
        elif self.scope == "global":
            found = [choose(layers, self.sparsity)]
        else:
            found = [choose({name: layer}, self.sparsity) for name, layer in layers.items()]
        return {name: way for ways in found for name, way in ways.items()}

    def _refitted(self, wiring: Trace, rows: dict[str, dict[str, Any]]) -> dict[str, str]:
        """From the first layer with zeros on, all that read something else than before; none if training zeroes."""
        names = list(wiring.convs)
        start = min((names.index(name) for name, row in rows.items() if row["zeros"]), default=len(names))
        some = names[start:] if self.schedule == "once" else []
        return {name: name for name in some if refittable(wiring.convs[name])}

    @torch.no_grad()
    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        """A copy with the weights that go at zero; with a cubic schedule an unchanged one: training zeroes them."""
        masked = duplicate(detector)
        if self.schedule == "once":
            holding(plan)(masked, 1.0)
        return masked

    def prove(self, detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """That `apply` zeroed what the plan says, and touched nothing else.

        Raises:
            SlimError: it did not.
        """
        figures = {} if self.schedule == "cubic" else self.check(compressed, plan)
        untouched(detector, compressed, masks(plan) if self.schedule == "once" else {})
        return figures or _figures(plan)

    def check(self, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """That all zeros of the plan are there, after a refit or a training as well; figures to be kept.

        Raises:
            SlimError: they are not.
        """
        check_zeros(compressed, plan, patterns.n_of_m(self.pattern))
        return _figures(plan)

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        """Weights (Co, a) that are zero where the plan has zeros, and intercept (Co,), by least squares."""
        mask = plan.tensors.get(f"{layer}.weight")
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
        """Zeroes what goes: all of it always or, with a cubic schedule, as much as is due."""
        return holding(plan, lambda passed: share_gone(passed, self.until))


def _figures(plan: Plan) -> dict[str, float]:
    total, zeros = (sum(row[what] for row in plan.layers.values()) for what in ("weights", "zeros"))
    return {"weights": total, "zeros": zeros, "sparsity": zeros / total}


def _weights(detector: nn.Module, name: str) -> Tensor:
    """(Co, a)."""
    weight = detector.get_parameter(f"{name}.weight").detach().flatten(1).float().cpu()
    if not torch.isfinite(weight).all():
        raise SlimError(f"{name}.weight holds numbers that are not finite: no order of weights can be made of these")
    return weight
