"""How far an mAP can be trusted: what it would be on other draws of as many images (a bootstrap over images).

The draws are the same for every detector on a split: the differences between two detectors' mAPs are of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yolo_slim.measure.matches import Matches

RESAMPLES, SEED = 200, 0
FEWEST = 10
"""Images with objects, from which on an interval is told: of fewer, the draws differ too little."""
GRID = np.linspace(0, 1, 101)
"""Recalls at which precision is read, as COCO does."""
ROOM = 4_000_000
"""Numbers in one array at a time."""


def replicates(found: Matches) -> list[float]:
    """mAP50-95 of each draw that has an object; none where there are too few images to draw from."""
    if len(found.labelled) < FEWEST:
        return []
    worth = map50_95(found, draws(found.images))
    return [round(float(v), 5) for v in worth[~np.isnan(worth)]]


def interval(drawn: Sequence[float], value: float) -> tuple[float, float] | tuple[None, None]:
    """What holds 95 % of the draws, and the value itself; None without draws."""
    if not drawn:
        return None, None
    low, high = map(float, np.percentile(drawn, (2.5, 97.5)))
    return min(low, value), max(high, value)


def draws(images: int) -> np.ndarray:
    """How often each image is drawn: (images, RESAMPLES), the same for the same number of images."""
    return np.random.default_rng(SEED).multinomial(images, np.full(images, 1 / images), size=RESAMPLES).T


def map50_95(found: Matches, counts: np.ndarray) -> np.ndarray:
    """What Ultralytics' `ap_per_class` gives where every image is in the lists as often as it was drawn.

    Args:
        found: in the images as they are.
        counts: (images, R), how often each was drawn.

    Returns:
        (R,): the mean over the classes that have objects in a draw; NaN where none has.
    """
    counts = np.ascontiguousarray(counts, np.int32)
    total, classes = np.zeros((2, counts.shape[1]))
    order = np.argsort(-found.conf, kind="stable")
    for k in np.unique(found.target_cls):
        mine = order[found.cls[order] == k]
        objects = counts[found.target_image[found.target_cls == k]].sum(0)  # [R]
        total += _ap50_95(found.tp[mine], found.image[mine], counts, objects)
        classes += objects > 0
    return np.divide(total, classes, out=np.full(len(total), np.nan), where=classes > 0)


def _ap50_95(tp: np.ndarray, image: np.ndarray, counts: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Average precision of a class, the mean over IoUs.

    Args:
        tp: (n, 10), of its detections, the surest first.
        image: (n,), where each is.
        counts: (images, R), how often each image was drawn.
        objects: (R,), how many were drawn.
    """
    right = np.flatnonzero(tp.any(1))
    total = np.zeros(len(objects))
    if len(right):
        seen = np.cumsum(_between(image, right, counts), 0, dtype=np.int32)
        for hit in (np.flatnonzero(at) for at in tp[right].T):
            total += _ap(seen[hit], counts[image[right[hit]]], objects) if len(hit) else 0
    return total / tp.shape[1]


def _between(image: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Detections drawn after the hit before and up to each of these hits: (m, R). Summed a block at a time."""
    total = np.zeros((len(right), counts.shape[1]), np.int32)
    belongs = np.searchsorted(right, np.arange(right[-1] + 1))  # [n], to which hit
    step = max(1, ROOM // counts.shape[1])
    for start in range(0, len(belongs), step):
        to = belongs[start : start + step]
        first = np.flatnonzero(np.diff(to, prepend=-1))
        total[to[first]] += np.add.reduceat(counts[image[start : start + len(to)]], first, 0)
    return total


def _ap(seen: np.ndarray, counts: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Average precision at one IoU, of detections that are right: all others show in `seen` alone.

    Drawn w times, a detection lifts precision w times, each time higher, so that the envelope is level from the first
    to the last. Between it and the one before the envelope is level too if any wrong detection lies there, and falls in
    a straight line over the first of the w steps if not. A detection that was drawn no time changes nothing.

    Args:
        seen: (m, R), detections drawn up to and with each.
        counts: (m, R), how often each was drawn.
        objects: (R,), how many were drawn.
    """
    m, draw = len(counts), np.arange(len(objects))
    right = counts.cumsum(0, dtype=np.int32)
    envelope = np.maximum.accumulate((right / np.maximum(seen, 1))[::-1], 0)[::-1]
    every, grid = np.maximum(objects, 1), GRID[:, None]
    reached = np.floor(grid * every).astype(np.int64)  # [101, R], objects; exact only after rounding is undone
    reached += (reached + 1) / every <= grid
    reached -= reached / every > grid
    apart = draw * (int(every.max()) + 2)  # so that one search serves all draws
    after = np.searchsorted((right + apart).T.ravel(), reached + apart, side="right") - draw * m  # the first beyond
    end = after == m
    after = np.minimum(after, m - 1)
    drawn = np.maximum.accumulate(np.where(counts > 0, np.arange(m, dtype=np.int32)[:, None], -1), 0)
    before = np.where(after > 0, drawn[after - 1, draw], -1)
    value, high = envelope[after, draw], envelope[before, draw]
    level = (seen - right)[after, draw] > (seen - right)[before, draw]  # something wrong lies between
    straight = (before >= 0) & ~level & (right[before, draw] == reached)
    value = np.where(straight, high + (value - high) * every * (grid - reached / every), value)
    value[end] = 0
    return ((value[1:] + value[:-1]) * np.diff(grid, axis=0) / 2).sum(0)
