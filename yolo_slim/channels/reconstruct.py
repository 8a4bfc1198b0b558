"""Refit the weights that read removed channels, so that each layer gives again what it gave in the original.

For every convolution downstream of a cut, front to back: its inputs X come from the slim detector, already refitted up
to there, its targets Y from the original at the same positions, and the least-squares solution replaces its weights (He
et al., Channel Pruning, ICCV 2017, arXiv:1707.06168, 3.1-3.2, step ii). The intercept goes into the bias or the batch
norm behind. No labels, no gradients; memory holds one batch and the Gram matrices of a few layers, never the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels.groups import FIXED, Conv, Trace
from yolo_slim.channels.memo import Memo
from yolo_slim.channels.moments import RIDGE, Moments, draw, patches
from yolo_slim.channels.surgery import stays
from yolo_slim.errors import SlimError
from yolo_slim.mould import duplicate


@torch.no_grad()
def reconstruct(
    slim: nn.Module,
    detector: nn.Module,
    trace: Trace,
    kept: np.ndarray,
    batches: Iterable[Tensor],
    *,
    also: Collection[str] = (),
    points: int = 64,
    ridge: float = RIDGE,
    seed: int = 0,
    memory: int = 2 << 30,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> nn.Module:
    """A copy of `slim` whose convolutions are refitted, front to back, to what they gave in the original.

    Args:
        slim: `detector` after the cut.
        detector: the original, at full width; it may hold residual branches that the traced one no longer has.
        trace: of the detector that was cut.
        kept: bool per channel.
        batches: images (B, C, H, W); read once for each level of depth.
        also: further convolutions to refit, because what they read has lost a residual branch.
        points: output positions drawn in each image for each layer (all of them where a map has fewer).
        ridge: how firmly directions that the images do not show stay at the cut weights.
        seed: of the positions.
        memory: bytes of intermediate maps to keep at most; with fewer, more is computed again.
        step: called with (layers fitted, layers to fit) whenever some are done.

    Raises:
        SlimError: there are no batches, or a layer to refit sees something that is not finite.
    """
    healed = duplicate(slim)

    def fit(name: str, sums: Moments) -> None:
        fitted = sums.fit(trace.convs[name].layer(healed).weight.flatten(1))
        install(healed, detector, trace, trace.convs[name], kept, *fitted)

    front_to_back(
        healed,
        detector,
        {name: name for name in to_refit(trace, kept, also)},
        batches,
        fit,
        rows=lambda name: torch.as_tensor(stays(trace.convs[name].outputs, kept)),
        points=points,
        ridge=ridge,
        seed=seed,
        memory=memory,
        step=step,
    )
    return healed


@torch.no_grad()
def front_to_back(
    new: nn.Module,
    old: nn.Module,
    pairs: Mapping[str, str],
    batches: Iterable[Tensor],
    fit: Callable[[str, Moments], None],
    *,
    rows: Callable[[str], Tensor | None] = lambda name: None,
    points: int = 64,
    ridge: float = RIDGE,
    seed: int = 0,
    memory: int = 2 << 30,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Hand each layer of one detector what it reads there against what a layer of another gives, front to back.

    Args:
        new: the detector whose layers are settled, in place, by `fit`.
        old: the other one; left alone.
        pairs: convolution of `new` -> convolution of `old`, whose maps are as high and as wide.
        batches: images (B, C, H, W); read once for each level of depth.
        fit: settles a layer of `new`, given its name and moments; all that lies before it is settled by then.
        rows: of a layer of `new`, the outputs of its pair that it is to give; None: all.
        points, ridge, seed, memory, step: as `reconstruct` takes them.

    Raises:
        SlimError: there are no batches, or a layer sees something that is not finite.
    """
    memos = Memo(new, memory // 2), Memo(old, memory // 2)
    waiting, done = dict(pairs), 0
    while waiting:
        found = _gather(memos, waiting, batches, rows, points, ridge, seed)
        for name, sums in found.items():
            fit(name, sums)
            del waiting[name]
        for memo in memos:
            memo.forget_unread()
        done += len(found)
        step(done, done + len(waiting))


def _gather(
    memos: tuple[Memo, Memo],
    waiting: dict[str, str],
    batches: Iterable[Tensor],
    rows: Callable[[str], Tensor | None],
    points: int,
    ridge: float,
    seed: int,
) -> dict[str, Moments]:
    """One pass over the batches: samples of all layers that can be fitted now, from both detectors."""
    moments: dict[str, Moments] = {}
    ready = None
    for number, batch in enumerate(batches):
        ready = _ready(memos, batch, waiting) if ready is None else ready
        if not ready:
            break
        olds = [waiting[name] for name in ready]
        inputs = memos[0].run(number, batch, waiting, ready)
        originals = memos[1].run(number, batch, set(waiting.values()), olds)
        if not len(inputs) == len(originals) == len(ready):
            raise _not_finite(ready[0])
        for (name, image), (old, original) in zip(inputs, originals, strict=True):
            layer, some = memos[0].modules[name], rows(name)
            out = memos[1].modules[old](original)
            at = draw(out, points, [seed, number])
            y = (out if some is None else out[:, some.to(out.device)])[:, :, at[0], at[1]]
            moments.setdefault(name, Moments(ridge)).add(patches(image, layer, *at), y.permute(0, 2, 1).flatten(0, 1))
    if ready is None:
        raise SlimError("expected batches of images that can be read again and again to refit the layers on, got none")
    for name, sums in moments.items():
        if not sums.finite():
            raise _not_finite(name)
    return moments


def _not_finite(name: str) -> SlimError:
    return SlimError(
        f"cannot refit {name}: what it reads or what it gave in the original is not a number, or too large, "
        "on the images given. Are these in [0, 1], and all weights of the detector finite?"
    )


def _ready(memos: tuple[Memo, Memo], batch: Tensor, waiting: dict[str, str]) -> list[str]:
    """The calls that can be fitted now: of layers that can be in all their calls, if there are such.

    Takes those out of `waiting` that are never called: some layers run in train mode only.
    """
    new = [name for name, _ in memos[0].probe(0, batch, waiting)]
    old = [name for name, _ in memos[1].probe(0, batch, set(waiting.values()))]
    calls = memos[0].calls
    for name in waiting.keys() - calls.keys():
        del waiting[name]
    if [waiting.get(name) for name in new] != old or (waiting and not new):
        raise _not_finite(sorted(waiting)[0])
    return [name for name in new if new.count(name) == calls[name]] or new


def to_refit(trace: Trace, kept: np.ndarray, also: Collection[str]) -> Iterator[str]:
    """Convolutions that lost inputs and can be refitted."""
    for conv in trace.convs.values():
        gone = (conv.inputs != FIXED) & ~kept[conv.inputs]
        if (gone.any() or conv.name in also) and refittable(conv):
            yield conv.name


def refittable(conv: Conv) -> bool:
    """Whether a convolution is dense, with somewhere to put an intercept."""
    return conv.groups == 1 and (conv.bias or conv.norm is not None)


def install(
    slim: nn.Module,
    detector: nn.Module,
    trace: Trace,
    conv: Conv,
    kept: np.ndarray,
    weights: Tensor,
    intercept: Tensor,
) -> None:
    """Put weights (Co', a') and an intercept (Co',) into a layer of a slim detector; the latter into its batch norm."""
    layer = conv.layer(slim)
    layer.weight.copy_(weights.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(intercept)
    elif conv.norm is not None:  # from the original's mean: the slim one's may hold what was absorbed
        norm = trace.norms[conv.norm]
        mean = norm.layer(detector).running_mean[torch.as_tensor(stays(conv.outputs, kept))]
        norm.layer(slim).running_mean.copy_(mean - intercept)
