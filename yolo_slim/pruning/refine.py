"""A choice made better by looking at detectors that are cut: scores taken again on the way, and widths searched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

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
"""Scorings with `obs`, where nothing is asked for: better than one on easy and hard detectors (docs/benchmarks.md)."""
ENOUGH = 64
"""Images that a detector on the way is refitted on: it is scored and thrown away."""


def times_scored(chosen: Prune, criterion: str) -> int:
    """How often channels are scored on the way to a cut, by a criterion."""
    if chosen.rescore is not None:
        return chosen.rescore
    at_once = chosen.weighs_groups and chosen.iterations.rounds == 1
    return TIMES if at_once and criterion == "obs" else 1


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
        return times_scored(self.chosen, criterion_for(self.chosen, self.evidence))

    def choice(
        self, scores: Mapping[str, np.ndarray] | None = None, chosen: Prune | None = None, *, timed: bool = False
    ) -> Selection:
        """By scores of the groups of `wiring`, taken now if left out, for the budget of `chosen`, or another."""
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

    def emptied(self, selection: Selection) -> list[str]:
        """The branches that have lost all of an inner width, and are to go whole."""
        empty = self.wiring.emptied(selection.kept)
        owner = depth.may_empty(self.base, self.wiring, self.chosen) if empty else {}
        return [owner[name] for name in empty]

    def recovered(self, kept: np.ndarray, images: Iterable[Tensor]) -> nn.Module:
        """`base`, cut and given back what can be without training."""
        slim, also = cut(self.base, self.wiring, kept), depth.readers_of(self.whole, self.blocks)
        return recover(slim, self.base, self.wiring, kept, self.chosen, images, original=self.detector, also=also)

    def refined(self, selection: Selection) -> Selection:
        """The same budget, by scores that know more, where that is asked for: `prune.rescore`, `prune.search`.

        Raises:
            SlimError: too few images to search on.
        """
        if self.times == 1 and not self.chosen.search:
            return selection
        scores = self._rescored(selection)
        if self.chosen.search:
            how, images, seed = self.chosen.search, self.evidence.images, self.chosen.seed
            found = search(self.base, self.wiring, scores, lambda s: self.choice(s).kept, images, how, seed)
            scores = found.scores
        return self.choice(scores, timed=True)

    def _rescored(self, selection: Selection) -> dict[str, np.ndarray]:
        """Scores of the detector as it is shortly before the last channels go, by groups of the one before the cut.

        The way there has equal steps: each leaves the same share of the FLOPs that were left. What has gone stays gone.
        """
        goal, scores = selection.achieved["flops"], dict(selection.scores)
        for step in range(1, self.times):
            share = goal ** (step / self.times)
            asked: dict[str, Any] = {"target": Target(flops=share), "ratio": None, "layers": {}}
            kept = self.choice(scores, self.chosen.model_copy(update=asked)).kept
            if self.wiring.emptied(kept):
                break
            slim = self.recovered(kept, list(first(self.evidence.images, ENOUGH)))
            now = trace(slim, self.wiring.imgsz)
            console.print(f"scored again at FLOPs x{share:.3f}")
            left = Plan.of(self.wiring, kept)
            scores = Start(self.wiring, left).scores(now, judge(slim, now, self.chosen, self.evidence))
        return scores
