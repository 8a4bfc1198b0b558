"""Which residual branches go whole, before channels do, and the detector without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from yolo_slim.channels import Trace, absorb_missing, drop, emptiable, flattened, missing_means, trace
from yolo_slim.channels.blocks import overlaps
from yolo_slim.channels.patterns import matches
from yolo_slim.config import Prune
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence, score_blocks


def chosen_blocks(
    detector: nn.Module,
    wiring: Trace,
    chosen: Prune,
    evidence: Evidence,
    loss_without: Callable[[list[str]], float],
) -> list[str]:
    """The module names of the branches that `prune.depth` takes out.

    A number: those with the lowest scores. `auto`: each branch in turn, lowest score per multiply-accumulate first,
    goes if the detector without it, cut to the same target and recovered, has a lower loss than with it. In other
    words: if it costs less than the channels that would have to go in its place.

    Args:
        detector: whole.
        wiring: of the detector.
        chosen: the `prune:` section.
        evidence: what the scores look at.
        loss_without: the loss of the detector cut to the target without these branches; asked for `auto` alone.

    Raises:
        SlimError: more branches asked for than there are.
    """
    if chosen.depth is None or chosen.depth.blocks == 0:
        return []
    allowed = replace(wiring, blocks={name: wiring.blocks[name] for name in _removable(wiring, chosen.exclude)})
    scores = score_blocks(detector, allowed, chosen.depth.score, evidence)
    if chosen.depth.blocks != "auto":
        return lowest(scores, chosen.depth.blocks)
    gone: list[str] = []
    least = loss_without(gone)
    macs = {block.name: sum(wiring.convs[conv].macs for conv in block.convs) for block in wiring.blocks.values()}
    for name in sorted(scores, key=lambda n: scores[n] / macs[n]):
        if any(overlaps(name, other) for other in gone):
            continue
        loss = loss_without([*gone, name])
        verdict = "goes" if loss < least else "stays"
        console.print(f"at the same target, loss {least:.4f} with {name} and {loss:.4f} without: it {verdict}")
        if loss < least:
            gone, least = [*gone, name], loss
    return gone


def lowest(scores: Mapping[str, float], n: int) -> list[str]:
    """The n blocks with the lowest scores, none of them inside another; ties go in order of execution.

    Raises:
        SlimError: there are not as many.
    """
    names: list[str] = []
    for name in sorted(scores, key=lambda n: scores[n]):
        if len(names) < n and not any(overlaps(name, other) for other in names):
            names.append(name)
    if len(names) < n:
        raise SlimError(
            f"prune.depth.blocks={n}, but only {len(names)} residual branches may go (`yolo-slim inspect` lists them)"
        )
    return names


def any_blocks(wiring: Trace, chosen: Prune) -> list[str]:
    """As many branches as `prune.depth` takes out for sure, no matter which: enough to try the budget.

    Raises:
        SlimError: there are not as many.
    """
    n = chosen.depth.blocks if chosen.depth else 0
    return [] if n == "auto" else lowest(dict.fromkeys(_removable(wiring, chosen.exclude), 0.0), n)


def may_empty(detector: nn.Module, wiring: Trace, chosen: Prune) -> dict[str, str]:
    """Groups allowed to lose every channel, each with the block that goes then: none unless both floors are zero."""
    if chosen.min_keep or chosen.widths.min_channels:
        return {}
    removable = _removable(wiring, chosen.exclude)
    return {group: block for group, block in emptiable(detector, wiring).items() if block in removable}


def without(
    detector: nn.Module, wiring: Trace, names: list[str], absorb: str, images: Iterable[Tensor]
) -> tuple[nn.Module, Trace]:
    """The detector without these branches, what they added on average absorbed, and its trace.

    Args:
        detector: whole.
        wiring: of the detector.
        names: of blocks in `wiring`.
        absorb: measured on the images, beta (as if the scale at the branch's end were zero) or none.
        images: batches (B, C, H, W).
    """
    if not names:
        return detector, wiring
    shallow = drop(detector, names)
    left = trace(shallow, wiring.imgsz)
    readers = [c for c in left.convs.values() if any(c.name in wiring.blocks[name].readers for name in names)]
    if absorb == "measured":
        return absorb_missing(shallow, left, missing_means(detector, shallow, readers, images)), left
    if absorb == "beta":  # a constant is one on any image
        blank = next(detector.parameters()).new_zeros(1, wiring.image_channels, *wiring.imgsz)
        means = missing_means(flattened(detector, wiring, names), shallow, readers, [blank])
        return absorb_missing(shallow, left, means), left
    return shallow, left


def readers_of(wiring: Trace, names: Iterable[str]) -> set[str]:
    """Convolutions that read what these branches add to, and stay."""
    blocks = [wiring.blocks[name] for name in names]
    return {c for block in blocks for c in block.readers} - {c for block in blocks for c in block.convs}


def _removable(wiring: Trace, exclude: Iterable[str]) -> list[str]:
    """Blocks that no pattern of `prune.exclude` touches."""
    patterns = list(exclude)
    return [b.name for b in wiring.blocks.values() if not any(matches(c, p) for c in b.convs for p in patterns)]
