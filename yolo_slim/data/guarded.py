"""Ultralytics' data sets, with files in them that would run, hang or break it left out; honest ones are read alike.

What stands here replaces what Ultralytics has, once and for the whole process: data loaders and the workers of several
GPUs come by it with the trainer's class, and threads cannot fall between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.data import YOLODataset, build
from ultralytics.data import dataset as datasets
from ultralytics.data import utils as data_utils
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.engine import exporter, trainer, validator
from ultralytics.utils import LOGGER, remove_colorstr

from yolo_slim.data import caches
from yolo_slim.data.facts import dataset_info
from yolo_slim.errors import SlimError

WAYS = 16
"""To one folder over symbolic links, at most; more, and links make a maze."""

NOWHERE = Path(os.devnull) / "none.npy"

LOCAL: ContextVar[bool] = ContextVar("local", default=False)
"""Whether Ultralytics' validator and exporter open data sets as this package does."""


class GuardedDataset(YOLODataset):
    """Ultralytics' own, for files that nobody has looked at."""

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """Ultralytics', of folders and lists that can be read to the end.

        Raises:
            SlimError: links that go round, or an image that is no file.
        """
        for place in img_path if isinstance(img_path, list) else [img_path]:
            check_place(Path(place))
        return super().get_img_files(img_path)

    def get_labels(self) -> list[dict]:
        """Ultralytics'.

        Raises:
            SlimError: there are none to train on, or a list names images in a way that it does not follow.
        """
        try:
            return super().get_labels()
        except ValueError as e:
            raise SlimError(f"cannot use the images and labels of {self.img_path}: {remove_colorstr(str(e))}") from e

    def _load_or_scan_cache(self, cache_path: Path, cache_hash: str) -> tuple[dict, bool]:
        cache, exists = super()._load_or_scan_cache(cache_path, cache_hash)
        if not exists:
            return cache, exists
        try:
            # With `single_cls` labels may name any class; they are all taken for one.
            caches.check(cache, self.im_files, 1 << 24 if self.single_cls else len(self.data["names"]))
        except ValueError as e:
            _say_scanned(cache_path, e)
            return self.cache_labels(cache_path), False
        return cache, True

    def load_image(self, i: int, *args: Any, **kwargs: Any) -> tuple:
        """Ultralytics', which prefers a `.npy` beside the image: only one that holds an image."""
        if self.ims[i] is None and os.path.lexists(self.npy_files[i]) and not is_image(self.npy_files[i]):
            self.npy_files[i] = NOWHERE
        return super().load_image(i, *args, **kwargs)


def check_place(place: Path) -> None:
    """Nothing, where a folder of images, or a list of them, can be read to the end."""
    if place.is_dir():
        _check_folder(place)
    elif place.is_file():
        for line in place.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            _check_image(line.replace("./", f"{place.parent}{os.sep}", 1) if line.startswith("./") else line)


def _check_folder(folder: Path) -> None:
    ways: dict[tuple[int, int], int] = {}
    for here, folders, files in os.walk(folder, followlinks=True):
        known = os.stat(here)
        seen = ways[known.st_dev, known.st_ino] = ways.get((known.st_dev, known.st_ino), 0) + 1
        if seen > WAYS:
            raise SlimError(f"symbolic links in {folder} lead to {here} in more than {WAYS} ways: take them out")
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            _check_image(os.path.join(here, name))


def _check_image(file: str) -> None:
    if file.rpartition(".")[-1].lower() not in IMG_FORMATS or "\0" in file:
        return
    if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
        raise SlimError(f"{file} is no file but a pipe or a device: take it out of the data set")


def is_image(file: Path) -> bool:
    """Whether a `.npy` file holds an image (H, W, C) or (H, W) of bytes, whole."""
    try:
        if not file.is_file():
            return False
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception:  # a header is read as Python, and may be anything
        return False
    return (
        isinstance(array, np.ndarray)
        and array.dtype in (np.uint8, np.uint16)
        and array.ndim in (2, 3)
        and array.size > 0
    )


def load_cache(path: Path) -> dict[str, Any]:
    """In the place of Ultralytics' `load_dataset_cache_file`, which would run what a pickle calls."""
    try:
        return caches.read(path)
    except ValueError as e:
        _say_scanned(path, e)
        raise


def _say_scanned(path: Path, why: Exception) -> None:
    LOGGER.warning(f"{path} is no label cache that Ultralytics writes ({why}): not used, images are scanned anew")


def save_cache(prefix: str, path: Path, x: dict, version: str) -> None:
    """In the place of Ultralytics' `save_dataset_cache_file`: never through a link, and not at all rather than fail."""
    x["version"] = version
    try:
        if path.is_symlink():
            path.unlink()
        _save(prefix, path, x, version)
    except OSError as e:
        LOGGER.warning(f"{prefix}no label cache written to {path}: {e.strerror or e}")


@contextmanager
def local() -> Iterator[None]:
    """Inside, Ultralytics' validator and exporter download no data set, and run nothing that its YAML says."""
    token = LOCAL.set(True)
    try:
        yield
    finally:
        LOCAL.reset(token)


def _checked(stock: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def check_det_dataset(dataset: str | Path, autodownload: bool = True, split: str = "") -> dict[str, Any]:
        if LOCAL.get():
            return dataset_info(dataset, split)
        return stock(dataset, autodownload, split)

    return check_det_dataset


_save = data_utils.save_dataset_cache_file
for module in (data_utils, datasets):
    vars(module).update(load_dataset_cache_file=load_cache, save_dataset_cache_file=save_cache)
for module in (trainer, validator, exporter):
    vars(module)["check_det_dataset"] = _checked(data_utils.check_det_dataset)
vars(build)["YOLODataset"] = GuardedDataset
