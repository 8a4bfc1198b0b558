"""A choice made better by looking at detectors that are cut: scores taken again on the way, and widths searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from yolo_slim.channels import Plan, Selection, Start, Trace, cut, trace
from yolo_slim.config import Prune, Target
from yolo_slim.console import console
from yolo_slim.data.batches import first
from yolo_slim.importance import Evidence
from yolo_slim.pruning import depth
from yolo_slim.pruning.choose import Findings, choose, criterion_for, judge
from yolo_slim.pruning.recover import recover
from yolo_slim.pruning.search import search

TIMES = 3
"""Scorings with `obs`: more take longer and come to little more."""
ENOUGH = 64
"""Images that a detector on the way is refitted on: it is scored and thrown away."""


@dataclass(frozen=True)
class Around:
    """What a choice is made in and by."""

    detector: nn.Module  # whole
    whole: Trace  # of it
    base: nn.Module  # without the branches that go whole
    wiring: Trace  # of `base`
    blocks: tuple[str, ...]  # those branches
    chosen: Prune
    evidence: Evidence
    start: Start | None
    found: Findings

    @property
    def times(self) -> int:
        """How often channels are scored, as asked for or by default."""
        if (asked := self.chosen.rescore) is not None:
            return asked
        at_once = self.chosen.weighs_groups and self.chosen.iterations.rounds == 1
        return TIMES if at_once and criterion_for(self.chosen, self.evidence) == "obs" else 1

    def choice(
        self, scores: Mapping[str, np.ndarray], chosen: Prune | None = None, *, timed: bool = False
    ) -> Selection:
        """By scores of the groups of `wiring`, for the budget of `chosen`, or another."""
        return choose(
            self.base,
            self.wiring,
            chosen or self.chosen,
            self.evidence,
            start=self.start,
            whole=self.whole if self.blocks else None,
            found=self.found if timed else replace(self.found, timed=None),
            scores=scores,
        )

    def empty(self, kept: np.ndarray) -> bool:
        """Whether a group has lost all: its branch is to go whole before that can run."""
        return any(not kept[group.channels].any() for group in self.wiring.free)

    def recovered(self, kept: np.ndarray) -> nn.Module:
        """`base`, cut and given back what can be without training."""
        slim, also = cut(self.base, self.wiring, kept), depth.readers_of(self.whole, self.blocks)
        images = list(first(self.evidence.images, ENOUGH))
        return recover(slim, self.base, self.wiring, kept, self.chosen, images, original=self.detector, also=also)


def refined(around: Around, selection: Selection) -> Selection:
    """The same budget, by scores that know more: `prune.rescore`, `prune.search`.

    Raises:
        SlimError: too few images to look at.
    """
    chosen = around.chosen
    scores = rescored(around, selection) if around.times > 1 else dict(selection.scores)
    if chosen.search:
        scores = search(
            around.base,
            around.wiring,
            scores,
            lambda scaled: around.choice(scaled).kept,
            around.evidence.images,
            chosen.search,
            chosen.seed,
        ).scores
    return around.choice(scores, timed=True)


def rescored(around: Around, selection: Selection) -> dict[str, np.ndarray]:
    """Scores of the detector as it is shortly before the last channels go, by the groups of the one before the cut.

    The way there has equal steps: each leaves the same share of the FLOPs that were left. What has gone stays gone.
    """
    chosen, wiring = around.chosen, around.wiring
    goal, scores = selection.achieved["flops"], dict(selection.scores)
    for step in range(1, around.times):
        share = goal ** (step / around.times)
        target = chosen.model_copy(update={"target": Target(flops=share), "ratio": None, "layers": {}})
        kept = around.choice(scores, target).kept
        if around.empty(kept):
            break
        slim = around.recovered(kept)
        now = trace(slim, wiring.imgsz)
        console.print(f"scored again at FLOPs x{share:.3f}")
        scores = Start(wiring, Plan.of(wiring, kept)).scores(now, judge(slim, now, chosen, around.evidence))
    return scores
