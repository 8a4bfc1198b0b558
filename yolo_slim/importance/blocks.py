"""How much a residual branch matters: x + f(x) against x alone.

A score of blocks maps a detector, its trace and the evidence to a number for every block, high = keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from math import isfinite

import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace
from yolo_slim.channels.hooks import hooked
from yolo_slim.channels.surgery import evaluating
from yolo_slim.errors import SlimError
from yolo_slim.importance.evidence import Evidence

BlockScore = Callable[[nn.Module, Trace, Evidence], dict[str, float]]


def score_blocks(detector: nn.Module, trace: Trace, score: str, evidence: Evidence) -> dict[str, float]:
    """One score for every residual branch, high = keep: module name -> score.

    Raises:
        SlimError: a score that looks at the loss, without labelled batches; or scores that are not numbers.
    """
    found = BLOCK_SCORES[score](detector, trace, evidence)
    if wrong := [name for name, value in found.items() if not isfinite(value)]:
        raise SlimError(f"prune.depth.score={score} is {found[wrong[0]]} for {wrong[0]}. Is the checkpoint sound?")
    return found


def delta_loss(detector: nn.Module, trace: Trace, evidence: Evidence) -> dict[str, float]:
    """How much the loss rises when the branch is skipped: one pass over the batches a block."""
    whole = mean_loss(detector, evidence)
    found = {}
    for name in trace.blocks:
        with _gated(detector, {name: torch.zeros(())}):
            found[name] = mean_loss(detector, evidence) - whole
    return found


def gamma_mean(detector: nn.Module, trace: Trace, evidence: Evidence) -> dict[str, float]:
    """Mean |gamma| of the batch norm behind the branch's last convolution.

    Raises:
        SlimError: a branch that does not end in a batch norm with scales.
    """
    found = {}
    for block in trace.blocks.values():
        norm = trace.convs[block.ends[-1]].norm if block.ends else None
        scale = trace.norms[norm].layer(detector).weight if norm else None
        if scale is None:
            raise SlimError(f"prune.depth.score=gamma_mean: {block.name} does not end in a batch norm; use delta_loss")
        found[block.name] = float(scale.detach().abs().double().mean())
    return found


def taylor(detector: nn.Module, trace: Trace, evidence: Evidence) -> dict[str, float]:
    """Squared gradient of a gate on the branch, (sum f dL/df)^2, averaged over batches (Molchanov et al., CVPR 2019,
    arXiv:1906.10771, 3.1): the first-order change of the loss when the branch is skipped, squared.
    """
    batches, loss = _labelled(evidence)
    gates = {name: torch.ones((), requires_grad=True) for name in trace.blocks}
    squares, seen = dict.fromkeys(gates, 0.0), 0
    with evaluating(detector), _gated(detector, gates), torch.enable_grad():
        for batch in batches:
            slopes = torch.autograd.grad(loss(detector, batch), list(gates.values()))
            squares = {name: squares[name] + float(g) ** 2 for name, g in zip(gates, slopes, strict=True)}
            seen += 1
    return {name: square / seen for name, square in squares.items()}


BLOCK_SCORES: dict[str, BlockScore] = {"delta_loss": delta_loss, "gamma_mean": gamma_mean, "taylor": taylor}


@torch.no_grad()
def mean_loss(detector: nn.Module, evidence: Evidence) -> float:
    """The loss in eval mode, averaged over the labelled batches.

    Raises:
        SlimError: there are none.
    """
    batches, loss = _labelled(evidence)
    with evaluating(detector):
        losses = [float(loss(detector, batch)) for batch in batches]
    return sum(losses) / len(losses)


def _labelled(evidence: Evidence) -> tuple:
    if not evidence.batches or evidence.loss is None:
        raise SlimError(
            "prune.depth looks at the loss on labelled images: give data=, or a number of blocks with "
            "prune.depth.score=gamma_mean"
        )
    return evidence.batches, evidence.loss


def _gated(detector: nn.Module, gates: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """x + f(x) is x + gate * f(x) for a while."""

    def through(gate: Tensor) -> Callable:
        return lambda module, args, total: args[0] + gate.to(total) * (total - args[0])

    return hooked(detector.get_submodule(name).register_forward_hook(through(gate)) for name, gate in gates.items())
