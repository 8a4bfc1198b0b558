"""Recovery by matching: a slim detector is trained for minutes to say what the original says, from images alone.

All weights learn, from the original's maps (each channel that stayed from itself) and from what it finds, on images
that nobody has labelled. It is distillation without a data set (Hinton et al., arXiv:1503.02531; maps as FitNets,
arXiv:1412.6550), after what can be solved has been solved (`channels/reconstruct.py`). Statistics of batch norm stay:
least squares has fitted the layers to them, and a few hundred batches would not find them again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.distill.match import error_share
from yolo_slim.formats.detector import Detector
from yolo_slim.measure import THREADS
from yolo_slim.measure.agreement import disagreement
from yolo_slim.measure.loss import answers
from yolo_slim.mould import duplicate
from yolo_slim.training.muon import Muon
from yolo_slim.training.pairs import blocks_of, channels_at, same_channels
from yolo_slim.training.teacher import Taps, cheap

RATE = 4e-3
"""How far a step may move a weight, against the size of its tensor's: what is much for one layer is nothing for
another."""
WARM = 0.1
"""Share of the training over which the rate rises."""
LOOKS = 10
"""How often in all of it agreement is measured, and the state kept."""
CLIP = 10.0
SLOWER = 0.25
"""What is left of the rate where a detector that had lost little has lost more: how hard a detector is shows only
then."""


@dataclass
class Progress:
    """How far a matching has come; all that is needed to go on."""

    step: int = 0
    seconds: float = 0.0
    history: list[tuple[int, float]] = field(default_factory=list)
    """After how many steps, how far from the original on images held out."""
    live: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    """{}: it has taken no step."""
    rate: float = RATE
    """The peak from now on: lower where what was tried took the detector away from the original."""
    broken: bool = False
    """Whether a loss was not a number: that was the end of it."""

    @property
    def least(self) -> float:
        """The best that was seen, the start included."""
        return min(gap for _, gap in self.history)


@dataclass(frozen=True)
class Length:
    """How long a matching takes: so many steps, or so many seconds."""

    steps: int | None = None
    seconds: float | None = None

    def share(self, at: Progress) -> float:
        """Of it that is over, 0 to 1."""
        if self.steps is not None:
            return min(at.step / self.steps, 1.0)
        return min(at.seconds / (self.seconds or 1.0), 1.0)


def match(
    slim: Detector,
    original: Detector,
    batch: Callable[[int], Tensor],
    held_out: Sequence[Tensor],
    length: Length,
    imgsz: int,
    *,
    begun: Progress | None = None,
    hold: Callable[[nn.Module], None] = lambda detector: None,
    keep: Callable[[Progress], None] = lambda progress: None,
    on_step: Callable[[Progress, float], None] = lambda progress, loss: None,
) -> tuple[Detector, Progress]:
    """A copy of `slim` at the point where it came closest to the original on images held out: never further than now.

    Args:
        slim: cut from `original`; both are left alone.
        original: what to say again.
        batch: the images (B, C, H, W) in [0, 1] of a step, the same whenever it is asked for the same one.
        held_out: batches that nothing is learned from.
        length: of the training.
        imgsz: image side in pixels.
        begun: what `keep` was given last, to go on from.
        hold: called after each step, brings numbers back to where something else wants them.
        keep: called whenever agreement was measured.
        on_step: called after each step, with its loss.

    Raises:
        SlimError: the detector was not cut from this original.
    """
    if next(slim.parameters()).device.type == "cpu":
        torch.set_num_threads(THREADS)  # Ultralytics leaves one core out
    student, teacher = duplicate(slim).eval(), duplicate(original).eval().requires_grad_(False)
    student.requires_grad_(True)
    pair = _Pair(student, teacher, imgsz)
    optimizer = Muon(student.parameters(), RATE)
    at = begun or Progress(history=[(0, pair.gap(held_out))], best=_state(student))
    if begun:
        student.load_state_dict(begun.live)
        if begun.optimizer:
            optimizer.load_state_dict(begun.optimizer)
    clock, looked = time.perf_counter() - at.seconds, math.floor(LOOKS * length.share(at))
    while length.share(at) < 1:
        optimizer.scale_to(at.rate * _schedule(length.share(at)))
        loss = pair.loss(batch(at.step))
        at.broken = not bool(loss.isfinite())
        if at.broken:
            break
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        hold(student)
        at.step, at.seconds = at.step + 1, time.perf_counter() - clock
        on_step(at, float(loss.detach()))
        if (look := math.floor(LOOKS * length.share(at))) > looked:
            looked = look
            _look(at, pair, held_out, optimizer)
            keep(at)
    student.load_state_dict(at.best)
    pair.close()
    return student, at


def _look(at: Progress, pair: _Pair, held_out: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Measure agreement, and remember the state if there was none better; further away than at first: less haste."""
    gap, (_, first) = pair.gap(held_out), at.history[0]
    if gap < at.least:
        at.best = _state(pair.student)
    elif not gap <= first:
        pair.student.load_state_dict(at.best)
        optimizer.state.clear()
        at.rate *= SLOWER
    at.history.append((at.step, gap))
    at.live, at.optimizer = _state(pair.student), optimizer.state_dict()


class _Pair:
    """Both detectors, their maps of the same channels, and how far apart they are."""

    def __init__(self, student: Detector, teacher: Detector, imgsz: int) -> None:
        same = same_channels(student, teacher, imgsz)
        names = list(blocks_of(student, [same]))
        self.student, self.teacher = student, teacher
        self.channels = channels_at(names, same)
        self.ours, self.theirs = Taps(student, names, "the student"), Taps(teacher, names, "the original")
        self.ours.open()
        self.theirs.open()

    def close(self) -> None:
        """Let go of both."""
        self.ours.close()
        self.theirs.close()

    def loss(self, images: Tensor) -> Tensor:
        """Of maps, as shares of each one's variance, and of what is found; a mean."""
        with torch.no_grad(), cheap(images.device):
            wanted = answers(self.teacher, images)
        with cheap(images.device, learns=True):
            said = answers(self.student, images)
        pairs = zip(self.ours.caught(), self.theirs.caught(), self.channels, strict=True)
        maps = [error_share(ours.float(), theirs[:, channels].float()) for ours, theirs, channels in pairs]
        scores, boxes = disagreement(said, wanted)
        return torch.stack(maps).mean() + scores + boxes

    @torch.no_grad()
    def gap(self, batches: Sequence[Tensor]) -> float:
        """How far apart they are in what they find."""
        gaps = [sum(disagreement(answers(self.student, b), answers(self.teacher, b))) for b in batches]
        return float(torch.stack([torch.as_tensor(gap) for gap in gaps]).mean())


def _schedule(share: float) -> float:
    """The rate against its peak: up for a while, then down on a cosine."""
    return min((share + 0.01) / WARM, 1.0) * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


def _state(detector: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in detector.state_dict().items()}


def shuffled(images: int, batch: int, seed: int) -> Callable[[int], list[int]]:
    """Which images a step sees: all of them once before any comes again."""

    def at(step: int) -> list[int]:
        return [_order(images, seed, i // images)[i % images] for i in range(step * batch, (step + 1) * batch)]

    return at


def _order(images: int, seed: int, epoch: int) -> Any:
    return np.random.default_rng([seed, epoch]).permutation(images)
