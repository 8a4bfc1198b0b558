"""Convolutions as products of smaller ones, where that saves multiply-accumulates and parameters alike.

Ranks keep a share of the energy of what each layer gives, or are chosen together, for a budget of the whole detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from yolo_slim.channels import Costs, Trace, trace
from yolo_slim.channels.groups import Conv
from yolo_slim.channels.multiple_choice import least_loss
from yolo_slim.compress.chains import Rows, finite_weight, noted, positions, sizes
from yolo_slim.compress.cp import Cp
from yolo_slim.compress.factors import Factors, SpatialSvd, Svd, Tucker2, balanced
from yolo_slim.compress.layers import Chosen, replaceable, some_of
from yolo_slim.compress.method import Material, Plan
from yolo_slim.compress.second_moments import second_moments
from yolo_slim.errors import SlimError

HOW: dict[str, tuple[type[Factors], ...]] = {
    "svd": (Svd,),
    "spatial_svd": (SpatialSvd,),
    "tucker2": (Tucker2,),
    "cp": (Cp,),
    "auto": (SpatialSvd, Tucker2),
}
"""Name -> the ways that are tried of a k x k layer; of a 1 x 1 layer there is but one, `Svd`."""

COSTS = ("flops", "params")


@dataclass(frozen=True)
class Options:
    """Ranks that one way has for one layer, all of which save something."""

    how: str
    factors: Factors
    ranks: np.ndarray  # (n, 1 or 2)
    kept: np.ndarray  # (n,) shares of the energy
    costs: dict[str, np.ndarray]  # of `COSTS`, (n,): multiply-accumulates, weights


@dataclass(frozen=True)
class LowRank(Chosen, Rows):
    """Low-rank factors; see `Svd`, `SpatialSvd`, `Tucker2` and `Cp` for the formulas and their sources."""

    help: ClassVar[str] = "k x k and 1 x 1 convolutions become products of smaller ones (SVD, Tucker, CP)"
    speed: ClassVar[str] = "dense layers, so every runtime gains; but more of them: measure at the batch you use"

    how: str = field(
        default="auto",
        metadata={"help": f"{', '.join(HOW)}; auto: of a k x k layer spatial_svd or tucker2, whichever saves more"},
    )
    energy: float = field(
        default=0.99,
        metadata={"help": "share of the energy of what a layer gives that its ranks keep; below .98 much is lost"},
    )
    target: Mapping[str, float] | None = field(
        default=None,
        metadata={"help": "instead of energy: flops or params of the whole detector, a share of what it has, e.g. 0.7"},
    )
    multiple: int = field(default=8, metadata={"help": "ranks are multiples of it: runtimes work in blocks"})
    data_aware: bool = field(
        default=True, metadata={"help": "weigh errors by what the layers read on the images, where there are any"}
    )

    def __post_init__(self) -> None:
        """Raises ValueError: a setting out of its bounds."""
        if self.how not in HOW:
            raise ValueError(f"how: expected one of {', '.join(HOW)}, got {self.how!r}")
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy: expected a share above 0, up to 1, got {self.energy}")
        if not 1 <= self.multiple <= 1024:
            raise ValueError(f"multiple: expected 1 to 1024, got {self.multiple}")
        if self.target is not None and not (
            len(self.target) == 1
            and {*self.target} <= {*COSTS}
            and all(0 < share < 1 for share in self.target.values())
        ):
            raise ValueError(
                f"target: expected one of {', '.join(COSTS)} with a share between 0 and 1, got {dict(self.target)}"
            )

    def plan(self, detector: nn.Module, material: Material) -> Plan:
        """The ranks of every layer, and the factors.

        Raises:
            SlimError: no layer can be replaced, the target cannot be reached, weights or what a layer reads are not
                finite, or a pattern matches no layer.
        """
        wiring = trace(detector, material.imgsz)
        asked, kept = self.chosen(wiring)
        convs, stay = replaceable(detector, asked)
        options = self._options(detector, wiring, convs, material)
        stay |= {name: "nothing that keeps less saves anything" for name, some in options.items() if not some}
        options = {name: some for name, some in options.items() if some}
        picked = self._by_energy(options, stay) if self.target is None else self._by_budget(options, wiring)
        if not picked:
            raise SlimError(f"low_rank has nothing to replace: {some_of(stay)}. Try less energy, or a smaller multiple")
        layers, chains = {}, {}
        for name in sorted(picked, key=[*wiring.convs].index):
            (some, i), conv = picked[name], wiring.convs[name]
            layers[name] = {
                "how": some.how,
                "ranks": some.ranks[i].tolist(),
                "energy": round(float(some.kept[i]), 6),
                "macs": [conv.macs, int(some.costs["flops"][i])],
                "params": [conv.weights, int(some.costs["params"][i])],
            }
            chains[name] = balanced(some.factors.chain(some.ranks[i]))
        stay |= {name: "the target is met without it" for name in options if name not in picked and name not in stay}
        return replace(noted(layers, chains, detector), kept=kept | stay)

    def _options(
        self, detector: nn.Module, wiring: Trace, convs: list[Conv], material: Material
    ) -> dict[str, list[Options]]:
        """Convolution -> what each way has for it, none: []."""
        ways = {conv.name: HOW["svd" if conv.kernel == 1 else self.how] for conv in convs}
        kinds = {name: dict.fromkeys(way.moments for way in some) for name, some in ways.items()}
        images = material.images if self.data_aware else ()
        grams = second_moments(detector, kinds, images, seed=material.seed)
        seen = sizes(detector, wiring)
        found: dict[str, list[Options]] = {}
        for conv in convs:
            layer = conv.layer(detector)
            weight = finite_weight(layer, conv.name)
            each = (
                self._of(way, conv, layer, grams.get((conv.name, way.moments)), weight, seen.get(conv.name, []))
                for way in ways[conv.name]
            )
            found[conv.name] = [some for some in each if some is not None]
        return found

    def _of(
        self,
        way: type[Factors],
        conv: Conv,
        layer: nn.Conv2d,
        gram: Tensor | None,
        weight: Tensor,
        seen: list[tuple[int, int]],
    ) -> Options | None:
        factors = way(weight, gram)
        ranks = factors.ranks(self.multiple)
        counts = factors.counts(ranks)
        macs, params = counts @ positions(layer, factors.steps, seen), counts.sum(1)
        saving = np.flatnonzero((macs < conv.macs) & (params < conv.weights))
        if not len(saving):
            return None
        ranks, costs = ranks[saving], {"flops": macs[saving], "params": params[saving]}
        how = next(name for name, some in HOW.items() if way in some)
        return Options(how, factors, ranks, factors.energies(ranks, None if self.target else self.energy), costs)

    def _by_energy(self, options: dict[str, list[Options]], kept: dict[str, str]) -> dict[str, tuple[Options, int]]:
        """The cheapest of each layer that keeps the energy."""
        picked = {}
        for name, found in options.items():
            enough = [(some, int(i)) for some in found for i in np.flatnonzero(some.kept >= self.energy - 1e-9)]
            if enough:
                picked[name] = min(enough, key=lambda one: (one[0].costs["flops"][one[1]], -one[0].kept[one[1]]))
            else:
                most = max(some.kept.max() for some in found)
                kept[name] = f"what saves keeps {most:.3f} of its energy at most, and {self.energy:g} are asked for"
        return picked

    def _by_budget(self, options: dict[str, list[Options]], wiring: Trace) -> dict[str, tuple[Options, int]]:
        """The ranks that lose the least energy, summed over the layers, within the budget."""
        assert self.target is not None
        ((cost, share),) = self.target.items()
        whole = {name: conv.macs if cost == "flops" else conv.weights for name, conv in wiring.convs.items()}
        costs_of = Costs(wiring)
        all_of_it = costs_of.of(costs_of.full)  # batch norms too, as FLOPs are counted everywhere
        total = all_of_it.macs if cost == "flops" else all_of_it.params
        room = share * total - (total - sum(whole[name] for name in options))
        fronts = {name: _front(found, cost, whole[name]) for name, found in options.items()}
        least = sum(front[0][1] for front in fronts.values())
        if least > room:
            raise SlimError(
                f"low_rank cannot reach {cost} x{share:g}: with the lowest ranks there are, x"
                f"{(share * total - room + least) / total:.3f} is left. Ask for more, or allow more layers"
            )
        first = np.cumsum([0, *(len(front) for front in fronts.values())][:-1])
        flat = [one for front in fronts.values() for one in front]
        losses, costs = np.array([one[0] for one in flat]), np.array([float(one[1]) for one in flat])
        taken = least_loss(losses, costs[None], np.array([float(room)]), first) if flat else np.empty(0, int)
        found = {name: flat[i][2] for name, i in zip(fronts, taken, strict=True)}
        return {name: one for name, one in found.items() if one is not None}

    def describe(self, plan: Plan) -> dict[str, Any]:
        """As others do, and the least energy that a layer keeps."""
        least = min((told["energy"] for told in plan.layers.values()), default=1.0)
        return {**super().describe(plan), "least_energy": least}


def _front(found: list[Options], cost: str, whole: int) -> list[tuple[float, int, tuple[Options, int] | None]]:
    """(loss, cost, which), of rising cost and falling loss: without those that cost no less and lose no less.

    The loss is -log of the share kept: what is summed over the layers is the product of the shares (Zhang et al. 2016,
    arXiv:1505.06798, 3.3), so that no layer is given up for the others.
    """
    every: list[tuple[float, int, tuple[Options, int] | None]] = [(0.0, whole, None)]
    for some in found:
        losses = -np.log(some.kept.clip(1e-12, 1)) + 0.0
        every += [(float(losses[i]), int(some.costs[cost][i]), (some, i)) for i in range(len(losses))]
    front: list[tuple[float, int, tuple[Options, int] | None]] = []
    for one in sorted(every, key=lambda one: (one[1], one[0])):
        if not front or one[0] < front[-1][0]:
            front.append(one)
    return front
