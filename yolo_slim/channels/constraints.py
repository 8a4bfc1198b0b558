"""What a selection has to meet, and what it needs to know for that."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from yolo_slim.channels.groups import Trace
from yolo_slim.channels.layer_table import LayerTable
from yolo_slim.channels.sensitivity import Curve
from yolo_slim.errors import SlimError

SOLVERS = ("auto", "threshold", "knapsack", "sensitivity")
TIMED = {"latency", "latency_ms"}
"""Targets by which a channel of one layer may cost many times what one of another does, for the same FLOPs."""


@dataclass(frozen=True)
class Constraints:
    """How much goes, from where, and by which costs.

    Args:
        solver: `threshold` removes the smallest scores first, whatever that saves; `knapsack` keeps the largest sum of
            scores that the budget buys; `sensitivity` removes where the scanned `curves` say that it hurts least.
            `auto`: knapsack where the target is a time and the scope global, else threshold.
        scope: of the threshold. `global` compares scores over the whole detector; `layer` removes the same share of
            every group.
        ratio: share of all prunable channels to remove; exactly floor(ratio * n) go when nothing is rounded.
        target: `flops`, `params`, `latency` or a name in `tables` -> the share of it that may stay; `size_mb` ->
            megabytes of the checkpoint; `latency_ms` -> milliseconds. Any of them together. Met from below, within one
            rounding step.
        layers: pattern of module names -> share of the channels to remove there; the rest follows ratio or target.
        min_keep: share of each group that stays at least.
        min_channels: channels of each group that stay at least.
        round_to: kept widths are rounded up to a multiple of this, never above the group's own width.
        exclude: patterns of module names that stay whole.
        tables: further costs to budget: name -> {group name: (n + 1,) cost of keeping 0..n channels}, added up over
            the groups; not falling with width.
        overhead: bytes of the checkpoint beside its numbers (`size_mb` needs it).
        curves: group name -> what removing a share of its channels does to the detector.
        tolerance: solver sensitivity, without ratio and target: how much worse any group may make the detector.
        whole: trace of the detector before residual branches were dropped, of which ratio and target are shares and
            whose layers the patterns name; None: nothing was dropped.
        may_empty: names of groups that may lose all of their channels, as far as the floors allow.
        latency: what every convolution takes, in ms (`latency` and `latency_ms` need it).

    Raises:
        SlimError: nothing to do, or two that cannot go together.
    """

    solver: str = "auto"
    scope: str = "global"
    ratio: float | None = None
    target: Mapping[str, float] = field(default_factory=dict)
    layers: Mapping[str, float] = field(default_factory=dict)
    min_keep: float = 0.05
    min_channels: int = 8
    round_to: int = 8
    exclude: Sequence[str] = ()
    tables: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    overhead: float | None = None
    curves: Mapping[str, Curve] | None = None
    tolerance: float | None = None
    whole: Trace | None = None
    may_empty: Collection[str] = ()
    latency: LayerTable | None = None

    def __post_init__(self) -> None:
        if self.ratio is None and not self.target and not self.layers and self.tolerance is None and not self.whole:
            raise SlimError(
                "nothing says how much to prune: give prune.ratio, prune.target.flops, prune.target.params, "
                "prune.target.size_mb or prune.layers"
            )
        if self.solver not in SOLVERS:
            raise SlimError(f"expected prune.solver to be one of {', '.join(SOLVERS)}, got {self.solver}")
        if self.scope == "layer" and self.solver not in ("auto", "threshold"):
            raise SlimError(
                f"prune.scope=layer belongs to prune.solver=threshold, got prune.solver={self.solver}: drop one"
            )
        if self.solver == "sensitivity" and self.curves is None:
            raise SlimError(
                "prune.solver=sensitivity goes by a scan of the detector on labelled images, and there is none here: "
                "`yolo-slim prune` makes it; in Python, hand `select` its curves"
            )
        if self.tolerance is not None and (self.solver != "sensitivity" or self.ratio is not None or self.target):
            raise SlimError(
                "prune.sensitivity.tolerance says how much to prune, with prune.solver=sensitivity and neither "
                "prune.ratio nor prune.target: choose one of them"
            )

    @property
    def method(self) -> str:
        """The solver, where `auto` says none."""
        if self.solver != "auto":
            return self.solver
        return "knapsack" if self.scope == "global" and TIMED & self.target.keys() else "threshold"
