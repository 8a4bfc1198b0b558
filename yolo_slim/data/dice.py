"""The dice that Ultralytics' augmentation throws: Python's, NumPy's and torch's, which are the whole process's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

State: TypeAlias = tuple[Any, Any, torch.Tensor]


def state() -> State:
    """As they lie now."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def put(back: State) -> None:
    """As they lay when `state` was asked."""
    random.setstate(back[0])
    np.random.set_state(back[1])
    torch.set_rng_state(back[2])


@contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Inside, the same throws for the same seed; afterwards they lie as they lay."""
    before = state()
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    try:
        yield
    finally:
        put(before)
