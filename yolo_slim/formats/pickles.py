"""What the pickle of a checkpoint would do, found out by going through its instructions and doing none of them."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from yolo_slim.errors import SlimError
from yolo_slim.formats.archive import DAMAGED
from yolo_slim.formats.steps import STEPS, Walk
from yolo_slim.formats.vocabulary import Vocabulary, ultralytics

MOST_STEPS = 2_000_000
"""Instructions; YOLOv5n has 40,000, and the largest in the middle of its training some 500,000."""


def walk(data: bytes, sizes: Mapping[str, int], words: Vocabulary | None = None) -> frozenset[str]:
    """Go through a pickle.

    Args:
        data: the pickle.
        sizes: bytes of the storages, by key.
        words: that it may use; None: those of Ultralytics' checkpoints.

    Returns:
        All that it names.

    Raises:
        SlimError: what it names, calls or declares that no detector's checkpoint does.
    """
    state = Walk(data, sizes, words or ultralytics())
    steps = 0
    try:
        while not state.ended:
            steps += 1
            if steps > MOST_STEPS:
                raise SlimError(f"describes its detector in more than {MOST_STEPS:,} steps: no checkpoint does")
            step = STEPS.get(data[state.at])
            if step is None:
                raise SlimError(DAMAGED.format(f"instruction {data[state.at]:#04x} at byte {state.at} of its pickle"))
            state.at += 1
            step(state)
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as e:
        raise SlimError(DAMAGED.format(f"its pickle breaks off at byte {state.at}")) from e
    if state.at != len(data) or state.stack or state.below:
        raise SlimError(DAMAGED.format(f"its pickle goes on after its end at byte {state.at}"))
    return frozenset(state.names)
