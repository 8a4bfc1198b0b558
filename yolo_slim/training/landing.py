"""Gradual pruning, a "landing": which channels leave, when each begins to, and how much of it is left.

Channels leave one after another, least score first, so that the network loses little at a time and answers each loss
before the next. How many have begun follows the cubic of Zhu & Gupta (2017, arXiv:1710.01878, eq. 1), within every
group alike: fast while what leaves is redundant, slowly towards the end, when it is not. Each channel then fades
linearly over a window of its own and is exactly zero at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace, voices
from yolo_slim.channels.groups import Ints

WINDOW = 0.3
"""Share of the landing in which one channel fades."""
MADE_UP = 0.5
"""Share of what least squares would add to the weights that stay by which they drift; training adds the rest."""


@dataclass
class Landing:
    """Every channel's way to zero between two points of a training (shares of it that have passed)."""

    begin: float
    end: float
    n_channels: int
    kept: np.ndarray = field(init=False)  # bool per channel
    start: np.ndarray = field(init=False)  # share of the landing at which a channel begins to leave; inf: it stays
    factor: np.ndarray = field(init=False)  # what is left of a channel, 1 to 0

    def __post_init__(self) -> None:
        self.kept = np.ones(self.n_channels, bool)
        self.start = np.full(self.n_channels, np.inf)
        self.factor = np.ones(self.n_channels)

    @property
    def begun(self) -> np.ndarray:
        """Channels that are on their way, or gone: bool per channel."""
        return self.factor < 1

    @property
    def decided(self) -> bool:
        """Whether all that leave have begun to."""
        return bool((self.begun | self.kept).all())

    @property
    def landed(self) -> float:
        """Share of the channels that leave which are gone."""
        return float((self.factor[~self.kept] == 0).mean()) if not self.kept.all() else 1.0

    @property
    def faded(self) -> float:
        """How far those that leave have come, 0 to 1."""
        return float(1 - self.factor[~self.kept].mean()) if not self.kept.all() else 1.0

    def choose(self, trace: Trace, kept: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
        """Decide who leaves, in the order of their scores; those on their way already go on ahead of the others.

        A channel that had begun to leave and is kept after all goes on from the value that it has.
        """
        self.kept = kept.copy()
        self.factor[kept] = 1
        self.start[:] = np.inf
        for group in trace.groups:
            gone = ~kept[group.channels]
            leaving, n = group.channels[gone], int(gone.sum())
            order = np.lexsort((scores[group.name][gone], self.factor[leaving]))
            place = np.arange(n) / max(n - 1, 1)
            self.start[leaving[order]] = (1 - WINDOW) * (1 - np.cbrt(1 - place))

    def advance(self, progress: float) -> np.ndarray:
        """What every channel has to be multiplied by now, (n_channels,); 1 where it stays, 0 where it is gone.

        Relative to the last call, so that nothing but `factor` needs to be remembered, and whatever training has added
        in between fades as well.
        """
        passed = np.clip((progress - self.begin) / (self.end - self.begin), 0, 1)
        left = np.clip(1 - (passed - self.start) / WINDOW, 0, 1) if passed < 1 else self.kept.astype(float)
        left = np.minimum(left, self.factor)  # never back
        ratio = np.divide(left, self.factor, out=np.zeros(self.n_channels), where=self.factor > 0)
        self.factor = left
        return ratio

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, as tensors."""
        return {name: torch.tensor(getattr(self, name)) for name in ("kept", "start", "factor")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        for name, value in state.items():
            setattr(self, name, value.numpy().copy())


class Fader:
    """Multiplies channels, wherever they speak, in the detector and in its moving average."""

    def __init__(self, trace: Trace, detector: nn.Module) -> None:
        self.slots: dict[str, Ints] = voices(detector, trace)
        self.kept = np.ones(trace.n_channels, bool)
        self.rows: dict[str, tuple[Tensor, Tensor]] = {}  # tensor's name -> rows that fade, and their channels

    def _aim(self, kept: np.ndarray, device: torch.device) -> None:
        self.kept, gone = kept.copy(), np.append(~kept, False)  # a FIXED slot, -1, finds the last entry
        rows = {name: np.flatnonzero(gone[slots]) for name, slots in self.slots.items()}
        self.rows = {
            name: (torch.as_tensor(r, device=device), torch.as_tensor(self.slots[name][r], device=device))
            for name, r in rows.items()
            if len(r)
        }

    @torch.no_grad()
    def fade(self, detector: nn.Module, average: nn.Module | None, ratio: np.ndarray, kept: np.ndarray) -> None:
        """Multiply by `ratio` (per channel); where `kept` is false, the average becomes what the detector is.

        The average exists to smooth what training does at random. A fade is no chance: lagging behind it would leave
        the average speaking with channels that the detector it is an average of no longer has.
        """
        live = detector.state_dict()
        followers = average.state_dict() if average is not None else {}
        device = next(iter(live.values())).device
        if not np.array_equal(kept, self.kept):
            self._aim(kept, device)
        by = torch.as_tensor(ratio, device=device, dtype=torch.float32)
        for name, (rows, channels) in self.rows.items():
            tensor = live[name]
            faded = tensor[rows] * by[channels].view(-1, *[1] * (tensor.dim() - 1)).to(tensor.dtype)
            tensor[rows] = faded
            if name in followers:
                followers[name][rows] = faded.to(followers[name].dtype)


class Drift:
    """Moves weights to where they make up for the channels that fade, as far as these have come.

    What a layer loses with its inputs, others of them can give again in part, and least squares knows the weights for
    it: training has to find what is left, not all of it. It finds much of the same by itself, so all of it at once
    would be too much: the drift is `MADE_UP` of the way.
    """

    def __init__(self, way: Mapping[str, Tensor], begun: float, moved: float = 0.0) -> None:
        """`way`: parameter -> what least squares would add to it; `begun`: what `Landing.faded` was; `moved` so far."""
        self.way, self.begun, self.moved = dict(way), begun, moved

    @torch.no_grad()
    def follow(self, detector: nn.Module, average: nn.Module | None, faded: float) -> None:
        """Move on to `faded`; the average moves as far, for the reason given at `Fader.fade`."""
        share = (faded - self.begun) / (1 - self.begun) if self.begun < 1 else 1.0
        step, self.moved = share - self.moved, share
        if not step:
            return
        for module in (detector, average):
            state = module.state_dict() if module is not None else {}
            for name in self.way.keys() & state.keys():
                self.way[name] = self.way[name].to(state[name])
                state[name].add_(self.way[name], alpha=MADE_UP * step)

    def state(self) -> dict[str, Any]:
        """Arguments of the same drift, gone as far."""
        return {"way": self.way, "begun": self.begun, "moved": self.moved}
