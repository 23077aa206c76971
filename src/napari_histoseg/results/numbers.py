"""Numbers behind `Clusters`: groups of a few heavy points, the likeliest classes, box plots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ward(centers: NDArray[np.float64], weights: Sequence[int], k: int) -> list[list[int]]:
    """The rows of ``centers`` (n, d) in k groups: the two whose union adds least to the variance become one (Ward, JASA 58, 1963)."""
    groups = [[row] for row in range(len(centers))]
    middles, mass = centers.copy(), np.array(weights, np.float64)
    while len(groups) > k:
        squares = ((middles[:, None] - middles[None]) ** 2).sum(axis=2)
        cost = squares * (mass[:, None] * mass[None]) / (mass[:, None] + mass[None])
        cost[np.tril_indices(len(groups))] = np.inf
        one, two = (int(i) for i in np.unravel_index(cost.argmin(), cost.shape))
        middles[one] = (mass[one] * middles[one] + mass[two] * middles[two]) / (mass[one] + mass[two])
        mass[one] += mass[two]
        groups[one] += groups.pop(two)
        middles, mass = np.delete(middles, two, axis=0), np.delete(mass, two)
    return groups


def most_likely(weights: NDArray[np.float64], offsets: NDArray[np.float64], space: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Position of the likeliest class of each row, and its probability, from the weights ``(k, d)`` of a logistic regression (k = 1 for two)."""
    scores = weights.astype(np.float32) @ space.T + offsets.astype(np.float32)[:, None]
    if len(scores) == 1:
        scores = np.concatenate([np.zeros_like(scores), scores])
    scores -= scores.max(axis=0)
    return scores.argmax(axis=0), (1 / np.exp(scores).sum(axis=0)).astype(np.float32)


def five(values: NDArray[np.float64]) -> list[float]:
    """Low, quartiles, high and count of the finite values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return [np.nan] * 5 + [0]
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    reach = 1.5 * (q3 - q1)
    low, high = values[values >= q1 - reach].min(), values[values <= q3 + reach].max()
    return [float(low), float(q1), float(median), float(q3), float(high), len(values)]
