"""Unpickling, once a pickle has been walked: the names that were found and no others, whatever the environment says
and whatever else in this process torch has been allowed."""

from __future__ import annotations

import functools
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.storage import TypedStorage

from yolo_slim.errors import SlimError
from yolo_slim.formats.archive import DAMAGED, Archive, opened
from yolo_slim.formats.pickles import walk
from yolo_slim.formats.strangers import full
from yolo_slim.formats.vocabulary import Vocabulary, ultralytics
from yolo_slim.mould import Store

LARGEST_KEPT = 32 << 20
"""Bytes of a checkpoint that is kept: of larger ones, the numbers take the time."""
KEPT = Store(64 << 20)
"""(content, words) -> what was read of it: the stages of a run read the same few files again and again."""


def unpickled(path: Path, words: Vocabulary | None = None) -> Any:
    """What a checkpoint holds; `words`: that its pickle may use, None: those of Ultralytics'.

    Raises:
        SlimError: it is damaged, or would do more than a detector's checkpoint does.
    """
    archive = opened(path)
    words = words or ultralytics()
    key = (archive.digest(), words) if archive.size <= LARGEST_KEPT else None
    if key and (known := KEPT.get(key)) is not None:
        return known
    found = walked(archive.pickle, tuple((key, len(content)) for key, content in archive.storages.items()), words)
    try:
        loaded = Unpickler(archive, found, words).load()
    except Exception as e:  # what was walked can still be nonsense to those whom it fills
        raise SlimError(DAMAGED.format(f"{type(e).__name__}: {str(e).partition(chr(10))[0]}")) from e
    if key:
        KEPT.put(key, loaded)
    return loaded


@functools.lru_cache(maxsize=4)
def walked(data: bytes, sizes: tuple[tuple[str, int], ...], words: Vocabulary) -> frozenset[str]:
    """What `walk` finds: once for the same bytes, as the stages of a run read the same few files again and again."""
    return walk(data, dict(sizes), words)


class Unpickler(pickle.Unpickler):
    """C's, several times as fast as torch's restricted one, for a pickle that was walked: each of its instructions is
    among those that the walk knows, and each call one that it has let pass."""

    def __init__(self, archive: Archive, found: frozenset[str], words: Vocabulary) -> None:
        """`found`: what the walk of this archive's pickle came to, with these words."""
        super().__init__(io.BytesIO(archive.pickle))
        known = {**words.objects, **words.helpers}
        self._storages, self._named = archive.storages, {name: known[name] for name in found}
        self._loaded: dict[str, TypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for here; nothing is looked up by it."""
        if (meant := full(module, name)) not in self._named:
            raise pickle.UnpicklingError(f"{meant} is none of the names that were found")
        return self._named[meant]

    def persistent_load(self, where: tuple[str, torch.dtype, str, str, int]) -> TypedStorage:
        """The numbers of a storage, on the CPU wherever they were: two tensors that share some go on sharing them."""
        _, dtype, key, _, _ = where
        if key not in self._loaded:
            content = self._storages[key]
            numbers = torch.empty(len(content), dtype=torch.uint8)
            numbers.numpy()[:] = memoryview(content)
            self._loaded[key] = TypedStorage(wrap_storage=numbers.untyped_storage(), dtype=dtype, _internal=True)
        return self._loaded[key]
