"""k x k convolutions give way to cheaper modules of a fixed form, begun from the old weights; they are trained after.

Depthwise k x k, then 1 x 1 (MobileNets, Howard et al. 2017, arXiv:1704.04861): 1/Co + 1/k^2 of the multiply-accumulates
stay. Groups (ShuffleNet, Zhang et al. 2018, arXiv:1707.01083): 1/groups. Ghost maps (Han et al., GhostNet, CVPR 2020,
arXiv:1911.11907): an ordinary convolution makes half of the maps, and a cheap depthwise one two out of each; some 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import trace
from yolo_slim.channels.groups import Conv
from yolo_slim.channels.moments import Moments
from yolo_slim.compress.chains import Rows, finite_weight, names_of, noted, positions, sizes
from yolo_slim.compress.factors import Chain, balanced, damped, symmetric
from yolo_slim.compress.layers import Chosen, replaceable, some_of
from yolo_slim.compress.method import Material, Plan
from yolo_slim.compress.second_moments import second_moments
from yolo_slim.compress.support import fit_groups
from yolo_slim.errors import SlimError

GHOST = 3
"""Side of a ghost map's kernel: the paper's d (4.1)."""


def dwsep(weight: Tensor, gram: Tensor | None, groups: int) -> Chain:
    """Depthwise k x k, then 1 x 1: of each input channel's weights (Co x k^2) the best of rank one.

    Args:
        weight: (Co, Ci, kh, kw), fp64.
        gram: second moments of each channel's window (Ci, k^2, k^2): the best for what the layer gives, channel by
            channel; None: for its weights.
        groups: has no say here.
    """
    _, ci, kh, kw = weight.shape
    slices = weight.permute(1, 0, 2, 3).flatten(2)  # [Ci, Co, k^2]
    seen = slices if gram is None else slices @ torch.stack([damped(one) for one in gram])
    leading = symmetric(seen @ slices.transpose(1, 2))[1][:, :, :1]  # [Ci, Co, 1]
    depthwise = (leading.transpose(1, 2) @ slices).reshape(ci, 1, kh, kw)
    return [("hw", depthwise), ("", leading[:, :, 0].T[:, :, None, None])]


def group(weight: Tensor, gram: Tensor | None, groups: int) -> Chain:
    """One convolution in groups: the blocks on the diagonal, taking over by least squares what the others gave.

    Args:
        weight: (Co, Ci, kh, kw), fp64.
        gram: second moments of whole patches (Ci k^2, Ci k^2); None: the blocks as they are.
        groups: of equal width.
    """
    co, ci, kh, kw = weight.shape
    rows, columns = weight.flatten(1).chunk(groups), torch.arange(ci * kh * kw).chunk(groups)
    blocks = [row[:, own] for row, own in zip(rows, columns, strict=True)]
    if gram is not None:
        gram = damped(gram)
        blocks = [
            torch.linalg.solve(gram[own][:, own], (row @ gram[:, own]).T).T
            for row, own in zip(rows, columns, strict=True)
        ]
    return [("hw", torch.cat(blocks).reshape(co, -1, kh, kw))]


def ghost(weight: Tensor, gram: Tensor | None, groups: int) -> Chain:
    """Half of the maps, then each into two by a kernel of its own: (2i, 2i + 1) begin as shares of the i-th.

    Both of the pair are depthwise maps of the i-th, one of which GhostNet takes as it is; of its module, this is the
    form without a concatenation, in stock layers.

    Args:
        weight: (Co, Ci, kh, kw), fp64; Co is even.
        gram: second moments of whole patches (Ci k^2, Ci k^2): the best of rank one for what the pairs give; None: for
            their weights.
        groups: has no say here.
    """
    pairs = weight.flatten(1).unflatten(0, (-1, 2))  # [Co / 2, 2, Ci k^2]
    seen = pairs if gram is None else pairs @ damped(gram)
    leading = symmetric(seen @ pairs.transpose(1, 2))[1][:, :, :1]  # [Co / 2, 2, 1]
    cheap = weight.new_zeros(len(weight), 1, GHOST, GHOST)
    cheap[:, 0, GHOST // 2, GHOST // 2] = leading.flatten()
    return [("hw", (leading.transpose(1, 2) @ pairs).reshape(-1, *weight.shape[1:])), ("", cheap)]


MODULES: dict[str, tuple[Callable[[Tensor, Tensor | None, int], Chain], str]] = {
    "dwsep": (dwsep, "windows"),
    "group": (group, "patch"),
    "ghost": (ghost, "patch"),
}
"""Name -> what makes the module of a kernel, and the second moments that it is given."""


@dataclass(frozen=True)
class Compact(Chosen, Rows):
    """Cheaper modules in the place of k x k convolutions."""

    help: ClassVar[str] = "k x k convolutions become depthwise-separable, grouped or ghost modules; train them after"
    speed: ClassVar[str] = "depthwise and grouped layers gain less than their FLOPs say, on GPUs often nothing: measure"

    module: str = field(default="dwsep", metadata={"help": ", ".join(MODULES)})
    groups: int = field(default=2, metadata={"help": "of module group: how many"})
    init: str = field(default="svd", metadata={"help": "svd: the nearest to the old weights; random: begun afresh"})
    data_aware: bool = field(
        default=True, metadata={"help": "nearest in what the layers give on the images, where there are any"}
    )

    def __post_init__(self) -> None:
        """Raises ValueError: a setting out of its bounds."""
        if self.module not in MODULES:
            raise ValueError(f"module: expected one of {', '.join(MODULES)}, got {self.module!r}")
        if not 2 <= self.groups <= 4096:
            raise ValueError(f"groups: expected 2 to 4096, got {self.groups}")
        if self.init not in ("svd", "random"):
            raise ValueError(f"init: expected svd or random, got {self.init!r}")

    def plan(self, detector: nn.Module, material: Material) -> Plan:
        """The module of every layer, with its weights.

        Raises:
            SlimError: no layer can be replaced, weights or what a layer reads are not finite, or a pattern matches no
                layer.
        """
        wiring = trace(detector, material.imgsz)
        asked, kept = self.chosen(wiring)
        convs, stay = replaceable(detector, asked)
        stay |= {conv.name: why for conv in convs if (why := self._unfit(conv))}
        convs = [conv for conv in convs if conv.name not in stay]
        make, kind = MODULES[self.module]
        images = material.images if self.data_aware and self.init == "svd" else ()
        grams = second_moments(detector, {conv.name: [kind] for conv in convs}, images, seed=material.seed)
        seen, draws = sizes(detector, wiring), torch.Generator().manual_seed(material.seed)
        layers, chains = {}, {}
        for conv in convs:
            layer = conv.layer(detector)
            chain = balanced(make(finite_weight(layer, conv.name), grams.get((conv.name, kind)), self.groups))
            chain = _drawn(chain, draws) if self.init == "random" else chain
            counts = np.array([weight.numel() for _, weight in chain])
            macs = int(counts @ positions(layer, [step for step, _ in chain], seen.get(conv.name, [])))
            if macs >= conv.macs or counts.sum() >= conv.weights:
                stay[conv.name] = "it would save nothing"
                continue
            layers[conv.name] = {
                "module": self.module,
                "macs": [conv.macs, macs],
                "params": [conv.weights, int(counts.sum())],
            }
            chains[conv.name] = chain
        if not chains:
            raise SlimError(f"compact has nothing to replace: {some_of(stay)}. Name other layers, or another module")
        return replace(noted(layers, chains, detector), kept=kept | stay, refit=self._refitted(detector, chains))

    def _refitted(self, detector: nn.Module, chains: Mapping[str, Chain]) -> dict[str, str]:
        """Of each row the layers that can be fitted to what the old one gave: of ghost modules both."""
        names = {conv: names_of(detector, conv, len(chain)) for conv, chain in chains.items()}
        return {name: conv for conv, row in names.items() for name in (row if self.module == "ghost" else row[-1:])}

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        """By least squares: a layer in groups group by group; the first of a ghost module for its second as it begins.

        That multiplies the i-th map by two numbers v: the map that is nearest in what the pair gives is v' y / v' v.
        """
        if len(moments.x) > weight.shape[1]:
            return fit_groups(moments, weight)
        if self.module != "ghost":
            return moments.fit(weight)
        second = next(reversed([name for name, was in plan.refit.items() if was == plan.refit[layer]]))
        kernels = plan.tensors[f"{second}.weight"].to(weight.device).double()
        shares = kernels[:, 0, GHOST // 2, GHOST // 2].view(-1, 2)
        pairs, _ = moments.fit((shares[:, :, None] * weight.double()[:, None]).flatten(0, 1))
        squares = shares.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)
        fitted = (shares[:, :, None] * pairs.unflatten(0, (-1, 2))).sum(1) / squares[:, None]
        alone = squares > torch.finfo(torch.float32).tiny  # a pair that says nothing stays as it is
        return torch.where(alone[:, None], fitted, weight.double()), fitted.new_zeros(len(fitted))

    def _unfit(self, conv: Conv) -> str | None:
        """Why a layer cannot become such a module; None: it can."""
        if conv.kernel == 1:
            return "1 x 1"
        into, out = len(conv.inputs), len(conv.outputs)
        if self.module == "group" and (into % self.groups or out % self.groups):
            return f"{into} -> {out} channels are not divided by {self.groups}"
        if self.module == "ghost" and out % 2:
            return f"an odd number of outputs, {out}"
        return None


def _drawn(chain: Chain, generator: torch.Generator) -> Chain:
    """As torch begins convolutions, U(-1 / sqrt(fan in), 1 / sqrt(fan in)); of ghost maps the middle alone."""
    drawn = []
    for step, old in chain:
        bound = 1 / math.sqrt(old[0].numel())
        weight = (torch.rand(old.shape, generator=generator, dtype=old.dtype) * 2 - 1).mul(bound).to(old.device)
        if not step:
            middle = torch.zeros_like(weight)
            y, x = (n // 2 for n in weight.shape[2:])
            middle[:, :, y, x] = weight[:, :, y, x]
            weight = middle
        drawn.append((step, weight))
    return drawn
