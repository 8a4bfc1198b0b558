"""K-means of numbers on a line (Lloyd, 1982): sorted once, each step needs sums between borders and nothing else."""

from __future__ import annotations

import numpy as np

INITS = ("linear", "density", "random")
"""Over the range, which keeps the few large weights; at quantiles; at weights that are drawn."""
MOST_STEPS = 300


def kmeans(values: np.ndarray, k: int, init: str = "linear", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Centroids (K,) rising, K <= k, none of them without members, and the number of its own for each value (N,).

    Each centroid is the mean of its values and each value's the nearest one, unless `MOST_STEPS` come first. Where no
    more than k values are distinct, they are the centroids.

    Args:
        values: (N,) finite numbers, at least one.
        k: centroids at most.
        init: one of `INITS`.
        seed: of `random`.
    """
    distinct = np.unique(values)
    if len(distinct) <= k:
        return distinct, np.searchsorted(distinct, values)
    ordered = np.sort(values)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    centroids, borders = _start(ordered, distinct, k, init, seed), np.array([-1])
    for _ in range(MOST_STEPS):
        now = np.searchsorted(ordered, _middles(centroids), side="right")
        if np.array_equal(now, borders):
            break
        borders = now
        at = np.concatenate(([0], borders, [len(ordered)]))
        counts = np.diff(at)
        means = np.diff(sums[at]) / np.maximum(counts, 1)
        centroids = np.where(counts, means, centroids)  # one without members waits where it is
    return _members_alone(values, np.searchsorted(_middles(centroids), values, side="left"))


def _middles(centroids: np.ndarray) -> np.ndarray:
    return (centroids[1:] + centroids[:-1]) / 2


def _start(ordered: np.ndarray, distinct: np.ndarray, k: int, init: str, seed: int) -> np.ndarray:
    if init == "linear":
        return np.linspace(ordered[0], ordered[-1], k)
    if init == "density":
        return np.quantile(ordered, (np.arange(k) + 0.5) / k)
    return np.sort(np.random.default_rng(seed).choice(distinct, k, replace=False))


def _members_alone(values: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and numbers of clusters that have members."""
    _, numbers = np.unique(numbers, return_inverse=True)
    return np.bincount(numbers, weights=values) / np.bincount(numbers), numbers
