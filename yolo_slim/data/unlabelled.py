"""Images without labels: folders of pictures, and splits of a data set whose labels are not asked for."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.data.utils import IMG_FORMATS, check_image
from ultralytics.utils import LOCAL_RANK, LOGGER, NUM_THREADS, TQDM, remove_colorstr

from yolo_slim.channels import image_channels
from yolo_slim.data.guarded import GuardedDataset
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector

AUGMENTED = {"mosaic": 0.0, "mixup": 0.0, "cutmix": 0.0, "copy_paste": 0.0}
"""Ultralytics' augmentation, but for what pastes images together: what is found in a picture is to be that of one."""


class Unlabelled(GuardedDataset):
    """Images of a folder of the user's: labels beside them are not read, and no cache is written there."""

    def get_labels(self) -> list[dict[str, Any]]:
        """No object for each image that can be read; the others are left out, and said.

        Raises:
            SlimError: none can be read.
        """
        with ThreadPool(NUM_THREADS) as pool:
            looked = pool.imap(_label_of, self.im_files)
            bar = TQDM(looked, f"{self.prefix}Scanning {self.img_path}", len(self.im_files), disable=LOCAL_RANK > 0)
            found = list(bar)
        wrong = [label for label in found if isinstance(label, str)]
        if len(wrong) == len(found):
            raise SlimError(f"none of the {len(found)} images in {self.img_path} can be read: {wrong[0]}")
        if wrong and LOCAL_RANK in {-1, 0}:
            LOGGER.warning(f"{self.prefix}{len(wrong)} images that cannot be read are left out: {'; '.join(wrong)}")
        labels = [label for label in found if not isinstance(label, str)]
        self.im_files = [label["im_file"] for label in labels]
        return labels


def _label_of(image: str) -> dict[str, Any] | str:
    """An image without objects, as Ultralytics describes one; or what is wrong with it."""
    try:
        _, hw = check_image(image)
    except Exception as e:  # PIL raises whatever a damaged file makes it stumble over
        return f"{image}: {e}"
    return {
        "im_file": image,
        "shape": hw,
        "cls": np.zeros((0, 1), np.float32),
        "bboxes": np.zeros((0, 4), np.float32),
        "segments": [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }


def images_at(places: Sequence[str], detector: Detector, imgsz: int) -> Unlabelled:
    """All images in some folders and lists, as this detector reads them.

    Raises:
        SlimError: there are none, or none can be read.
    """
    info = {"names": detector.names, "nc": len(detector.names), "channels": image_channels(detector)}
    try:
        with patch("ultralytics.data.build.YOLODataset", Unlabelled):
            found = build_yolo_dataset(_arguments(imgsz), [*places], 16, info, mode="val")
    except (OSError, RuntimeError, AssertionError, ValueError) as e:
        raise SlimError(f"cannot read the images in {', '.join(places)}: {remove_colorstr(str(e))}") from e
    assert isinstance(found, Unlabelled)
    return found


def augmented(images: Unlabelled) -> Unlabelled:
    """The same images, which are not looked for again, as Ultralytics augments them; nothing is pasted together."""
    twin = copy.copy(images)
    twin.augment, twin.buffer = True, []
    twin.ims, twin.im_hw0, twin.im_hw = ([None] * len(images) for _ in range(3))
    twin.transforms = twin.build_transforms(_arguments(images.imgsz))
    return twin


def _arguments(imgsz: int | tuple[int, int]) -> Any:
    return get_cfg(overrides={"imgsz": imgsz, "task": "detect", "mode": "train", "rect": False, **AUGMENTED})


def sum_of_pictures(folder: str, setting: str) -> str:
    """What is in a folder of pictures: another name or size of a file, and what was made of them is made again.

    Raises:
        SlimError: a folder that is not there, or holds no picture.
    """
    if not Path(folder).is_dir():
        raise SlimError(f"{setting}: no folder {folder}")
    files = sorted(p for p in Path(folder).rglob("*.*") if p.suffix[1:].lower() in IMG_FORMATS)
    if not files:
        raise SlimError(f"{setting}: expected pictures ({', '.join(sorted(IMG_FORMATS))}) in {folder}, found none")
    # Not of their content: folders of unlabelled images are large.
    named = "".join(f"{p.relative_to(folder)} {p.stat().st_size}\n" for p in files)
    return hashlib.sha256(named.encode()).hexdigest()[:16]
