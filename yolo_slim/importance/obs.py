"""What a channel's removal costs after the layers that read it have been refitted: Optimal Brain Surgeon for channels.

The loss around a trained detector is taken as quadratic in the outputs y of each convolution q that reads the channel:
dL = 1/2 sum_o F_qo E[(dy_o)^2], with F the squared gradient of the loss at y, summed over positions (the diagonal of
the Fisher matrix). With A the covariance of q's inputs, removing the inputs S and refitting the rest by least squares
costs 1/2 sum_o F_o w_oS' ([A^-1]_SS)^-1 w_oS (Hassibi & Stork, Optimal Brain Surgeon, NIPS 1992, Eq. 5, in blocks, with
the layer-wise Hessian of Dong et al., L-OBS, NeurIPS 2017, arXiv:1705.07565). Channels leave one at a time, cheapest
first, and A^-1 and w are updated after each: of two channels that say the same, one becomes dear when the other goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Group, Trace
from yolo_slim.channels.hooks import hooked
from yolo_slim.channels.moments import Moments, damp, draw, patches
from yolo_slim.errors import SlimError
from yolo_slim.importance.combine import Rows, scored
from yolo_slim.importance.evidence import Evidence
from yolo_slim.mould import duplicate

POINTS = 64
"""Output positions drawn in each image for a layer's covariance."""

MEMORY = 2 << 30
"""Bytes that the matrices of the layers in hand may take at most. With fewer, images are looked at more often."""

DAMPING = 1e-3
"""Added to the diagonal of a covariance, in units of its mean: inputs that hardly vary have no say."""


@scored(additive=True)
def obs(detector: nn.Module, trace: Trace, evidence: Evidence, memory: int = MEMORY) -> Rows:
    """Added loss when a channel goes as the cheapest of those left, its readers refitted; one row a group.

    Args:
        detector: is left alone.
        trace: of the detector.
        evidence: images and the loss of answers drawn from the detector's own, or else labelled batches and theirs;
            read once for each pass.
        memory: bytes of matrices to hold at most: groups that share a pass are as many as it has room for. One group
            alone may take more.

    Raises:
        SlimError: no images, or numbers on them that are not finite.
    """
    evidence.need_answers("obs")
    twin = duplicate(detector).eval().requires_grad_(True)
    if next(twin.parameters()).itemsize < 4:
        twin.float()
    readers = {group.name: _readers(trace, group) for group in trace.free}
    everyone = set().union(*readers.values())
    rows: Rows = {}
    fisher: dict[str, Tensor] = {}
    # Half of it, for a group is worked on in a copy of its readers' matrices.
    for groups in _passes([group for group in trace.free if readers[group.name]], readers, twin, memory // 2):
        sought = set().union(*(readers[group.name] for group in groups))
        moments, found = _watch(twin, sought, set() if fisher else everyone, evidence)
        fisher = fisher or found
        # One after the other, each dropping its moments: two sets of matrices would be twice the bytes.
        layers = {
            name: _layer(trace.convs[name].layer(twin), moments.pop(name), fisher[name], name) for name in [*moments]
        }
        rows |= {group.name: _eliminate(trace, group, layers)[None] for group in groups}
        del layers  # before the next pass gathers its own
    return rows


def _readers(trace: Trace, group: Group) -> set[str]:
    """The convolutions that read a group and can be refitted."""
    return {name for name in group.consumers if trace.convs[name].groups == 1}


def _passes(
    groups: list[Group], readers: Mapping[str, set[str]], detector: nn.Module, memory: int
) -> Iterator[list[Group]]:
    """The groups, in order, as many together as their readers' matrices fit in `memory` bytes; one at least."""
    some: list[Group] = []
    held: set[str] = set()
    for group in groups:
        together = held | readers[group.name]
        weights = (detector.get_parameter(f"{name}.weight") for name in together)
        if some and sum(8 * weight[0].numel() ** 2 for weight in weights) > memory:
            yield some
            some, together = [], readers[group.name]
        some, held = [*some, group], together
    if some:
        yield some


@dataclass
class _Layer:
    """A convolution as least squares sees it."""

    weight: Tensor  # (Co, a), each row times the root of half its output's Fisher information
    inverse: Tensor  # (a, a) of the damped covariance of its inputs
    kernel: int  # inputs a channel has: kh * kw


def _watch(
    twin: nn.Module, sought: set[str], weighed: set[str], evidence: Evidence
) -> tuple[dict[str, Moments], dict[str, Tensor]]:
    """One pass over the images, without gradients where nothing is to be `weighed`.

    Returns:
        moments of what the convolutions `sought` read, and of those `weighed` the Fisher information (Co,) of what they
        say; those that were never called are left out.
    """
    batches, loss = evidence.need_answers("obs")
    names = sorted(sought | weighed)
    moments = {name: Moments() for name in sorted(sought)}
    fisher: dict[str, Tensor | float] = dict.fromkeys(weighed, 0.0)
    images: dict[str, int] = dict.fromkeys(names, 0)
    outputs: list[tuple[str, Tensor]] = []  # of the batch that is running

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Conv2d, args: tuple[Tensor, ...], out: Tensor) -> None:
            if name in moments:
                x = patches(args[0].detach(), layer, *draw(out, POINTS, [evidence.seed, images[name]]))
                moments[name].add(x, x[:, :0])
            images[name] += len(out)
            if name in fisher:
                outputs.append((name, out))

        return hook

    seen = False
    with hooked(twin.get_submodule(name).register_forward_hook(watch(name)) for name in names):
        for batch in batches:
            seen = True
            outputs.clear()
            with torch.set_grad_enabled(bool(weighed)):
                value = loss(twin, batch)
            said = [out for _, out in outputs]
            gradients = torch.autograd.grad(value, said, allow_unused=True) if said else []
            for (name, out), gradient in zip(outputs, gradients, strict=True):
                if gradient is not None:  # the loss is a mean over the batch: times B gives each image's own
                    fisher[name] = fisher[name] + (gradient * len(out)).double().square().sum((0, 2, 3))
    if not seen:
        raise SlimError("prune.criterion=obs looks at images: there are none")
    called = {name for name in names if images[name]}
    return (
        {name: sums for name, sums in moments.items() if name in called},
        {name: torch.as_tensor(fisher[name]) / images[name] for name in sorted(weighed & called)},
    )


def _layer(conv: nn.Conv2d, inputs: Moments, fisher: Tensor, name: str) -> _Layer:
    if not inputs.finite() or not torch.isfinite(fisher).all():
        raise SlimError(
            f"prune.criterion=obs: what {name} reads, or the gradient of the loss there, is not finite. "
            "Are the images in [0, 1], and all weights of the detector finite?"
        )
    covariance, weight = inputs.covariance(), conv.weight.detach().double()
    damp(covariance, DAMPING)
    weighted = weight.flatten(1) * (fisher.double() / 2).sqrt().reshape(-1, 1)
    return _Layer(weighted, torch.linalg.inv(covariance), weight[0, 0].numel())


@torch.no_grad()
def _eliminate(trace: Trace, group: Group, layers: dict[str, _Layer]) -> np.ndarray:
    """Remove the group's channels one by one, always the cheapest: (n,) what each cost, never falling."""
    readers = [_of_group(layers[n], trace.convs[n].inputs, group) for n in group.consumers if n in layers]
    costs, dearest = np.zeros(group.size), 0.0
    members = left = np.arange(group.size)  # channels in the matrices, and which of these are left
    while len(left):
        if len(left) <= 0.8 * len(members):  # who has gone is only in the way: matrices shrink with the group
            readers = [_only(weight, inverse, slots[left]) for weight, inverse, slots in readers]
            members, left = members[left], np.arange(len(left))
        price = sum((_prices(weight, inverse, slots[left]) for weight, inverse, slots in readers), torch.zeros(()))
        at = int(price.argmin())
        dearest = max(float(np.nextafter(dearest, np.inf)), float(price[at]))  # rising, so that the order can be read
        costs[members[left[at]]] = dearest
        for weight, inverse, slots in readers:
            gone = slots[left[at]]
            pull = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])  # [b, a]
            weight.addmm_(weight[:, gone], pull, alpha=-1)
            inverse.addmm_(inverse[:, gone], pull, alpha=-1)
        left = np.delete(left, at)
    return costs


def _of_group(layer: _Layer, inputs: np.ndarray, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Of a reader what concerns the group: weights (Co, a), inverse (a, a), slots of each channel in these (n, b).

    Inputs of other groups have had their say when the covariance was inverted: they only ever lend, and never go.
    """
    inside = np.arange(layer.kernel)
    at = [(np.flatnonzero(inputs == c)[:, None] * layer.kernel + inside).ravel() for c in group.channels]
    return _only(layer.weight, layer.inverse, torch.as_tensor(np.stack(at)))


def _only(weight: Tensor, inverse: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and inverse at these slots (n, b) alone, and the slots numbered anew."""
    mine = slots.flatten()
    return weight[:, mine], inverse[mine][:, mine], torch.arange(len(mine)).reshape(slots.shape)


def _prices(weight: Tensor, inverse: Tensor, slots: Tensor) -> Tensor:
    """(n,) sum over outputs of w_S' ([A^-1]_SS)^-1 w_S for each row S of `slots` (n, b)."""
    if slots.shape[1] == 1:  # a 1x1 convolution's: nothing to solve
        at = slots[:, 0]
        return weight[:, at].square().sum(0) / inverse.diagonal()[at]
    blocks = inverse[slots[:, :, None], slots[:, None, :]]  # [n, b, b]
    w = weight[:, slots].permute(1, 2, 0)  # [n, b, Co]
    return (w * torch.linalg.solve(blocks, w)).sum((1, 2))
