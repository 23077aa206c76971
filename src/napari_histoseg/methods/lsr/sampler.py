"""Groups of blocks with one coarse label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Groups:
    """Draws groups of blocks; each label is as likely as any other, however rare its blocks are.

    Parameters
    ----------
    coarse : sequence of int
        Label of each block.
    """

    def __init__(self, coarse: Sequence[int] | NDArray[np.int64]) -> None:
        labels = np.asarray(coarse)
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def draw(self, rng: np.random.Generator, groups: int, size: int) -> NDArray[np.int64]:
        """Indices of the blocks (groups × size) of a step, group after group.

        Groups have different labels as long as there are enough of them. A group has no block twice as long as its label has
        enough; else each of its blocks as often as any other, but for the rest of the division.
        """
        chosen = [int(i) for i in rng.permutation(len(self._members))]
        while len(chosen) < groups:
            chosen += [int(i) for i in rng.permutation(len(self._members))]
        return np.concatenate([_some(rng, self._members[i], size) for i in chosen[:groups]])


def _some(rng: np.random.Generator, members: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    rounds = -(-size // len(members))
    return np.asarray(np.concatenate([rng.permutation(members) for _ in range(rounds)])[:size], np.int64)
