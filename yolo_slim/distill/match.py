"""Maps of two detectors side by side: the same channels, the same size, and if wanted the same scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolo_slim.distill.view import Pair
from yolo_slim.distill.workers import over_workers
from yolo_slim.errors import SlimError


class Match(nn.Module):
    """Pairs of maps that may be compared channel by channel.

    A student that was cut from its teacher has some of the teacher's channels: they are compared with themselves.
    Any other student speaks through a 1x1 convolution, which is trained with it and thrown away (FitNets,
    arXiv:1412.6550, 2.2).

    Args:
        adapter: None: where `pair.same` is not known; True: always, to all of the teacher's channels; False: never.
        normalize: divide both maps of a level by the teacher's standard deviation in this batch, so that a squared
            error is a share of the teacher's variance, and a weight means the same on any detector.

    Raises:
        SlimError: channels that cannot be compared.
    """

    def __init__(self, pair: Pair, adapter: bool | None, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.adapters = nn.ModuleList()
        self.levels = len(pair.student)
        self.widths = list(pair.teacher)
        """Channels of the maps that `forward` returns."""
        self.picks = False
        if adapter or (adapter is None and pair.same is None):
            self.adapters.extend(
                nn.Conv2d(s, t, 1, bias=False) for s, t in zip(pair.student, pair.teacher, strict=True)
            )
        elif pair.same is not None:
            self._pick(pair, pair.same)
        elif list(pair.student) != list(pair.teacher):
            raise SlimError(
                f"without an adapter, maps need as many channels as the teacher's: the student has "
                f"{list(pair.student)}, the teacher {list(pair.teacher)}; leave out `adapter: false`"
            )

    def _pick(self, pair: Pair, same: Sequence[Tensor]) -> None:
        for i, (channels, s, t) in enumerate(zip(same, pair.student, pair.teacher, strict=True)):
            if len(channels) != s or (s and not 0 <= int(channels.min()) <= int(channels.max()) < t):
                raise SlimError(
                    f"map {i}: the student's {s} channels should be named by their indices in the teacher's {t}, "
                    f"but {channels.tolist()} came; take the teacher that the student was cut from, or an adapter"
                )
            self.register_buffer(f"same{i}", channels.detach().clone().long(), persistent=False)
        self.picks = True
        self.widths = list(pair.student)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per level student's and teacher's map, both (B, C, H, W) with H, W of the teacher.

        Args:
            student: per level (B, Cs, Hs, Ws), resized where it is not as large as the teacher's.
            teacher: per level (B, Ct, H, W), without gradients.
        """
        if not len(student) == len(teacher) == self.levels:
            raise SlimError(
                f"{self.levels} maps a detector were announced, {len(student)} of the student and "
                f"{len(teacher)} of the teacher came; name the same layers for both"
            )
        return [self._level(i, s, t) for i, (s, t) in enumerate(zip(student, teacher, strict=True))]

    def _level(self, i: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        if self.adapters:
            student = self.adapters[i](student)
        if self.picks:
            teacher = teacher.index_select(1, self.get_buffer(f"same{i}"))
        student = resized(student, teacher)
        if self.normalize:
            size = spread(teacher)
            student, teacher = student / size, teacher / size
        return student, teacher


class Beside(nn.Module):
    """Pairs of maps for losses that compare within a detector, so that there is nothing to adapt.

    A student that was cut from its teacher is compared with its own channels in the teacher.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.match = None if pair.same is None else Match(pair, adapter=False, normalize=False)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per level student's map (B, Cs, H, W), resized where it is not as large, and teacher's (B, C, H, W)."""
        if self.match is None:
            return [(resized(s, t), t) for s, t in zip(student, teacher, strict=True)]
        return self.match(student, teacher)


def resized(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map (B, C, Hs, Ws) at the size of the teacher's, (B, C, H, W)."""
    if student.shape[2:] == teacher.shape[2:]:
        return student
    return nn.functional.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=False)


def error_share(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of maps as a share of the teacher's variance, a scalar."""
    return nn.functional.mse_loss(student, teacher) / spread(teacher).square()


def spread(values: Tensor) -> Tensor:
    """Standard deviation of all values, a scalar; 1 where they are one constant, up to half precision."""
    middle = over_workers(values.mean())
    away = (values - middle).flatten()
    variance = over_workers(away.dot(away) / away.numel())  # torch.var takes five times as long on a CPU
    return torch.where(variance > 1e-6 * middle.square(), variance, 1).sqrt()
