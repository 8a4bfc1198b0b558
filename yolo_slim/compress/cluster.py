"""Weight sharing: a layer's weights take few values (Han et al., Deep Compression, ICLR 2016, arXiv:1510.00149, 3).

K-means on the weights of each layer that are not zero; what is stored is a table of the means and the number of one for
each weight. Smaller as a file (`yolo-slim pack`), and no faster: runtimes read numbers, not tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import trace
from yolo_slim.channels.moments import Moments
from yolo_slim.compress.kmeans import INITS, kmeans
from yolo_slim.compress.layers import Chosen
from yolo_slim.compress.method import Hold, Material, Plan
from yolo_slim.compress.tied import checked, in_half, moved, restoring, to_refit, weight_of, zeros_of
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate


@dataclass(frozen=True)
class Cluster(Chosen):
    """K-means of each layer's weights."""

    help: ClassVar[str] = "weights of a layer share few values (k-means): a table and a few bits a weight"
    speed: ClassVar[str] = "no faster: a smaller file once it is packed"
    changes_layers: ClassVar[bool] = False
    gradual: ClassVar[bool] = False

    bits: int = field(default=5, metadata={"help": "of a weight's number in the table: 2^bits values a layer"})
    init: str = field(default="linear", metadata={"help": f"where the means begin: {', '.join(INITS)}"})

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits: expected 1 to 8, got {self.bits}")
        if self.init not in INITS:
            raise ValueError(f"init: expected one of {', '.join(INITS)}, got {self.init}")

    def plan(self, detector: nn.Module, material: Material) -> Plan:
        """Of each weight the number of its cluster from 1 on, 0 for what is zero; int16, like the weights.

        Raises:
            SlimError: no layer is eligible, or one has weights that are no numbers.
        """
        convs, kept = self.chosen(trace(detector, material.imgsz))
        layers, tensors = {}, {}
        for conv in convs:
            name, weight = weight_of(conv.name), checked(conv.name, conv.layer(detector).weight)
            ids = self._clusters(weight, zeros_of(name, weight, material.zeros), material.seed)
            values, used = weight.flatten(), int(ids.max())
            if not used:
                kept[conv.name] = "all of its weights are zero"
                continue
            away = values - tied(values, ids.flatten().long())
            layers[conv.name] = {
                "values": used,
                "error": float(away.double().norm() / values.double().norm()),
                "rate": rate(len(values), used),
            }
            tensors[name] = ids
        if not tensors:
            raise SlimError("expected weights to cluster, but all of those chosen are zero")
        return Plan(layers, tensors, kept, to_refit(conv for conv in convs if conv.name in layers))

    def _clusters(self, weight: Tensor, zero: Tensor, seed: int) -> Tensor:
        ids = torch.zeros(weight.shape, dtype=torch.int16)
        if not zero.all():
            _, found = kmeans(weight[~zero].double().numpy(force=True), 1 << self.bits, self.init, seed)
            ids[~zero.to(ids.device)] = torch.from_numpy(found.astype(np.int16) + 1)
        return ids

    @torch.no_grad()
    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        """A new detector, each weight the mean of its cluster, in fp16's numbers."""
        shared = duplicate(detector)
        for name, ids in plan.tensors.items():
            weight = shared.get_parameter(name)
            weight.copy_(in_half(tied(weight.flatten(), _flat(ids, weight))).view_as(weight))
        return shared

    def prove(self, detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """See `check`; and `error`, how far the weights have moved, relative."""
        return {**self.check(compressed, plan), "error": moved(detector, compressed, plan.tensors)}

    def check(self, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """That each cluster has one value and zeros are zero: `values`, the most that a layer has.

        Raises:
            SlimError: they do not.
        """
        most = 0
        for name, ids in plan.tensors.items():
            after = compressed.get_parameter(name).detach().flatten()
            numbers = _flat(ids, after)
            if not torch.equal(tied(after, numbers).half(), after.half()):
                raise SlimError(f"{name}: weights of one cluster differ, or one that is held at zero is not zero")
            if not torch.isfinite(after.half()).all():
                raise SlimError(f"{name}: fp16, in which detectors are stored, does not hold its values")
            most = max(most, int(after.half()[numbers > 0].unique().numel()))
        return {"values": most}

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        """The codebook c of least squares, min sum_o |X S_o c - Y_o|^2, S_o (a, k) the clusters of output o's weights.

        Its normal equations are k x k, sum_o S_o' C S_o, drawn to the present means as in `Moments.fit`.
        """
        ids = plan.tensors[weight_of(layer)].flatten(1).long().to(weight.device)
        start = tied(weight.flatten().double(), ids.flatten()).view_as(weight)
        covariance, pull = moments.normal(start)
        size = int(ids.max()) + 1
        left, right = covariance.new_zeros(size, size), covariance.new_zeros(size)
        for numbers, towards in zip(ids, pull.T, strict=True):
            rows = covariance.new_zeros(size, len(numbers)).index_add_(0, numbers, covariance)  # S_o' C
            left += rows.new_zeros(size, size).index_add_(0, numbers, rows.T)
            right.index_add_(0, numbers, towards)
        used = ids.unique()
        used = used[used > 0]
        move = right.new_zeros(size)
        move[used] = torch.linalg.solve(left[used][:, used], right[used])
        fitted = in_half(start.to(weight.dtype) + move[ids].to(weight.dtype)) * (ids > 0)
        return fitted + 0.0, moments.intercept(fitted.double())

    def describe(self, plan: Plan) -> dict[str, Any]:
        """Layers, the most values of one, and how many bits a weight takes in the table's numbers."""
        return {
            "layers": len(plan.layers),
            "bits": self.bits,
            "values": max(of["values"] for of in plan.layers.values()),
        }

    def hold(self, plan: Plan) -> Hold:
        """Each weight the mean of its cluster: the means are trained with the summed gradient of their members
        (`tied`)."""
        numbers = {name: ids.flatten().long() for name, ids in plan.tensors.items()}
        return restoring(numbers, lambda weight, ids: tied(weight.flatten(), ids).view_as(weight))


def tied(weights: Tensor, ids: Tensor) -> Tensor:
    """Each of the weights (n,) as the mean of those of its number (n,); those of number 0 as 0."""
    size = int(ids.max()) + 1 if len(ids) else 1
    sums = torch.zeros(size, dtype=torch.float64, device=weights.device).index_add_(0, ids, weights.double())
    means = sums / torch.bincount(ids, minlength=size).clamp(min=1)
    means[0] = 0
    return means.to(weights.dtype)[ids]


def rate(weights: int, values: int, bits: int = 32) -> float:
    """How many times smaller weights of so many bits get: n b / (n log2 k + k b) (Han et al., eq. 1)."""
    return weights * bits / (weights * math.ceil(math.log2(max(values, 2))) + values * bits)


def _flat(ids: Tensor, weight: Tensor) -> Tensor:
    return ids.flatten().long().to(weight.device)
