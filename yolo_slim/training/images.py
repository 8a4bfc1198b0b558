"""Images that only a teacher knows: other pictures of the same scenes, and pictures without labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from ultralytics.data import YOLOConcatDataset

from yolo_slim.data import dice
from yolo_slim.data.unlabelled import Unlabelled
from yolo_slim.errors import SlimError


class Paired(Dataset):
    """An Ultralytics data set, each item with `teacher_img`: the same file name under another root, augmented alike."""

    def __init__(self, dataset: Any, twin: Any) -> None:
        self.dataset, self.twin = dataset, twin

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        before = dice.state()
        item = self.dataset[index]
        after = dice.state()
        dice.put(before)  # both are thrown the same dice
        item["teacher_img"] = self.twin[index]["img"]
        dice.put(after)
        return item

    def close_mosaic(self, hyp: Any) -> None:
        """As Ultralytics' data sets have it."""
        self.dataset.close_mosaic(hyp)
        self.twin.close_mosaic(copy.copy(hyp))

    def __getattr__(self, name: str) -> Any:  # labels, collate_fn, rect, ...
        if name.startswith("__") or name in ("dataset", "twin"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


def twins(files: Sequence[str], root: str) -> list[str]:
    """What the teacher sees of each training image: root/<name of the file>.

    Raises:
        SlimError: pictures that are not there.
    """
    found = [str(Path(root) / Path(f).name) for f in files]
    if missing := [f for f in found if not Path(f).is_file()]:
        raise SlimError(
            f"finetune.distill.teacher_images: expected {root} to hold a picture for each training image, under the "
            f"same name; {len(missing)} of {len(found)} are missing, such as {Path(missing[0]).name}"
        )
    return found


def paired(dataset: Any, root: str, hyp: Any) -> Paired:
    """The data set with what the teacher sees of each image: root/<name of the file>.

    Args:
        dataset: Ultralytics'.
        root: a folder.
        hyp: Ultralytics' arguments, of augmentation among others.

    Raises:
        SlimError: pictures that are not there.
    """
    files = twins(dataset.im_files, root)
    twin = copy.copy(dataset)
    twin.im_files, twin.npy_files = files, [Path(f).with_suffix(".npy") for f in files]
    twin.ims, twin.im_hw0, twin.im_hw = ([None] * len(files) for _ in range(3))
    # Images in RAM are drawn from all of them, others from those read last: both data sets must draw alike.
    twin.cache, twin.buffer = "ram" if dataset.cache == "ram" else None, []
    twin.labels = [{**label, "im_file": f} for label, f in zip(dataset.labels, files, strict=True)]
    twin.transforms = twin.build_transforms(copy.copy(hyp))  # mosaics hold the data set that they draw from
    return Paired(dataset, twin)


class Marked(Dataset):
    """An Ultralytics data set whose items say whether they are labelled."""

    def __init__(self, dataset: Any, labelled: bool) -> None:
        self.dataset, self.labelled = dataset, labelled

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], "labelled": self.labelled}

    def close_mosaic(self, hyp: Any) -> None:
        """As Ultralytics' data sets have it."""
        self.dataset.close_mosaic(hyp)


class Mixed(YOLOConcatDataset):
    """Labelled and unlabelled images, each augmented among its own: a mosaic of both would lack half of its labels."""

    @property
    def labels(self) -> list[dict]:
        """Of the labelled images: what Ultralytics counts and draws."""
        labelled, _ = self.datasets
        assert isinstance(labelled, Marked)
        return labelled.dataset.labels


def mixed(dataset: Any, extra: Unlabelled) -> Mixed:
    """`dataset`, and images that only a teacher supervises."""
    return Mixed([Marked(dataset, True), Marked(extra, False)])


def labelled(preds: Any, batch: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Predictions and batch without the unlabelled images; all of it where none is labelled, see `any_labelled`."""
    stay = torch.tensor(batch.get("labelled", ()), dtype=torch.bool)
    if not stay.any() or stay.all():
        return preds, batch
    images = stay.nonzero()[:, 0]
    number = torch.cumsum(stay, 0) - 1  # of each image among those that stay
    index = batch["batch_idx"]
    return _only(preds, images), {
        **batch,
        "img": batch["img"][images.to(batch["img"].device)],
        "batch_idx": number.to(index.device)[index.long()].to(index.dtype),
    }


def any_labelled(batch: Mapping[str, Any]) -> bool:
    """Whether there is anything to be learned from labels."""
    return any(batch.get("labelled", (True,)))


def _only(value: Any, images: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[images.to(value.device)]
    if isinstance(value, dict):
        return {key: _only(v, images) for key, v in value.items()}
    return type(value)(_only(v, images) for v in value)
