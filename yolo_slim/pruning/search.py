"""Search around a choice by what the cut detector says: which groups the scores hold too cheap, and which too dear.

Scores compare channels within a group well, and groups with one another badly: they are taken around the whole
detector, and what is lost in one layer is magnified or drowned by those behind it. So every group gets a factor, and
the factors are searched: the budget is solved with the scores times their factors, the cut detector is refitted in
closed form, and its distance to the original is measured on images without labels that nothing was fitted to. It is
the search over coefficients of layers of SPDY (Frantar & Alistarh, ICML 2022, arXiv:2201.13096, 3.2), from the scores
on, by steps of which those are kept that bring the two detectors closer together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace
from yolo_slim.channels.refits import Refits
from yolo_slim.channels.surgery import evaluating
from yolo_slim.config import Search
from yolo_slim.console import At, console, progress
from yolo_slim.data.batches import beyond, first
from yolo_slim.errors import SlimError
from yolo_slim.measure.agreement import disagreement
from yolo_slim.measure.loss import Answers, answers

Scores = Mapping[str, np.ndarray]
"""Group name -> (n,) what each of its channels is worth."""

SHARE = 0.25
"""Of a group's channels that go, and of no other's, to see how dear they are."""
STEP = 0.8
"""Of a factor: the standard deviation of its logarithm."""
TOGETHER = 3
"""Factors that move in one trial, at most."""
HOPELESS = 1.03
"""A trial that is this much worse than the best on the images so far is given up."""
BATCH = 8
LOOKED_AT = 16
"""Images on which a group alone is tried: what it does to all of them is much alike."""
TINY = 1e-12
"""What is cheaper counts as this cheap."""
IDLE = 500
"""Trials in a row that change no width, after which there is nothing to search."""


@dataclass
class Found:
    """What a search has come to."""

    scores: dict[str, np.ndarray]
    """With their factors: what the choice is to be made with."""
    before: float
    """Distance to the original of the cut that the scores alone lead to."""
    after: float
    trials: int
    """Cuts that were tried."""


def search(
    detector: nn.Module,
    wiring: Trace,
    scores: Scores,
    choose: Callable[[Scores], np.ndarray],
    images: Iterable[Tensor],
    asked: Search,
    seed: int,
) -> Found:
    """Scores with which the same budget leaves a detector that says more nearly what the original says.

    Args:
        detector: to be cut; left alone.
        wiring: of the detector.
        scores: to begin with.
        choose: bool per channel, which stay by these scores; the budget is met whatever they are.
        images: batches (B, C, H, W) in [0, 1]; a part of them is held out, to compare cuts on.
        asked: how long, and on how many images.
        seed: of the trials.

    Raises:
        SlimError: too few images.
    """
    count = sum(map(len, images))
    out = min(asked.images, count // 3)
    if not out:
        raise SlimError(f"prune.search: expected 3 images at least to refit on and to compare on, got {count}")
    judge = _Judge(detector, torch.cat(list(beyond(images, count - out))))
    refits = Refits(detector, wiring, first(images, count - out), seed=seed)
    with progress("searching widths") as at:
        looking = _Looking(wiring, scores, choose, refits, judge, asked, at)
        looking.each_alone()
        looking.around(np.random.default_rng(seed))
    found = Found(looking.scaled(looking.factors), looking.before, float(np.mean(looking.best)), looking.trials)
    console.print(
        f"searched {found.trials} cuts of the same budget: on {out} images held out, the distance to the original "
        f"went from {found.before:.3g} to {found.after:.3g}"
    )
    return found


class _Looking:
    """Where a search is."""

    def __init__(
        self,
        wiring: Trace,
        scores: Scores,
        choose: Callable[[Scores], np.ndarray],
        refits: Callable[[np.ndarray], nn.Module],
        judge: _Judge,
        asked: Search,
        at: At,
    ) -> None:
        self.wiring, self.scores, self.choose, self.asked = wiring, scores, choose, asked
        self.refits, self.judge = refits, judge
        self.free = [group for group in wiring.free if group.name in scores]
        self.factors, self.trials, self.begun = np.zeros(len(self.free)), 0, time.perf_counter()
        self.at = at
        self.kept = choose(scores)
        self.best = judge.distances(refits(self.kept))
        self.before = float(np.mean(self.best))

    def scaled(self, factors: np.ndarray) -> dict[str, np.ndarray]:
        """The scores, each group's times its factor, of which these are the logarithms."""
        return {
            **self.scores,
            **{g.name: self.scores[g.name] * np.exp(f) for g, f in zip(self.free, factors, strict=True)},
        }

    def going_on(self, further: int = 0) -> bool:
        """Whether there is something to search, and time left, so many further trials aside."""
        share = self.asked.share(self.trials + further, time.perf_counter() - self.begun)
        self.at(share, 1.0, f"trial {self.trials}, distance {float(np.mean(self.best)):.3g}")
        return share < 1 and bool(self.free)

    def each_alone(self) -> None:
        """Factors by what a group costs that alone loses some channels, against what its scores had foretold."""
        dear = np.full(len(self.free), np.nan)
        for i, group in enumerate(self.free):
            if not self.going_on(1):  # the last one is for what all of them say together
                break
            worth = self.scores[group.name]
            going = np.argsort(worth, kind="stable")[: max(1, int(SHARE * group.size))]
            foretold = float(np.maximum(worth[going], 0).sum())
            if group.size > 1 and np.isfinite(foretold):
                kept = np.ones(self.wiring.n_channels, bool)
                kept[group.channels[going]] = False
                self.trials += 1
                seen = float(np.mean(self.judge.distances(self.refits(kept), LOOKED_AT // BATCH)))
                dear[i] = np.log(max(seen, TINY) / max(foretold, TINY))
        if np.isfinite(dear).any():
            self._try(np.nan_to_num(dear - np.nanmedian(dear)))

    def around(self, dice: np.random.Generator) -> None:
        """Move a few factors at a time, and stay where that is better."""
        idle = 0
        while self.going_on() and idle < IDLE:
            moved = self.factors.copy()
            moving = dice.choice(len(moved), min(int(dice.integers(1, TOGETHER + 1)), len(moved)), replace=False)
            moved[moving] += dice.normal(0, STEP, len(moving))
            idle = 0 if self._try(moved) else idle + 1

    def _try(self, factors: np.ndarray) -> bool:
        """Take these factors if they are better; False: they change no width, or leave a group nothing."""
        kept = self.choose(self.scaled(factors))
        if (kept == self.kept).all() or self.wiring.emptied(kept):
            return False
        self.trials += 1
        if (gaps := self.judge.better(self.refits(kept), self.best)) is not None:
            self.best, self.factors, self.kept = gaps, factors, kept
        return True


class _Judge:
    """How far a cut is from the original in what it says of some images."""

    def __init__(self, detector: nn.Module, images: Tensor) -> None:
        self.batches = images.split(BATCH)
        with torch.no_grad(), evaluating(detector):
            self.said: Sequence[Answers] = [answers(detector, batch) for batch in self.batches]

    def distances(self, slim: nn.Module, batches: int | None = None) -> list[float]:
        """Batch by batch, of all or of the first ones."""
        return list(islice(self._one_by_one(slim), batches))

    def better(self, slim: nn.Module, best: Sequence[float]) -> list[float] | None:
        """The same; None: they come to no less than the best, or will not."""
        gaps: list[float] = []
        for gap in self._one_by_one(slim):
            gaps.append(gap)
            allowed = np.mean(best[: len(gaps)]) * (1 if len(gaps) == len(best) else HOPELESS)
            if not np.mean(gaps) < allowed:
                return None
        return gaps

    def _one_by_one(self, slim: nn.Module) -> Iterator[float]:
        slim.eval()
        for batch, said in zip(self.batches, self.said, strict=True):
            with torch.no_grad():
                yield float(sum(disagreement(answers(slim, batch), said)))
