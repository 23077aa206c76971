"""Where the classes of nuclei start: k-means on coarse pixels, the same whichever side of a nucleus is up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 4096
"""Nuclei that the centers are found on."""
SIDE = 10
"""Coarse pixels a side."""


class Start:
    """Centers of K classes of nuclei; by them the class head starts, so that seeds start alike.

    Parameters
    ----------
    crops : (n, 40, 40, 3) uint8
        An array, or what is indexed like one by ascending positions.
    classes : int
        K.
    seed : int
    """

    def __init__(self, crops: Any, classes: int, seed: int = 0) -> None:
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]

        kept = np.sort(np.random.default_rng(seed).permutation(len(crops))[:MOST])
        rows = coarse(np.asarray(crops[kept]))
        found = KMeans(min(classes, len(rows)), n_init=4, random_state=seed).fit(rows)
        # From light to dark, so that the classes of two trainings have the same numbers.
        self.centers: NDArray[np.float32] = found.cluster_centers_[np.argsort(-found.cluster_centers_.mean(1))].astype(np.float32)

    def classes_of(self, crops: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The nearest center's number (n,) of each crop."""
        rows = coarse(crops)
        distance = (self.centers**2).sum(1) - 2 * rows @ self.centers.T
        return np.asarray(distance.argmin(1), np.int64)


def coarse(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Coarse pixels (n, 300) of crops (n, 40, 40, 3), averaged over the eight quarter turns and mirror images."""
    n, size = len(crops), crops.shape[1] // SIDE
    small = crops.reshape(n, SIDE, size, SIDE, size, 3).mean((2, 4), dtype=np.float32)
    turned = [np.rot90(small, quarter, (1, 2)) for quarter in range(4)]
    mean = sum(side + side[:, :, ::-1] for side in turned) / 8
    return np.asarray(mean, np.float32).reshape(n, -1)
