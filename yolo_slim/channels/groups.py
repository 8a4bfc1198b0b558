"""What a trace knows: layers whose every slot names a channel, and groups of channels that may go one by one.

A *channel* is a variable, numbered 0..N-1 over the whole detector. A *slot* is a position in a layer's input or
output; it holds the number of the channel that flows there, or FIXED where nothing may ever be removed (the image,
the far side of an operator that is not understood). Two slots with the same number are the same variable: an
addition made them equal. A *group* collects the channels that sit in the same layers the same number of times, so
that any of them may be removed without looking at the others, and each removal saves the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, cast

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

Ints: TypeAlias = np.ndarray  # of int64

FIXED = -1


class NormLayer(Protocol):
    """A batch norm that has statistics; torch's annotations leave open whether it does, and what its scale may be."""

    num_features: int
    eps: float
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor


@dataclass(frozen=True)
class Conv:
    """A convolution: channels in, channels out, and what one output position costs."""

    name: str
    inputs: Ints  # (in_channels,) channel numbers or FIXED
    outputs: Ints  # (out_channels,) channel numbers or FIXED
    kernel: int  # kh * kw
    positions: int  # Ho * Wo at the traced image size, summed over calls
    groups: int
    bias: bool
    norm: str | None  # the batch norm that reads the output, if one does

    def __repr__(self) -> str:
        return f"<Conv {self.name}: {len(self.inputs)} -> {len(self.outputs)} channels>"

    @property
    def depthwise(self) -> bool:
        """Each output channel is its input channel: labels pass through."""
        return self.groups > 1 and self.groups == len(self.inputs) == len(self.outputs)

    @property
    def weights(self) -> int:
        """How many it has; each is a multiply-accumulate at every position."""
        return self.kernel * len(self.inputs) // self.groups * len(self.outputs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.weights * self.positions

    def layer(self, detector: nn.Module) -> nn.Conv2d:
        """The convolution itself, in the detector that was traced or in a copy."""
        return cast(nn.Conv2d, detector.get_submodule(self.name))


@dataclass(frozen=True)
class Norm:
    """A batch norm: one scale per slot."""

    name: str
    channels: Ints  # (num_features,) channel numbers or FIXED
    positions: int
    affine: bool = True  # has a scale and a shift

    def __repr__(self) -> str:
        return f"<Norm {self.name}: {len(self.channels)} channels>"

    def layer(self, detector: nn.Module) -> NormLayer:
        """The batch norm itself, in the detector that was traced or in a copy."""
        return cast(NormLayer, detector.get_submodule(self.name))


@dataclass(frozen=True)
class Group:
    """Channels joined into one width: `producers` make them, `consumers` read them, any of them may go."""

    name: str  # of its first producer
    channels: Ints  # (n,) channel numbers, in the order of the first producer's outputs
    producers: tuple[str, ...]  # convolutions, in order of execution
    consumers: tuple[str, ...]
    norms: tuple[str, ...]
    reason: str | None = None  # why the width is kept whole; None: its channels may go

    def __repr__(self) -> str:
        fate = f"kept whole: {self.reason}" if self.reason else "may go"
        layers = f"made by {len(self.producers)} convolutions, read by {len(self.consumers)}"
        return f"<Group {self.name}: {self.size} channels, {layers}, {fate}>"

    @property
    def size(self) -> int:
        """Channels in the group."""
        return len(self.channels)


@dataclass(frozen=True)
class Block:
    """A module that gives x + f(x): without it, x goes on as it is."""

    name: str
    convs: tuple[str, ...]  # below it, in order of execution
    ends: tuple[str, ...]  # those of them that make the channels of f(x), as far as that is understood
    readers: tuple[str, ...]  # convolutions outside it that read these channels, before or behind the sum

    def __repr__(self) -> str:
        return f"<Block {self.name}: {len(self.convs)} convolutions>"


@dataclass(frozen=True)
class Trace:
    """Everything the rest of the package needs to know about a detector's wiring."""

    convs: dict[str, Conv]
    norms: dict[str, Norm]
    groups: tuple[Group, ...]
    imgsz: tuple[int, int]  # (height, width) the positions were counted at
    n_channels: int
    params: int  # of the whole detector
    chunks: dict[str, int] = field(default_factory=dict)  # module that chunks its channels -> width of one part
    blocks: dict[str, Block] = field(default_factory=dict)  # residual branches, by module name
    maps: dict[str, Ints] = field(default_factory=dict)  # module -> (C,) channel numbers or FIXED of what leaves it
    image_channels: int = 3  # of the image that it was traced with: see `inputs`

    def __repr__(self) -> str:
        height, width = self.imgsz
        free = self.free
        return (
            f"<Trace at {height}x{width} px, images of {self.image_channels} channels: {len(self.convs)} convolutions "
            f"in {len(self.groups)} groups, {len(free)} groups with {sum(g.size for g in free)} channels may be cut, "
            f"{len(self.blocks)} residual branches>"
        )

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups whose channels may be removed."""
        return tuple(g for g in self.groups if g.reason is None)

    def widths(self, kept: np.ndarray) -> np.ndarray:
        """How many channels each group keeps, of a bool per channel."""
        return np.array([int(kept[g.channels].sum()) for g in self.groups])

    def emptied(self, kept: np.ndarray) -> list[str]:
        """Names of the groups that keep none, of a bool per channel: what they are in cannot run."""
        return [g.name for g in self.groups if not kept[g.channels].any()]


@dataclass
class Draft:
    """A trace under construction: labels not yet merged, groups not yet formed."""

    convs: dict[str, Conv]
    norms: dict[str, Norm]
    n_labels: int
    equal: list[tuple[Ints, Ints]]  # pairs of label arrays that an operator made equal
    protected: list[tuple[Ints, str]]  # labels that must stay, and why
    imgsz: tuple[int, int]
    params: int
    chunks: dict[str, int]
    blocks: dict[str, Ints] = field(default_factory=dict)  # module that gives x + f(x) -> labels of f(x)
    maps: dict[str, Ints] = field(default_factory=dict)  # module -> labels of what leaves it
    image_channels: int = 3


def form_groups(draft: Draft, extra: dict[str, str] | None = None) -> Trace:
    """Merge equal labels into channels, and channels that share all their layers into groups.

    `extra` protects further groups by name (group name -> reason).
    """
    left, right = _edges(draft.equal)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(draft.n_labels, draft.n_labels))
    count, of_label = connected_components(graph, directed=False)
    of_label = np.append(of_label.astype(np.int64), FIXED)  # so that of_label[FIXED] is FIXED

    reasons = np.full(count, None, object)
    for labels, reason in draft.protected:
        channels = of_label[labels[labels != FIXED]]
        unset = channels[reasons[channels] == None]  # noqa: E711  (elementwise)
        reasons[unset] = reason

    convs = {c.name: replace(c, inputs=of_label[c.inputs], outputs=of_label[c.outputs]) for c in draft.convs.values()}
    norms = {n.name: Norm(n.name, of_label[n.channels], n.positions, n.affine) for n in draft.norms.values()}
    groups = _group(convs, norms, reasons, count)
    if extra:
        groups = [replace(g, reason=g.reason or extra.get(g.name)) for g in groups]
    blocks = _blocks({name: of_label[labels] for name, labels in draft.blocks.items()}, convs, count)
    maps = {name: of_label[labels] for name, labels in draft.maps.items()}
    rest = draft.imgsz, count, draft.params, draft.chunks, blocks, maps, draft.image_channels
    return Trace(convs, norms, tuple(groups), *rest)


def _blocks(branches: dict[str, Ints], convs: dict[str, Conv], count: int) -> dict[str, Block]:
    found = {}
    for name, channels in branches.items():
        below = tuple(c for c in convs if c.startswith(f"{name}."))
        channels = channels[channels != FIXED]
        inside = np.zeros(count + 1, bool)  # the last one is that of FIXED
        inside[channels] = True
        ends = tuple(c for c in below if inside[convs[c].outputs].any())
        readers = tuple(c for c in convs if c not in below and inside[convs[c].inputs].any())
        if below:
            found[name] = Block(name, below, ends, readers)
    return found


def _edges(equal: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    if not equal:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    left, right = (np.concatenate(side) for side in zip(*equal, strict=True))
    both = (left != FIXED) & (right != FIXED)
    return left[both], right[both]


def _group(convs: dict[str, Conv], norms: dict[str, Norm], reasons: np.ndarray, count: int) -> list[Group]:
    # Channels belong together when they occupy the same layers equally often. Each (layer, side) gets a random
    # 64-bit number; the sum over a channel's slots is its signature, so that equal sums mean equal occupancy.
    rng = np.random.default_rng(0)
    signature = np.zeros(count, np.uint64)
    for slots in [s for c in convs.values() for s in (c.inputs, c.outputs)] + [n.channels for n in norms.values()]:
        number = rng.integers(0, 2**64, dtype=np.uint64)
        np.add.at(signature, slots[slots != FIXED], number)
    for reason in {r for r in reasons if r is not None}:
        signature[reasons == reason] += rng.integers(0, 2**64, dtype=np.uint64)

    # Execution order gives groups, and the channels in them, a stable and readable order.
    slots = np.concatenate([c.outputs for c in convs.values()])
    slots = slots[slots != FIXED]
    ordered = slots[np.sort(np.unique(slots, return_index=True)[1])]
    _, first, inverse = np.unique(signature[ordered], return_index=True, return_inverse=True)
    members = [ordered[inverse == i] for i in np.argsort(first)]

    heads = np.array([channels[0] for channels in members])
    made = _layers_of({c.name: c.outputs for c in convs.values()}, heads, count)
    read = _layers_of({c.name: c.inputs for c in convs.values() if not c.depthwise}, heads, count)
    scaled = _layers_of({n.name: n.channels for n in norms.values()}, heads, count)
    groups, used = [], set()
    for i, channels in enumerate(members):
        name = made[i][0]
        if name in used:  # a convolution whose outputs fall into several groups
            name = f"{name}[{int(np.flatnonzero(convs[name].outputs == heads[i])[0])}:]"
        used.add(name)
        groups.append(Group(name, channels, made[i], read[i], scaled[i], reasons[heads[i]]))
    return groups


def _layers_of(slots: dict[str, Ints], channels: Ints, count: int) -> list[tuple[str, ...]]:
    """The layers in which each of `channels` occurs, in order of execution."""
    position = np.full(count + 1, -1)
    position[channels] = np.arange(len(channels))
    layers: list[list[str]] = [[] for _ in channels]
    for name, here in slots.items():
        found = np.unique(position[here])
        for i in found[found >= 0]:
            layers[i].append(name)
    return [tuple(names) for names in layers]


def same_wiring(before: Trace, kept: np.ndarray, after: Trace) -> bool:
    """Whether `after` is `before` with only the channels `kept` (bool, per channel) left, up to their numbering."""
    if before.convs.keys() != after.convs.keys() or before.norms.keys() != after.norms.keys():
        return False
    pairs: list[tuple[Ints, Ints]] = []
    for name, conv in before.convs.items():
        pairs += [(conv.inputs, after.convs[name].inputs), (conv.outputs, after.convs[name].outputs)]
    pairs += [(norm.channels, after.norms[name].channels) for name, norm in before.norms.items()]
    # One channel left in a depthwise convolution: it is now an ordinary one, with a label of its own.
    same = np.arange(after.n_channels + 1)
    for name, conv in before.convs.items():
        into, out = after.convs[name].inputs, after.convs[name].outputs
        if conv.depthwise and len(into) == len(out) == 1 and FIXED not in (into[0], out[0]):
            same[same == same[out[0]]] = same[into[0]]
    olds, news = [], []
    for old, new in pairs:
        old = old[(old == FIXED) | kept[old]]
        if len(old) != len(new) or np.any((old == FIXED) != (new == FIXED)):
            return False
        olds.append(old[old != FIXED])
        news.append(same[new[new != FIXED]])
    old, new = np.concatenate(olds), np.concatenate(news)
    distinct = len(np.unique(np.stack([old, new]), axis=1).T)
    return distinct == len(np.unique(old)) == len(np.unique(new))  # a one-to-one renaming
