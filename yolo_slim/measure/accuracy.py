"""Accuracy by Ultralytics' own validator, with one setting for every row of every table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from ultralytics.utils import remove_colorstr, torch_utils

from yolo_slim.data import LocalValidator
from yolo_slim.errors import SlimError, no_images
from yolo_slim.measure.bootstrap import interval, replicates
from yolo_slim.measure.matches import Matches, gathered
from yolo_slim.measure.scores import CONFIDENCE, replicates_at, scores
from yolo_slim.row import OfClass, Row
from yolo_slim.scratch import Scratch

NOT_MEASURED: dict[str, Any] = dict.fromkeys(
    (
        *("map50", "map50_95", "map50_95_low", "map50_95_high"),
        *("precision_at_25", "recall_at_25", "f1_at_25"),
        *("best_confidence", "precision_best", "recall_best", "f1_best"),
        *("labelled_images", "blind_images", "median_best_score"),
    )
)
"""What `accuracy` gives where no image has a label."""


def accuracy(detector: nn.Module, data: str, imgsz: int, split: str, device: str = "cpu") -> Row:
    """Validate on a split, once.

    Args:
        detector: takes images (B, C, H, W) and has `names`; left as it is.
        data: an Ultralytics data-set YAML.
        imgsz: image side in pixels; every image is padded to a square, as files with a fixed input need it.
        split: of the data set.
        device: to run on.

    Returns:
        `map50`, `map50_95` in [0, 1], and `map50_95_low`, `map50_95_high`, between which the latter lies on 95 % of
        other draws of the images (None with fewer than 10 that have objects); what `scores` gives; `images` and
        `labels`, how many there are in the split; `per_class`, a row for each class id with `id`, `name`, `images` and
        `labels` of it, and `ap50_95` (None where it has no labels); `replicates`, mAP50-95 on those draws, which are
        the same for every detector. Where no image has a label, nothing is measured: all but the counts are None.

    Raises:
        SlimError: the split cannot be read.
    """
    with Scratch() as folder:
        args = {"task": "detect", "mode": "val", "data": data, "imgsz": imgsz, "split": split, "device": device}
        validator = Validator(save_dir=Path(folder), args={**args, "batch": 16, "plots": False, "verbose": False})
        try:
            # Ultralytics leaves one core out when it chooses the CPU, and what follows would do without it as well.
            with patch.object(torch_utils, "NUM_THREADS", torch.get_num_threads()):
                validator(model=detector)
        except (OSError, SyntaxError, RuntimeError, SlimError) as e:
            if isinstance(e, RuntimeError) and not no_images(e):
                raise
            raise SlimError(f"cannot validate on '{split}' of {data}: {remove_colorstr(str(e))}") from e
    found, box = validator.found, validator.metrics.box
    counted = {"images": found.images, "labels": len(found.target_cls)}
    if not counted["labels"]:
        row = {**NOT_MEASURED, **counted, "per_class": _per_class(found, validator, {}), "replicates": []}
        row["replicates_at_25"] = replicates_at(found, CONFIDENCE)
        return cast(Row, row)
    drawn = replicates(found)
    low, high = interval(drawn, float(box.map))
    measured = {
        "map50": float(box.map50),
        "map50_95": float(box.map),
        "map50_95_low": low,
        "map50_95_high": high,
        **scores(found),
        **counted,
        "per_class": _per_class(found, validator, dict(zip(map(int, box.ap_class_index), box.ap, strict=True))),
        "replicates": drawn,
    }
    return cast(Row, measured)


def _per_class(found: Matches, validator: LocalValidator, ap: dict[int, float]) -> list[OfClass]:
    """By id: names may be alike, or no text. A class without labels has no AP; one that was never found has 0."""
    rows: list[OfClass] = []
    for k, name in validator.names.items():
        of = found.target_cls == k
        images, labels = len(np.unique(found.target_image[of])), int(of.sum())
        worth = float(ap[k]) if k in ap else None
        rows.append({"id": int(k), "name": str(name), "images": images, "labels": labels, "ap50_95": worth})
    return rows


class Validator(LocalValidator):
    """Ultralytics', which keeps what was found in each image."""

    found: Matches

    def init_metrics(self, model: nn.Module) -> None:
        """Before the first image."""
        super().init_metrics(model)
        self.files: list[str] = []

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        """After each batch."""
        super().update_metrics(preds, batch)
        self.files += batch["im_file"]

    def get_stats(self) -> dict[str, Any]:
        """After the last one; Ultralytics then throws away what was found."""
        self.found = gathered(self.files, self.metrics.stats)
        return super().get_stats()
