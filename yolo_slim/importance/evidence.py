"""What a criterion may look at beside the weights: images, labelled batches, and losses of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor, nn

from yolo_slim.errors import SlimError


@dataclass(frozen=True)
class Evidence:
    """Images and batches may be read more than once; a criterion that needs what is not there says so."""

    images: Iterable[Tensor] = ()  # batches (B, C, H, W) in [0, 1], without labels
    batches: Iterable[Any] = ()  # labelled batches, as `loss` takes them
    loss: Callable[[nn.Module, Any], Tensor] | None = None  # (detector, labelled batch) -> mean over its images
    drawn: Callable[[nn.Module, Tensor, Generator], Tensor] | None = None  # (detector, images, draw) -> likewise, of
    # targets that are drawn from what the detector says itself
    bn_fold: bool = False  # judge filters as batch norm scales them in inference
    mix_norm: float = 0.0  # fpgm: share of the channels to go that go by norm instead
    points: int = 10  # lasso: random positions an image
    seed: int = 0

    def __repr__(self) -> str:
        held = {"images": self.images, "labelled batches": self.batches}
        return f"<Evidence: {' and '.join(name for name, found in held.items() if found) or 'nothing to look at'}>"

    def need_images(self, criterion: str) -> Iterable[Tensor]:
        """The images.

        Raises:
            SlimError: there are none.
        """
        if not self.images:
            raise SlimError(f"prune.criterion={criterion} looks at images: give data= (or calibration=)")
        return self.images

    def need_answers(self, criterion: str) -> tuple[Iterable[Any], Callable[[nn.Module, Any], Tensor]]:
        """Batches and their loss: of targets drawn from the detector's own answers where that can be had, else labels.

        Raises:
            SlimError: there are no images.
        """
        if self.drawn is None or not self.images:
            return self.need_batches(criterion)
        draw, drawn = Generator().manual_seed(self.seed), self.drawn
        return self.images, lambda detector, images: drawn(detector, images, draw)

    def need_batches(self, criterion: str) -> tuple[Iterable[Any], Callable[[nn.Module, Any], Tensor]]:
        """The labelled batches and their loss.

        Raises:
            SlimError: there are none.
        """
        if not self.batches or self.loss is None:
            raise SlimError(f"prune.criterion={criterion} looks at the loss on labelled images: give data=")
        return self.batches, self.loss
