"""Unpickling, once a pickle has been walked: by torch's restricted unpickler, with the names that were found and no
others, whatever the environment says and whoever else in this process has allowed more."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from yolo_slim.errors import SlimError
from yolo_slim.formats.archive import DAMAGED, opened
from yolo_slim.formats.pickles import Found, walk
from yolo_slim.formats.vocabulary import Vocabulary, ultralytics
from yolo_slim.mould import Store

_LOCK = threading.RLock()  # torch's list of what is allowed is the whole process's

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
    file = archive.file()
    del archive
    with allowed(found, words):
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as e:  # what was walked can still be nonsense to those whom it fills
            raise SlimError(DAMAGED.format(f"{type(e).__name__}: {str(e).partition(chr(10))[0]}")) from e
    if key:
        KEPT.put(key, loaded)
    return loaded


@functools.lru_cache(maxsize=4)
def walked(pickle: bytes, sizes: tuple[tuple[str, int], ...], words: Vocabulary) -> Found:
    """What `walk` finds: once for the same bytes, as the stages of a run read the same few files again and again."""
    return walk(pickle, dict(sizes), words)


@contextmanager
def allowed(found: Found, words: Vocabulary) -> Iterator[None]:
    """Inside, torch unpickles what was found in a walk, and nothing else."""
    known = {**words.objects, **words.helpers}
    numbers = {type(np.dtype(kind)) for kind in found.dtypes}  # as torch sees them
    with _LOCK:
        before = get_safe_globals()
        clear_safe_globals()
        add_safe_globals([*((known[name], name) for name in found.names if name in known), *numbers])
        try:
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(before)
