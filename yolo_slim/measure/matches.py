"""What a detector found in a split, image by image, and which of it is right: all that its numbers are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Matches:
    """N detections in some images, M objects labelled there. Images are numbered by the order of their files' names."""

    tp: np.ndarray  # [N, 10], whether it is an object, at IoU 0.5, 0.55 ... 0.95
    conf: np.ndarray  # [N]
    cls: np.ndarray  # [N]
    image: np.ndarray  # [N]
    target_cls: np.ndarray  # [M]
    target_image: np.ndarray  # [M]
    images: int

    @property
    def labelled(self) -> np.ndarray:
        """The images that have objects."""
        return np.unique(self.target_image)


def gathered(files: Sequence[str], stats: Mapping[str, Sequence[np.ndarray]]) -> Matches:
    """Ultralytics' statistics, an entry an image, as one.

    Args:
        files: of the images, in the order in which they were seen.
        stats: `tp`, `conf`, `pred_cls` and `target_cls` of each.
    """
    number = np.argsort(np.argsort(files, kind="stable"), kind="stable")
    found, labels = (np.repeat(number, [len(v) for v in stats[key]]) for key in ("conf", "target_cls"))
    tp, conf, cls, target = (np.concatenate([*stats[key]]) for key in ("tp", "conf", "pred_cls", "target_cls"))
    return Matches(tp.astype(bool), conf, cls.astype(int), found, target.astype(int), labels, len(files))
